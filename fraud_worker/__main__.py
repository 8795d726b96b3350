"""The command line: `fraud-worker train | evaluate | serve | simulate | features | default-model`.

Knows flags and what to print; must not know how any of it is done. Commands import what they need, so that training and
simulating never load gRPC, and Postgres starts before it.
"""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from process.addresses import is_loopback

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split("\n")[0]
)

DEFAULT_MODEL = Path(__file__).parent / "model"
"""The model that is shipped; `default-model` makes it."""

Events = Annotated[
    list[Path], typer.Option("--events", help="Event log, CSV (.gz) or Parquet; may be repeated.", metavar="LOG")
]
ModelFolder = Annotated[Path, typer.Option("--model", help="Model folder.", metavar="MODEL_DIR")]


@app.command()
def train(
    events: Events,
    out: Annotated[Path, typer.Option("--out", help="Where the model folder is written.", metavar="MODEL_DIR")],
    label_delay_hours: Annotated[float, typer.Option(min=0, help="Only events older than this train.")] = 24.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
) -> None:
    """Train a model on the labelled events of one or more logs."""
    from fraud_worker.event_log import EventLogError
    from fraud_worker.training import TrainingError
    from fraud_worker.training import train as trained

    try:
        manifest = trained(events, out, label_delay_hours=label_delay_hours, seed=seed)
    except (EventLogError, TrainingError) as error:
        raise _stopped(error) from error
    typer.echo(
        f"model {manifest.model_sha256[:12]} in {out}: {manifest.trees} trees, AUC {manifest.metrics['auc']:.4f}"
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
    """Judge the labelled events of a log with a model, each as of its own moment."""
    from fraud_worker import evaluation
    from fraud_worker.event_log import EventLogError, judged_rows
    from fraud_worker.scorer import Model, ModelRefused

    try:
        loaded = Model.load(model)
        judged = judged_rows(events, history or ())
    except (EventLogError, ModelRefused) as error:
        raise _stopped(error) from error
    probabilities = loaded.score(judged.features)
    if scores is not None:
        evaluation.write_scores(scores, judged, probabilities)
    figures = evaluation.metrics(judged.labels, probabilities, judged.events["account_id"])
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
def serve(
    model: ModelFolder = DEFAULT_MODEL,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT; port 0 takes a free one.", metavar="HOST:PORT")
    ] = "127.0.0.1:50052",
    insecure_plaintext: Annotated[
        bool, typer.Option("--insecure-plaintext", help="Allow plaintext outside loopback (inside a container).")
    ] = False,
    reflection: Annotated[bool, typer.Option(help="Offer server reflection.")] = False,
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], typer.Option(help="Least severity logged.")
    ] = "INFO",
) -> None:
    """Serve a model over gRPC until SIGTERM or SIGINT, then finish what was begun."""
    if not insecure_plaintext and not is_loopback(listen):
        why = f"--listen {listen}: without TLS only a loopback address may be listened on, unless --insecure-plaintext"
        raise _stopped(f"{why} is given", code=2)
    from fraud_worker.scorer import Model, ModelRefused

    try:
        loaded = Model.load(model)
    except ModelRefused as error:
        raise _stopped(error) from error
    from fraud_worker.service import ListenError, run

    try:
        run(loaded, listen, reflection=reflection, log_level=log_level)
    except ListenError as error:
        raise _stopped(error) from error


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="Event log to write: .csv, .csv.gz or .parquet.", metavar="LOG")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    accounts: Annotated[int, typer.Option(min=1, help="About how many accounts appear.")] = 40_000,
    days: Annotated[int, typer.Option(min=1)] = 45,
    start: Annotated[datetime | None, typer.Option(help="The first day, UTC.", formats=["%Y-%m-%d"])] = None,
) -> None:
    """Simulate a population of owners and abusers, and write its event log."""
    from fraud_worker import simulator

    first = simulator.DEFAULT_START if start is None else start.replace(tzinfo=UTC)
    count = simulator.write_log(out, simulator.simulate(seed=seed, accounts=accounts, days=days, start=first))
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
    typer.echo(
        f"model {manifest.model_sha256[:12]} in {out}: {manifest.trees} trees, AUC {manifest.metrics['auc']:.4f}"
    )


def _stopped(why: object, code: int = 1) -> typer.Exit:
    typer.echo(f"fraud-worker: {why}", err=True)
    return typer.Exit(code)


def main() -> None:
    """The entry point of the `fraud-worker` script."""
    app()


if __name__ == "__main__":
    main()
