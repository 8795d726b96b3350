"""`python -m bench.figures`: what the fraud worker reaches on a log, on its evasion, and on simulated abuse that it was
not taught; one JSON line a figure, each with its target and whether it is reached.

Trains as `fraud-worker train` does, in memory, on the rows before a moment and judges the rows after it; features count
earlier events only, so rows of one log can be parted afterwards. Nothing here chooses a parameter of training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import typer

from fraud_worker import evaluation, simulator
from fraud_worker.event_log import COLUMNS, EventLogError, JudgedRows, judged_rows, read_log
from fraud_worker.fitting import Fitted, TrainingError, fit
from fraud_worker.training import LABEL_DELAY_HOURS, mature

AUC_OF_A_LEAK: Final = 0.70
"""Nobody ranks the shop log better without looking at what comes later."""

PARTS: Final = ("ranking", "burst", "evasion", "calibration", "simulated", "families")

_LABEL_DELAY: Final = timedelta(hours=LABEL_DELAY_HOURS)
_TRAIN_SHARE: Final = 0.8
_FPR: Final = 0.01

Mask = npt.NDArray[np.bool_]
Names = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value, what it should be, and what else was seen."""

    name: str
    value: float | None
    target: str
    reached: bool
    beside: Mapping[str, Any]

    def line(self) -> str:
        """One line of JSON."""
        content = {"figure": self.name, "value": self.value, "target": self.target, "reached": self.reached}
        return json.dumps(_rounded(content | dict(self.beside)))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    return {key: _rounded(part) for key, part in value.items()} if isinstance(value, dict) else value


def _at_least(name: str, value: float, least: float, /, **beside: Any) -> Figure:
    return Figure(name=name, value=value, target=f">= {least}", reached=value >= least, beside=beside)


# --- parting a log in time ---------------------------------------------------------------------------------------


def _before(judged: JudgedRows, moment: datetime) -> JudgedRows:
    """What a training at `moment` would have had."""
    earlier = judged.where((judged.events["event_time"] < moment).to_numpy())
    return mature(earlier, end=moment, label_delay=_LABEL_DELAY)


def _cut(judged: JudgedRows, share: float) -> datetime:
    moment = judged.events["event_time"][int(share * len(judged))]
    assert isinstance(moment, datetime)
    return moment


def _from(judged: JudgedRows, moment: datetime) -> JudgedRows:
    return judged.where((judged.events["event_time"] >= moment).to_numpy())


# --- the shop log ------------------------------------------------------------------------------------------------


def ranking(judged: JudgedRows, seeds: Sequence[int]) -> Iterator[Figure]:
    """The last fifth of the labels in time, by models of the rows before it: mean over `seeds`."""
    moment = _cut(judged, _TRAIN_SHARE)
    known, later = _before(judged, moment), _from(judged, moment)
    scores = [fit(known, seed).score(later.features) for seed in seeds]
    aucs = [_auc(later, found) for found in scores]
    recalls = [evaluation.recall_at(_FPR, later.labels, found) for found in scores]
    beside = {
        "train_until": moment.isoformat(),
        "rows": len(later),
        "positives": int(later.labels.sum()),
        "seeds": len(seeds),
    }
    auc = float(np.mean(aucs))
    yield Figure(
        name="ranking_auc",
        value=auc,
        target=f">= 0.53, and <= {AUC_OF_A_LEAK} (above is a leak)",
        reached=0.53 <= auc <= AUC_OF_A_LEAK,
        beside=beside
        | {"leak": auc > AUC_OF_A_LEAK, "spread": float(np.std(aucs)), "best_single_count": _single(later)},
    )
    yield _at_least(
        "ranking_recall_at_1pct_fpr", float(np.mean(recalls)), 0.07, spread=float(np.std(recalls)), **beside
    )


def calibration_later(judged: JudgedRows, seeds: Sequence[int]) -> Iterator[Figure]:
    """Calibration on the last fifth of the labels: mean over `seeds`."""
    moment = _cut(judged, _TRAIN_SHARE)
    known, later = _before(judged, moment), _from(judged, moment)
    yield from _calibration("calibration_", later, [fit(known, seed).score(later.features) for seed in seeds])


def _calibration(prefix: str, later: JudgedRows, scores: Sequence[npt.NDArray[np.float64]]) -> Iterator[Figure]:
    accounts = later.events["account_id"]
    found = [evaluation.metrics(later.labels, one, accounts) for one in scores]
    ece, skill, slope = (
        float(np.mean([np.nan if one[name] is None else one[name] for one in found]))
        for name in ("ece", "brier_skill", "calibration_slope")
    )
    yield Figure(name=f"{prefix}ece", value=ece, target="<= 0.02", reached=ece <= 0.02, beside={})
    yield Figure(name=f"{prefix}brier_skill", value=skill, target="> 0", reached=skill > 0, beside={})
    yield Figure(name=f"{prefix}slope", value=slope, target="0.8 to 1.2", reached=0.8 <= slope <= 1.2, beside={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """The days of a burst: training ends at `known_until` (exclusive), judging at `until` (exclusive)."""

    known_until: datetime
    until: datetime

    def judged(self, rows: JudgedRows) -> JudgedRows:
        """The rows to judge."""
        return rows.where(rows.events["event_time"].is_between(self.known_until, self.until, closed="left").to_numpy())


def burst_figures(
    log: pl.DataFrame, judged: JudgedRows, burst: Burst, seeds: Sequence[int], evaded: JudgedRows | None
) -> Iterator[Figure]:
    """What models of the burst's first days catch of the rest; and, with `evaded`, of the same abuse in disguise."""
    known, later = _before(judged, burst.known_until), burst.judged(judged)
    ring = (later.labels == 1) & np.isin(later.events["row"].to_numpy(), _later_accounts_of_devices(log))
    disguised = None if evaded is None else burst.judged(evaded).where(burst.judged(evaded).labels == 1)
    clean, ringed, hidden = [], [], []
    for seed in seeds:
        fitted = fit(known, seed)
        scores = fitted.score(later.features)
        threshold = evaluation.threshold_at(_FPR, later.labels, scores)
        clean.append(float((scores[later.labels == 1] >= threshold).mean()))
        ringed.append(float((scores[ring] >= threshold).mean()))
        if disguised is not None:
            hidden.append(float((fitted.score(disguised.features) >= threshold).mean()))
    beside = {
        "train_until": burst.known_until.isoformat(),
        "judge_until": burst.until.isoformat(),
        "trained": len(known),
        "rows": len(later),
        "positives": int(later.labels.sum()),
        "seeds": len(seeds),
    }
    if evaded is None:
        yield _at_least("burst_ring_recall", float(np.mean(ringed)), 0.98, ring_rows=int(ring.sum()), **beside)
        yield _at_least("burst_clean_recall", float(np.mean(clean)), 0.85, **beside)
    else:
        yield _at_least(
            "evasion_recall",
            float(np.mean(hidden)),
            0.60,
            clean_recall=float(np.mean(clean)),
            lowest=min(hidden),
            **beside,
        )


def _later_accounts_of_devices(log: pl.DataFrame) -> npt.NDArray[np.int64]:
    """The rows whose account was not the first on its device."""
    seen = log.filter(pl.col("device_id").is_not_null()).sort("event_time", maintain_order=True)
    firsts = seen.group_by("device_id").agg(first=pl.col("account_id").first())
    return seen.join(firsts, on="device_id").filter(pl.col("account_id") != pl.col("first"))["row"].to_numpy()


def evade(log: pl.DataFrame, burst: Burst, seed: int) -> pl.DataFrame:
    """`log` as if each account of abuse judged in `burst` had a fresh device and had signed up long before.

    Each of its ACTIVATE events lies before its first judged request by a gap that honest accounts of the log had
    between the two, drawn by `seed`; the requests stay where they were.
    """
    asked = (
        log.filter(pl.col("label").is_not_null())
        .group_by("account_id")
        .agg(asked=pl.col("event_time").min(), abuse=pl.col("label").max())
    )
    signed_up = (
        log.filter(pl.col("event_kind") == "ACTIVATE").group_by("account_id").agg(signed_up=pl.col("event_time").min())
    )
    accounts = (
        asked.join(signed_up, on="account_id")
        .with_columns(gap=pl.col("asked") - pl.col("signed_up"))
        .sort("account_id")
    )
    gaps = accounts.filter(~pl.col("abuse") & (pl.col("gap") >= timedelta()))["gap"].to_physical().to_numpy()
    judged = pl.col("asked").is_between(burst.known_until, burst.until, closed="left")
    evading = asked.filter(judged & pl.col("abuse")).sort("account_id")
    drawn = np.random.default_rng(seed).choice(gaps, evading.height)
    evading = evading.select(
        "account_id",
        new_sign_up=pl.col("asked") - pl.Series(drawn).cast(pl.Duration("us")),
        new_device="fresh-" + pl.col("account_id"),
    )
    moved = (pl.col("event_kind") == "ACTIVATE") & pl.col("new_sign_up").is_not_null()
    return (
        log.join(evading, on="account_id", how="left", maintain_order="left")
        .with_columns(
            event_time=pl.when(moved).then("new_sign_up").otherwise("event_time"),
            device_id=pl.coalesce("new_device", "device_id"),
        )
        .select(COLUMNS)
    )


# --- the simulator -----------------------------------------------------------------------------------------------


def simulated(judged: JudgedRows, names: Names, seed: int) -> Iterator[Figure]:
    """The last three tenths of the simulated labels, which the model has not seen.

    `names`: of each row, the habit or the family that made it.
    """
    moment = _cut(judged, 0.7)
    later = _from(judged, moment)
    made_by = names[(judged.events["event_time"] >= moment).to_numpy()]
    scores = fit(_before(judged, moment), seed).score(later.features)
    recall = evaluation.recall_at(_FPR, later.labels, scores)
    beside = {"rows": len(later), "positives": int(later.labels.sum())}
    reached = scores >= evaluation.threshold_at(_FPR, later.labels, scores)
    single = _single(later)
    yield _at_least(
        "simulated_auc",
        _auc(later, scores),
        0.95,
        recall_at_1pct_fpr=recall,
        recall_by_family=_share_by_name(reached, made_by, later.labels == 1),
        **beside,
    )
    if single is not None:
        yield Figure(
            name="simulated_best_single_count",
            value=single["auc"],
            target="<= 0.85",
            reached=single["auc"] <= 0.85,
            beside={"feature": single["feature"]},
        )
    shares = _share_by_name(reached, made_by, later.labels == 0)
    yield Figure(
        name="simulated_worst_honest_habit",
        value=max(shares.values()),
        target=f"< 0.1 of a habit's requests reach what {_FPR:.0%} of all honest ones do",
        reached=max(shares.values()) < 0.1,
        beside={"shares": shares},
    )
    yield from _calibration("simulated_calibration_", later, [scores])


def _share_by_name(reached: Mask, names: Names, of: Mask) -> dict[str, float]:
    """Of each name's rows among `of`, the share that is `reached`."""
    return {name: float(reached[of & (names == name)].mean()) for name in sorted(set(names[of]))}


def families(judged: JudgedRows, names: Names, seed: int) -> Iterator[Figure]:
    """Each family of abuse, judged by a model that trained on none of it.

    All of its rows are judged, at the threshold that 1 % of the honest of unseen time reach.
    """
    moment = _cut(judged, 0.7)
    later = _from(judged, moment)
    honest = later.where(later.labels == 0)
    recalls = {}
    for family in sorted(set(names[judged.labels == 1])):
        fitted = fit(_before(judged.where(names != family), moment), seed)
        held_out = judged.where((names == family) & (judged.labels == 1))
        recalls[family] = _recall_of(fitted, held_out, honest)
        yield Figure(
            name=f"held_out_{family}_recall",
            value=recalls[family],
            target="reported",
            reached=True,
            beside={"rows": len(held_out)},
        )
    yield _at_least("held_out_mean_recall", float(np.mean(list(recalls.values()))), 0.60, families=len(recalls))


def _recall_of(fitted: Fitted, abuse: JudgedRows, honest: JudgedRows) -> float:
    scores = np.concatenate([fitted.score(abuse.features), fitted.score(honest.features)])
    labels = np.repeat(np.array([1, 0], dtype=np.int8), [len(abuse), len(honest)])
    return evaluation.recall_at(_FPR, labels, scores)


def _auc(judged: JudgedRows, scores: npt.NDArray[np.float64]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(judged.labels, scores))


def _single(judged: JudgedRows) -> dict[str, Any] | None:
    return evaluation.best_single_count(judged)


# --- the command -------------------------------------------------------------------------------------------------


def main(
    events: Annotated[Path | None, typer.Option(help="A log with a burst in its first days.", metavar="LOG")] = None,
    simulate: Annotated[bool, typer.Option("--simulated", help="Judge a simulated log, too.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds a mean is of.")] = 5,
    known_days: Annotated[int, typer.Option(min=1, help="Days, from the log's first, that train on the burst.")] = 7,
    burst_days: Annotated[int, typer.Option(min=2, help="Days, from the log's first, until which it is judged.")] = 59,
    simulator_seed: Annotated[int, typer.Option(min=0)] = 11,
    accounts: Annotated[int, typer.Option(min=1, help="Of the simulation.")] = 50_000,
    days: Annotated[int, typer.Option(min=1, help="Of the simulation.")] = 45,
) -> None:
    """Print the figures; exit with 1 where one is not reached."""
    wanted = set(only or PARTS)
    if not wanted <= set(PARTS) or (events is None and not simulate):
        raise typer.BadParameter(f"give --events or --simulated; --only is one of {', '.join(PARTS)}")
    try:
        found = list(_shown(_of_log(events, wanted, range(seeds), known_days, burst_days))) if events else []
        if simulate:
            found += _shown(_of_simulation(wanted, simulator_seed, accounts, days))
    except (EventLogError, TrainingError) as error:
        typer.echo(f"figures: {error}", err=True)
        raise typer.Exit(2) from error
    raise typer.Exit(0 if all(figure.reached for figure in found) else 1)


def _shown(figures: Iterator[Figure]) -> Iterator[Figure]:
    for figure in figures:
        typer.echo(figure.line())
        yield figure


def _of_log(path: Path, wanted: set[str], seeds: Sequence[int], known_days: int, burst_days: int) -> Iterator[Figure]:
    judged = judged_rows([path])
    log = read_log(path)
    first = log["event_time"].min()
    assert isinstance(first, datetime)
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
    burst = Burst(known_until=midnight + timedelta(days=known_days), until=midnight + timedelta(days=burst_days))
    parts: dict[str, Callable[[], Iterator[Figure]]] = {
        "ranking": lambda: ranking(judged, seeds),
        "burst": lambda: burst_figures(log, judged, burst, seeds, None),
        "evasion": lambda: burst_figures(log, judged, burst, seeds, _evaded(log, burst)),
        "calibration": lambda: calibration_later(judged, seeds),
    }
    for name, figures in parts.items():
        if name in wanted:
            yield from figures()


def _evaded(log: pl.DataFrame, burst: Burst) -> JudgedRows:
    with TemporaryDirectory(prefix="figures-") as folder:
        path = Path(folder) / "evaded.parquet"
        evade(log, burst, seed=0).write_parquet(path)
        return judged_rows([path])


def _of_simulation(wanted: set[str], seed: int, accounts: int, days: int) -> Iterator[Figure]:
    with TemporaryDirectory(prefix="figures-") as folder:
        path = Path(folder) / "simulated.parquet"
        simulator.write_log(path, simulator.simulate(seed=seed, accounts=accounts, days=days))
        judged = judged_rows([path])
        names = pl.read_parquet(path)["family"].gather(judged.events["row"]).to_numpy()
    if "simulated" in wanted:
        yield from simulated(judged, names, seed=0)
    if "families" in wanted:
        yield from families(judged, names, seed=0)


if __name__ == "__main__":
    typer.run(main)
