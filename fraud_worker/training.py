"""Training: event logs become a model folder.

Knows which labels are mature and what a model folder holds. Must not know how features are computed, how trees are
grown (`fitting`), how the logs came about, or who will be refused because of a threshold.
"""

from __future__ import annotations

import hashlib
import shlex
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from fraud_worker import evaluation, expectations, identity, model_card, probe, thresholds
from fraud_worker.event_log import JudgedRows, judged_rows, read_log
from fraud_worker.fitting import Fitted, TrainingError, fit
from fraud_worker.registry import FEATURE_NAMES, REGISTRY_NAME, registry_sha256
from fraud_worker.scorer import MANIFEST_FILE, MODEL_FILE, Bins, Manifest
from fraud_worker.thresholds import Costs

__all__ = ["LABEL_DELAY_HOURS", "TrainingError", "mature", "train"]

LABEL_DELAY_HOURS: Final = 24.0


def train(
    logs: Sequence[Path],
    out: Path,
    *,
    label_delay_hours: float = LABEL_DELAY_HOURS,
    seed: int = 0,
    costs: Costs | None = None,
    command: str | None = None,
) -> Manifest:
    """Trains a model on the labelled events of `logs` and writes its folder `out`; deterministic by `seed`.

    Only mature labels train (see `mature`). `costs` says what mistakes cost, and so where the thresholds lie.
    `command` is what the manifest says was run; by default, the command line for these arguments.
    Raises `TrainingError` and `EventLogError`.
    """
    _check_folder(out)  # before the work, which may take minutes
    judged = judged_rows(logs)
    rows = mature(judged, end=max(_end(log) for log in logs), label_delay=timedelta(hours=label_delay_hours))
    if not len(rows):
        raise TrainingError("no label is older than the label delay")
    fitted = fit(rows, seed)
    draft = _manifest(
        rows,
        fitted,
        costs or Costs(),
        command=command or _command(logs, label_delay_hours, seed, costs),
        seed=seed,
        label_delay_hours=label_delay_hours,
    )
    fields = identity.sealed(msgspec.to_builtins(draft))
    manifest = msgspec.convert(fields, Manifest)
    out.mkdir(parents=True, exist_ok=True)
    (out / MODEL_FILE).write_bytes(fitted.content)
    (out / MANIFEST_FILE).write_bytes(identity.written(fields))
    model_card.write(out, manifest, fitted, left_out=len(judged) - len(rows))
    return manifest


def _check_folder(out: Path) -> None:
    """That `out` can be written to; leaves nothing, for a log may yet be refused."""
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        if new:
            out.rmdir()
    except OSError as error:
        raise TrainingError(f"{out} cannot be written to: {error.strerror}") from error


def mature(judged: JudgedRows, *, end: datetime, label_delay: timedelta) -> JudgedRows:
    """The rows whose label was known at `end`: those of events older than the delay, and of no label that came later.

    The others are left out, and never taken for honest.
    """
    times, label_times = judged.events["event_time"], judged.events["label_time"]
    known = (times <= end - label_delay) & (label_times.is_null() | (label_times <= end))
    return judged.where(known.to_numpy())


def _end(log: Path) -> datetime:
    """The moment of the last event of any kind: until then its labels were collected."""
    end = read_log(log)["event_time"].max()
    assert isinstance(end, datetime)
    return end


def _manifest(
    rows: JudgedRows, fitted: Fitted, costs: Costs, *, command: str, seed: int, label_delay_hours: float
) -> Manifest:
    unseen = fitted.unseen
    scores = fitted.calibration.probabilities(unseen.raw)
    bands = thresholds.cheapest(scores[unseen.rows.labels == 0], costs)
    times, unseen_times = rows.events["event_time"], unseen.rows.events["event_time"]
    return Manifest(
        version="",  # follows from all the rest
        model_sha256=hashlib.sha256(fitted.content).hexdigest(),
        feature_registry=REGISTRY_NAME,
        feature_registry_sha256=registry_sha256(),
        features=FEATURE_NAMES,
        train_time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        seed=seed,
        label_delay_hours=label_delay_hours,
        data_window=[moment.isoformat() for moment in (times[0], times[-1])],
        rows={
            name: {"rows": len(part), "positives": int(part.labels.sum())}
            for name, part in (("trained", rows), ("calibrated", unseen.rows), ("judged", fitted.backtest.rows))
        },
        trees=fitted.booster.num_trees(),
        calibration=fitted.calibration,
        thresholds=bands,
        costs=msgspec.to_builtins(costs),
        metrics=evaluation.report(fitted.backtest.rows, fitted.backtest.scores),
        libraries={name: version(name) for name in ("lightgbm", "numpy", "polars", "scikit-learn", "scipy")},
        validation=fitted.validation,
        calibration_window=[moment.isoformat() for moment in (unseen_times[0], unseen_times[-1])],
        parameters=fitted.parameters,
        attack_copies=fitted.attack_copies,
        alert_rate=expectations.alert_rate(scores >= bands.medium, unseen_times.dt.timestamp("us").to_numpy()),
        score_bins=expectations.binned(scores),
        self_test=fitted.raw(probe.rows()).tolist(),
        feature_bins=_feature_bins(unseen.rows),
    )


def _feature_bins(rows: JudgedRows) -> dict[str, Bins]:
    return {name: expectations.binned(rows.features[:, column]) for column, name in enumerate(FEATURE_NAMES)}


def _command(logs: Sequence[Path], label_delay_hours: float, seed: int, costs: Costs | None) -> str:
    events = [part for log in logs for part in ("--events", log.name)]
    given = [] if costs is None else ["--costs", "COSTS"]
    options = ["--label-delay-hours", f"{label_delay_hours:g}", "--seed", str(seed), *given]
    return shlex.join(["fraud-worker", "train", *events, *options, "--out", "DIR"])
