"""The command line: `fraud-worker` and what it is told to do.

Knows flags and what to print; must not know how any of it is done. Commands import what they need, so that training and
simulating never load gRPC, and Postgres starts before it.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from process.addresses import PORT_MAX, is_address, is_loopback

if TYPE_CHECKING:
    from fraud_worker.scorer import Manifest

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split("\n")[0]
)

DEFAULT_MODEL = Path(__file__).parent / "model"
"""The model that is shipped; `default-model` makes it."""

_DAYS_MAX = 3_650
_HOURS_MAX = 24 * _DAYS_MAX
_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"]

Events = Annotated[
    list[Path], typer.Option("--events", help="Event log, CSV (.gz) or Parquet; may be repeated.", metavar="LOG")
]
ModelFolder = Annotated[Path, typer.Option("--model", help="Model folder.", metavar="MODEL_DIR")]


@app.command()
def train(
    events: Events,
    out: Annotated[Path, typer.Option("--out", help="Where the model folder is written.", metavar="MODEL_DIR")],
    label_delay_hours: Annotated[
        float, typer.Option(min=0, max=_HOURS_MAX, help="Only events older than this train.")
    ] = 24.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    costs: Annotated[
        Path | None,
        typer.Option(
            help="What mistakes cost, JSON: approve_abuse, review_any, reject_honest; the thresholds follow from it.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Train a model on the labelled events of one or more logs."""
    from fraud_worker.event_log import EventLogError
    from fraud_worker.thresholds import CostsError, read_costs
    from fraud_worker.training import TrainingError
    from fraud_worker.training import train as trained

    try:
        table = None if costs is None else read_costs(costs)
        manifest = trained(events, out, label_delay_hours=label_delay_hours, seed=seed, costs=table)
    except (CostsError, EventLogError, TrainingError) as error:
        raise _stopped(error) from error
    typer.echo(_trained(manifest, out))


@app.command("train-conversion")
def train_conversion(
    events: Events,
    out: Annotated[Path, typer.Option("--out", help="Where the model folder is written.", metavar="MODEL_DIR")],
    mature_days: Annotated[
        float,
        typer.Option(min=0, max=_DAYS_MAX, help="Who has not paid again so long after a recycle has not converted."),
    ] = 90.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
) -> None:
    """Train a model of whether owners pay again, on the recycles of one or more logs that are old enough to tell."""
    from fraud_worker.conversion_training import train as trained
    from fraud_worker.event_log import EventLogError
    from fraud_worker.fitting import TrainingError

    try:
        manifest = trained(events, out, mature=timedelta(days=mature_days), seed=seed)
    except (EventLogError, TrainingError) as error:
        raise _stopped(error) from error
    figures = manifest.metrics
    typer.echo(
        f"conversion model {manifest.version} in {out}: {manifest.trees} trees, AUC {figures['auc']:.4f} on rows they"
        f" had not seen ({figures['cells_auc']:.4f} by segment and disposition alone), ECE {figures['ece']:.4f}"
    )


@app.command()
def evaluate(
    events: Events,
    model: ModelFolder = DEFAULT_MODEL,
    history: Annotated[
        list[Path] | None,
        typer.Option("--history", help="Log that only warms the counters; may be repeated.", metavar="LOG"),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Write row (its number in LOG, from 0), event_time, account_id, device_id, label, score as CSV.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Judge the labelled events of a log with a model, each as of its own moment.

    A column `weight` counts: a request of weight 200 is judged as 200 like it. `auc_ci95` is null below five accounts
    of either kind.
    """
    from fraud_worker import evaluation
    from fraud_worker.event_log import EventLogError, judged_rows
    from fraud_worker.scorer import Model, ModelRefused

    if scores is not None and (scores.is_dir() or not scores.absolute().parent.is_dir()):
        raise _stopped(f"--scores {scores}: must be a file in a folder that is there")
    try:
        loaded = Model.load(model)
        judged = judged_rows(events, history or ())
    except (EventLogError, ModelRefused) as error:
        raise _stopped(error) from error
    probabilities = loaded.score(judged.features)
    if scores is not None:
        evaluation.write_scores(scores, judged, probabilities)
    figures = evaluation.report(judged, probabilities)
    if json_output:
        typer.echo(json.dumps(figures))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", title=f"model {loaded.version}")
    for name, value in figures.items():
        table.add_row(name, json.dumps(value))
    Console().print(table)


@app.command()
def explain(
    events: Annotated[Path, typer.Option("--events", help="Event log that holds the row.", metavar="LOG")],
    row: Annotated[int, typer.Option("--row", help="The event's number in LOG, from 0.", metavar="N")],
    model: ModelFolder = DEFAULT_MODEL,
    history: Annotated[
        list[Path] | None,
        typer.Option("--history", help="Log that only warms the counters; may be repeated.", metavar="LOG"),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how a model scores one event of a log, as of the event's own moment, feature by feature."""
    import msgspec

    from fraud_worker import explanation
    from fraud_worker.event_log import EventLogError, row_to_judge
    from fraud_worker.scorer import Model, ModelRefused, check_rows

    try:
        loaded = Model.load(model)
        event, features = row_to_judge(events, row, history or ())
    except (EventLogError, ModelRefused) as error:
        raise _stopped(error) from error
    check_rows(features)
    (explained,) = explanation.explain(loaded, features)
    if json_output:
        typer.echo(msgspec.json.encode(explained).decode())
        return
    from rich.console import Console

    from fraud_worker.explanation_table import lines

    title = f"row {row}: {event['event_kind']} of {event['account_id']} at {event['event_time']:%Y-%m-%d %H:%M:%S} UTC"
    Console().print(*lines(explained, loaded.manifest.thresholds, title), sep="\n")


@app.command()
def export(
    database_url: Annotated[
        str, typer.Option(metavar="URL", envvar="DATABASE_URL", help="The live database; reading is enough.")
    ],
    out: Annotated[Path, typer.Option(help="Event log to write: .parquet, .csv or .csv.gz.", metavar="LOG")],
    from_time: Annotated[
        datetime | None, typer.Option("--from", formats=_TIMES, help="The first moment, UTC.", metavar="TIME")
    ] = None,
    to_time: Annotated[
        datetime | None, typer.Option("--to", formats=_TIMES, help="Until when, UTC, exclusive.", metavar="TIME")
    ] = None,
    mature_days: Annotated[
        float,
        typer.Option(min=0, max=_DAYS_MAX, help="After so many days of silence an approved request counts as honest."),
    ] = 30.0,
    conversion_mature_days: Annotated[
        float,
        typer.Option(min=0, max=_DAYS_MAX, help="Who has not paid again so long after a recycle has not converted."),
    ] = 90.0,
) -> None:
    """Export a live database's risk events as an event log, with what became of the requests."""
    from fraud_worker import export as exporting

    try:
        count = exporting.export(
            database_url,
            out,
            from_time=from_time and from_time.replace(tzinfo=UTC),
            to_time=to_time and to_time.replace(tzinfo=UTC),
            mature=timedelta(days=mature_days),
            conversion_mature=timedelta(days=conversion_mature_days),
        )
    except exporting.ExportError as error:
        raise _stopped(error) from error
    typer.echo(f"{count} events in {out}")


@app.command()
def serve(
    model: ModelFolder = DEFAULT_MODEL,
    challenger: Annotated[
        list[Path] | None,
        typer.Option("--challenger", help="Folder of a model that scores in shadow; repeatable.", metavar="MODEL_DIR"),
    ] = None,
    challenger_share: Annotated[
        float, typer.Option(min=0, max=1, help="The share of batches that challengers score.")
    ] = 1.0,
    conversion: Annotated[
        Path | None,
        typer.Option(help="Folder of a model of whether owners pay again; none by default.", metavar="MODEL_DIR"),
    ] = None,
    await_model: Annotated[
        bool, typer.Option("--await-model", help="Start without a good model, and wait for one in MODEL_DIR.")
    ] = False,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT; port 0 takes a free one.", metavar="HOST:PORT")
    ] = "127.0.0.1:50052",
    metrics_listen: Annotated[
        str,
        typer.Option(help="HOST:PORT at which Prometheus may read metrics; nowhere by default.", metavar="HOST:PORT"),
    ] = "",
    insecure_plaintext: Annotated[
        bool, typer.Option("--insecure-plaintext", help="Allow plaintext outside loopback (inside a container).")
    ] = False,
    reflection: Annotated[bool, typer.Option(help="Offer server reflection.")] = False,
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], typer.Option(help="Least severity logged.")
    ] = "INFO",
) -> None:
    """Serve a model over gRPC until SIGTERM or SIGINT, then finish what was begun.

    Another good model in MODEL_DIR takes the place of the one in use within seconds, on SIGHUP at once; a bad one is
    refused and logged, and the one in use goes on.
    """
    _check_addresses(listen, metrics_listen, insecure_plaintext=insecure_plaintext)
    from fraud_worker import lean

    lean.leave_out_front_ends()
    from fraud_worker.models import ModelShelf
    from fraud_worker.scorer import ModelRefused
    from fraud_worker.serving import ListenError, Settings, run

    settings = Settings(
        listen=listen,
        challenger_share=challenger_share,
        await_model=await_model,
        reflection=reflection,
        metrics_listen=metrics_listen,
        log_level=log_level,
    )
    try:
        run(ModelShelf(model, challenger or (), conversion=conversion), settings)
    except (ListenError, ModelRefused) as error:
        raise _stopped(error) from error


def _check_addresses(listen: str, metrics_listen: str, *, insecure_plaintext: bool) -> None:
    """Stops with a sentence where something cannot be listened on, or must not be."""
    for option, address, any_port in (("--listen", listen, True), ("--metrics-listen", metrics_listen, False)):
        if option == "--metrics-listen" and not address:
            continue
        if not insecure_plaintext and not is_loopback(address):
            why = f"{option} {address}: without TLS only a loopback address may be listened on, unless"
            raise _stopped(f"{why} --insecure-plaintext is given", code=2)
        if not is_address(address, any_port=any_port):
            ports = f"the port from {0 if any_port else 1} to {PORT_MAX}"
            raise _stopped(f"{option} {address}: must be HOST:PORT, {ports}", code=2)


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="Event log to write: .csv, .csv.gz or .parquet.", metavar="LOG")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    accounts: Annotated[
        int | None, typer.Option(min=1, help="About how many accounts appear; 40000 by default.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=_DAYS_MAX, help="With --events: about how many.")] = 45,
    events: Annotated[
        int | None, typer.Option(min=1, help="So many events, instead of --accounts.", metavar="N")
    ] = None,
    start: Annotated[datetime | None, typer.Option(help="The first day, UTC.", formats=["%Y-%m-%d"])] = None,
) -> None:
    """Simulate a population of owners and abusers, and write its event log."""
    from fraud_worker import simulator
    from fraud_worker.log_reading import SUFFIXES, TIME_MAX, TIME_MIN

    if not out.name.endswith(SUFFIXES):
        raise _stopped(f"--out {out}: a log ends in {', '.join(SUFFIXES)}", code=2)
    if start is not None and not TIME_MIN <= start.replace(tzinfo=UTC) < TIME_MAX - timedelta(days=_DAYS_MAX):
        raise _stopped(f"--start {start:%Y-%m-%d}: no log may begin then", code=2)
    if accounts is not None and events is not None:
        raise _stopped("--accounts and --events: give one of them", code=2)
    first = simulator.DEFAULT_START if start is None else start.replace(tzinfo=UTC)
    if events is None:
        population = simulator.simulate(seed=seed, accounts=accounts or 40_000, days=days, start=first)
    else:
        population = simulator.simulate_events(seed=seed, events=events, days=days, start=first)
    # Looking for cycles among millions of small tuples, of which there are none, takes a fifth of the time.
    gc.disable()
    count = simulator.write_log(out, population)
    typer.echo(f"{count} events in {out}")


@app.command()
def features() -> None:
    """Print the registry of features as a page of Markdown (docs/features.md)."""
    from fraud_worker.registry import as_markdown

    typer.echo(as_markdown(), nl=False)


@app.command("default-model")
def default_model(
    out: Annotated[
        Path, typer.Option("--out", help="Where the model folder is written.", metavar="MODEL_DIR")
    ] = DEFAULT_MODEL,
) -> None:
    """Simulate the population of the shipped model and train that model anew: the same trees on the same libraries."""
    from fraud_worker import simulator
    from fraud_worker.training import train as trained

    with tempfile.TemporaryDirectory(prefix="fraud-worker-") as folder:
        log = Path(folder) / "simulated.parquet"
        simulator.write_log(log, simulator.default_world())
        manifest = trained([log], out, command="fraud-worker default-model")
    typer.echo(_trained(manifest, out))


def _trained(manifest: Manifest, out: Path) -> str:
    figures = f"{manifest.trees} trees, AUC {manifest.metrics['auc']:.4f} on rows they had not seen"
    return f"model {manifest.version} in {out}: {figures}"


def _stopped(why: object, code: int = 1) -> typer.Exit:
    # One line, whatever a library has to say.
    typer.echo(f"fraud-worker: {' '.join(str(why).split())}", err=True)
    return typer.Exit(code)


def main() -> None:
    """The entry point of the `fraud-worker` script: what the disk or the system refuses ends it with one line."""
    try:
        app()
    except OSError as error:
        sys.exit(_stopped(f"{type(error).__name__}: {error}").exit_code)


if __name__ == "__main__":
    main()
