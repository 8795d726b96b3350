"""`python -m bench.figures`: what the fraud worker reaches on a log, on its evasion, and on simulated abuse that it was
not taught; one JSON line a figure, each with its target and whether it is reached.

Trains as `fraud-worker train` does, in memory, on the rows before a moment and judges the rows after it; features count
earlier events only, so rows of one log can be parted afterwards. Nothing here chooses a parameter of training.

Any log will do. What a log cannot tell is null and not measurable, with the reason, and no failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import typer

from bench.evasion import NothingToDisguise, evade, later_accounts_of_devices
from bench.figure import Figure, at_least, not_measurable
from bench.splits import BURST_TIMES, NotMeasurable, Split, first_days, known_before, last_fifth, moment_of, rows_from
from fraud_worker import evaluation, simulator
from fraud_worker.event_log import EventLogError, JudgedRows, judged_rows, read_log
from fraud_worker.fitting import Fitted, TrainingError, fit

AUC_OF_A_LEAK: Final = 0.70
"""Nobody ranks the shop log better without looking at what comes later; nor, where only a burst teaches, another."""

PARTS: Final = ("ranking", "burst", "evasion", "calibration", "simulated", "families")

_FPR: Final = 0.01

_BURST_KNOWN_DAYS: Final = 7
_BURST_DAYS: Final = 59

Mask = npt.NDArray[np.bool_]
Names = npt.NDArray[np.str_]


# --- a log -------------------------------------------------------------------------------------------------------


def ranking(split: Split, leak_above: float | None) -> Iterator[Figure]:
    """How the later labels are ranked: mean over the seeds. An AUC over `leak_above`, if any, is a leak."""
    later = split.later
    aucs = [_auc(later, found) for found in split.scores]
    recalls = [evaluation.recall_at(_FPR, later.labels, found) for found in split.scores]
    auc = float(np.mean(aucs))
    leak = leak_above is not None and auc > leak_above
    yield Figure(
        name="ranking_auc",
        value=auc,
        target=">= 0.53" if leak_above is None else f">= 0.53, and <= {leak_above} (above is a leak)",
        reached=auc >= 0.53 and not leak,
        beside=split.beside
        | {"leak": leak, "spread": float(np.std(aucs)), "best_single_count": evaluation.best_single_count(later)},
    )
    yield at_least(
        "ranking_recall_at_1pct_fpr", float(np.mean(recalls)), 0.07, spread=float(np.std(recalls)), **split.beside
    )


def calibration_later(split: Split) -> Iterator[Figure]:
    """Calibration on the later labels: mean over the seeds."""
    yield from _calibration("calibration_", split.later, split.scores)


_CALIBRATION: Final[Mapping[str, tuple[str, Callable[[float], bool]]]] = {
    "ece": ("<= 0.02", lambda value: value <= 0.02),
    "brier_skill": ("> 0", lambda value: value > 0),
    "slope": ("0.8 to 1.2", lambda value: 0.8 <= value <= 1.2),
}


def _calibration(prefix: str, later: JudgedRows, scores: Sequence[npt.NDArray[np.float64]]) -> Iterator[Figure]:
    accounts = later.events["account_id"]
    found = [evaluation.metrics(later.labels, one, accounts) for one in scores]
    for name, (target, reached) in _CALIBRATION.items():
        values = [one["calibration_slope" if name == "slope" else name] for one in found]
        if None in values:
            # Scores without errors bear any slope.
            yield from not_measurable([prefix + name], "the scores part the labels without error, or do not differ")
        else:
            value = float(np.mean(values))
            yield Figure(name=prefix + name, value=value, target=target, reached=reached(value), beside={})


def burst_figures(log: pl.DataFrame, split: Split) -> Iterator[Figure]:
    """What models of a burst's first days catch of the rest."""
    later = split.later
    ring = (later.labels == 1) & np.isin(later.events["row"].to_numpy(), later_accounts_of_devices(log))
    caught = _caught(split)
    if ring.any():
        ringed = float(np.mean([found[ring].mean() for found in caught]))
        yield at_least("burst_ring_recall", ringed, 0.98, ring_rows=int(ring.sum()), **split.beside)
    else:
        yield from not_measurable(["burst_ring_recall"], "no abuse to judge is of an account that shares a device")
    clean = float(np.mean([found[later.labels == 1].mean() for found in caught]))
    yield at_least("burst_clean_recall", clean, 0.85, **split.beside)


def evasion_figures(split: Split, evaded: JudgedRows) -> Iterator[Figure]:
    """What the same models catch of the same abuse in disguise, at the threshold that the honest set without it."""
    disguised = split.span.judged(evaded)
    disguised = disguised.where(disguised.labels == 1)
    hidden = [
        float((model.score(disguised.features) >= threshold).mean())
        for model, threshold in zip(split.models, _thresholds(split), strict=True)
    ]
    yield at_least(
        "evasion_recall",
        float(np.mean(hidden)),
        0.60,
        clean_recall=float(np.mean([found[split.later.labels == 1].mean() for found in _caught(split)])),
        lowest=min(hidden),
        **split.beside,
    )


def _thresholds(split: Split) -> list[float]:
    return [evaluation.threshold_at(_FPR, split.later.labels, scores) for scores in split.scores]


def _caught(split: Split) -> list[Mask]:
    return [scores >= threshold for scores, threshold in zip(split.scores, _thresholds(split), strict=True)]


# --- the simulator -----------------------------------------------------------------------------------------------


def simulated(judged: JudgedRows, names: Names, seed: int) -> Iterator[Figure]:
    """The last three tenths of the simulated labels, which the model has not seen.

    `names`: of each row, the habit or the family that made it.
    """
    moment = moment_of(judged, 0.7)
    later = rows_from(judged, moment)
    made_by = names[(judged.events["event_time"] >= moment).to_numpy()]
    scores = fit(known_before(judged, moment), seed).score(later.features)
    recall = evaluation.recall_at(_FPR, later.labels, scores)
    beside = {"rows": len(later), "positives": int(later.labels.sum())}
    reached = scores >= evaluation.threshold_at(_FPR, later.labels, scores)
    single = evaluation.best_single_count(later)
    yield at_least(
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
    moment = moment_of(judged, 0.7)
    later = rows_from(judged, moment)
    honest = later.where(later.labels == 0)
    recalls = {}
    for family in sorted(set(names[judged.labels == 1])):
        fitted = fit(known_before(judged.where(names != family), moment), seed)
        held_out = judged.where((names == family) & (judged.labels == 1))
        recalls[family] = _recall_of(fitted, held_out, honest)
        yield Figure(
            name=f"held_out_{family}_recall",
            value=recalls[family],
            target="reported",
            reached=True,
            beside={"rows": len(held_out)},
        )
    yield at_least("held_out_mean_recall", float(np.mean(list(recalls.values()))), 0.60, families=len(recalls))


def _recall_of(fitted: Fitted, abuse: JudgedRows, honest: JudgedRows) -> float:
    scores = np.concatenate([fitted.score(abuse.features), fitted.score(honest.features)])
    labels = np.repeat(np.array([1, 0], dtype=np.int8), [len(abuse), len(honest)])
    return evaluation.recall_at(_FPR, labels, scores)


def _auc(judged: JudgedRows, scores: npt.NDArray[np.float64]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(judged.labels, scores))


# --- the command -------------------------------------------------------------------------------------------------


def main(
    events: Annotated[Path | None, typer.Option(help="A log.", metavar="LOG")] = None,
    simulate: Annotated[bool, typer.Option("--simulated", help="Judge a simulated log, too.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds a mean is of.")] = 5,
    known_days: Annotated[
        int | None, typer.Option(min=1, help="Days, from the log's first, that train on its burst.", show_default="7")
    ] = None,
    burst_days: Annotated[
        int | None, typer.Option(min=2, help="Days, from the log's first, until which it is judged.", show_default="59")
    ] = None,
    simulator_seed: Annotated[int, typer.Option(min=0)] = 11,
    accounts: Annotated[int, typer.Option(min=1, help="Of the simulation.")] = 50_000,
    days: Annotated[int, typer.Option(min=1, help="Of the simulation.")] = 45,
) -> None:
    """Print the figures; exit with 1 where one is measurable and not reached.

    Where neither --known-days nor --burst-days is given and the log's first days are no burst, evasion is judged on the
    last fifth of the labels.
    """
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
    raise typer.Exit(1 if any(figure.reached is False for figure in found) else 0)


def _shown(figures: Iterator[Figure]) -> Iterator[Figure]:
    for figure in figures:
        typer.echo(figure.line())
        yield figure


def _of_log(
    path: Path, wanted: set[str], seeds: Sequence[int], known_days: int | None, burst_days: int | None
) -> Iterator[Figure]:
    judged = judged_rows([path])
    last = last_fifth(judged, seeds)
    first = first_days(judged, known_days or _BURST_KNOWN_DAYS, burst_days or _BURST_DAYS, seeds)
    like_the_shop = first_days(judged, _BURST_KNOWN_DAYS, _BURST_DAYS, seeds).starts_in_a_burst
    leak_above = AUC_OF_A_LEAK if like_the_shop else None
    burst = known_days is not None or burst_days is not None or like_the_shop
    parts: dict[str, tuple[Sequence[str], Callable[[], Iterator[Figure]]]] = {
        "ranking": (
            ("ranking_auc", "ranking_recall_at_1pct_fpr"),
            lambda: ranking(last, leak_above),
        ),
        "burst": (
            ("burst_ring_recall", "burst_clean_recall"),
            lambda: burst_figures(read_log(path), first) if burst else _no_burst(),
        ),
        "evasion": (("evasion_recall",), lambda: _evasion(path, first if burst else last)),
        "calibration": ([f"calibration_{name}" for name in _CALIBRATION], lambda: calibration_later(last)),
    }
    for name, (figures, measured) in parts.items():
        if name in wanted:
            try:
                yield from measured()
            except NotMeasurable as error:
                yield from not_measurable(figures, str(error))


def _no_burst() -> Iterator[Figure]:
    raise NotMeasurable(
        f"in its first {_BURST_KNOWN_DAYS} days, abuse is not {BURST_TIMES} times as common as until day {_BURST_DAYS}"
    )


def _evasion(path: Path, split: Split) -> Iterator[Figure]:
    try:
        evaded = evade(read_log(path), split.span, seed=0)
    except NothingToDisguise as error:
        raise NotMeasurable(str(error)) from error
    with TemporaryDirectory(prefix="figures-") as folder:
        disguised = Path(folder) / "evaded.parquet"
        evaded.write_parquet(disguised)
        yield from evasion_figures(split, judged_rows([disguised]))


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
