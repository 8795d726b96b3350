"""Training: event logs become a model folder.

Knows LightGBM, time-ordered slices, calibration and thresholds. Must not know how features are computed, how the logs
came about, or who will be refused because of a threshold.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from fraud_worker import evaluation
from fraud_worker.event_log import JudgedRows, judged_rows
from fraud_worker.registry import FEATURE_NAMES, FEATURES, REGISTRY_NAME, registry_sha256
from fraud_worker.scorer import MANIFEST_FILE, MODEL_FILE, Calibration, Manifest, Thresholds

_FIT_SHARE: Final = 0.7
_STOP_SHARE: Final = 0.15
_SLICE_ROWS_MIN: Final = 2
_ROUNDS_MAX: Final = 300
_ROUNDS_WITHOUT_GAIN: Final = 30
_LEAF_ROWS_MIN: Final = 100

_MEDIUM_FPR_MAX: Final = 0.01
_HIGH_FPR_MAX: Final = 0.002
COSTS: Final = {"approve_abuse": 10.0, "review_any": 4.0, "reject_honest": 20.0}
"""What each outcome of a request costs, in any one unit: at probability p of abuse, approving costs 10p, reviewing 4
and rejecting 20(1 - p)."""

CARD_FILE: Final = "model-card.md"
PLOT_FILE: Final = "model-card.png"

_PARAMETERS: Final = {
    "objective": "binary",
    "learning_rate": 0.08,
    "num_leaves": 16,
    "lambda_l2": 5.0,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "max_bin": 127,
    "monotone_constraints_method": "advanced",
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 2,
    "verbosity": -1,
}


class TrainingError(ValueError):
    """The logs do not hold what training needs; the message says what is missing."""


def train(
    logs: Sequence[Path], out: Path, *, label_delay_hours: float = 24.0, seed: int = 0, command: str | None = None
) -> Manifest:
    """Trains a model on the labelled events of `logs` and writes its folder `out`; deterministic by `seed`.

    Only events older than `label_delay_hours` at the end of the logs train, and none whose label came after that end.
    The oldest 70 % of them grow the trees, the next 15 % say when to stop, the latest 15 % calibrate.
    `command` is what the manifest says was run; by default, the command line for these arguments.
    Raises `TrainingError` and `EventLogError`.
    """
    mature = _mature(judged_rows(logs), timedelta(hours=label_delay_hours))
    fit, stop, calibrate = _slices(mature)
    booster = _grown(fit, stop, seed)
    raw = np.asarray(booster.predict(calibrate.features, raw_score=True, num_threads=1), dtype=np.float64)
    calibration = _calibrated(raw, calibrate.labels)
    scores = calibration.probabilities(raw)
    content = booster.model_to_string(num_iteration=booster.best_iteration).encode()
    times = mature.events["event_time"]
    manifest = Manifest(
        model_sha256=hashlib.sha256(content).hexdigest(),
        feature_registry=REGISTRY_NAME,
        feature_registry_sha256=registry_sha256(),
        features=FEATURE_NAMES,
        train_time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command or _command(logs, label_delay_hours, seed),
        seed=seed,
        label_delay_hours=label_delay_hours,
        data_window=[moment.isoformat() for moment in (times[0], times[-1])],
        rows={
            name: {"rows": len(part), "positives": int(part.labels.sum())}
            for name, part in (("fit", fit), ("stop", stop), ("calibrate", calibrate))
        },
        trees=booster.best_iteration,
        calibration=calibration,
        thresholds=_thresholds(scores[calibrate.labels == 0]),
        costs=COSTS,
        metrics=evaluation.metrics(calibrate.labels, scores, calibrate.events["account_id"]),
        libraries={name: version(name) for name in ("lightgbm", "numpy", "polars", "scikit-learn")},
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / MODEL_FILE).write_bytes(content)
    (out / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    evaluation.plot(out / PLOT_FILE, calibrate.labels, scores)
    (out / CARD_FILE).write_text(_card(manifest, booster))
    return manifest


def _mature(judged: JudgedRows, label_delay: timedelta) -> JudgedRows:
    times, label_times = judged.events["event_time"], judged.events["label_time"]
    end = times.max()
    assert isinstance(end, datetime)
    known = (times <= end - label_delay) & (label_times.is_null() | (label_times <= end))
    return judged.where(known.to_numpy())


def _slices(mature: JudgedRows) -> tuple[JudgedRows, JudgedRows, JudgedRows]:
    """Oldest to latest. Events of the same moment are never parted."""
    times = mature.events["event_time"].to_physical().to_numpy()
    if not len(times):
        raise TrainingError("no label is older than the label delay")
    first, second = (times[int(len(times) * share)] for share in (_FIT_SHARE, _FIT_SHARE + _STOP_SHARE))
    parts = (
        mature.where(times < first),
        mature.where((times >= first) & (times < second)),
        mature.where(times >= second),
    )
    for name, part in zip(("fit", "early-stopping", "calibration"), parts, strict=True):
        positives = int(part.labels.sum())
        if min(positives, len(part) - positives) < _SLICE_ROWS_MIN:
            raise TrainingError(
                f"the {name} slice has {len(part)} mature rows, {positives} of them abuse;"
                f" it needs at least {_SLICE_ROWS_MIN} of each kind"
            )
    return parts


def _grown(fit: JudgedRows, stop: JudgedRows, seed: int) -> lgb.Booster:
    parameters: dict[str, Any] = _PARAMETERS | {
        "monotone_constraints": [feature.direction for feature in FEATURES],
        # A small log needs small leaves.
        "min_data_in_leaf": min(_LEAF_ROWS_MIN, max(5, len(fit) // 200)),
        "seed": seed,
    }
    names = list(FEATURE_NAMES)
    data = lgb.Dataset(fit.features, fit.labels, feature_name=names, params=parameters)
    return lgb.train(
        parameters,
        data,
        num_boost_round=_ROUNDS_MAX,
        valid_sets=[lgb.Dataset(stop.features, stop.labels, reference=data)],
        callbacks=[lgb.early_stopping(_ROUNDS_WITHOUT_GAIN, verbose=False)],
    )


def _calibrated(raw: npt.NDArray[np.float64], labels: npt.NDArray[np.int8]) -> Calibration:
    """Platt scaling with Platt's own softened targets, so that clean slices do not drive the slope to infinity.

    J. Platt, "Probabilistic outputs for support vector machines", 1999, section 2.2.
    """
    from scipy.optimize import minimize

    positives = int(labels.sum())
    negatives = len(labels) - positives
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        margin = np.exp(parameters[0]) * raw + parameters[1]
        return float(np.mean(np.logaddexp(0.0, margin) - target * margin))

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10, "maxiter": 2000})
    return Calibration(method="platt", slope=float(np.exp(found.x[0])), intercept=float(found.x[1]))


def _thresholds(honest: npt.NDArray[np.float64]) -> Thresholds:
    """Where reviewing gets cheaper than approving, rejecting than reviewing; higher where too many honest are hit."""
    review_pays = COSTS["review_any"] / COSTS["approve_abuse"]
    reject_pays = 1 - COSTS["review_any"] / COSTS["reject_honest"]
    medium = max(review_pays, _exceeded_by(honest, _MEDIUM_FPR_MAX))
    return Thresholds(
        medium=medium,
        high=max(medium, reject_pays, _exceeded_by(honest, _HIGH_FPR_MAX)),
        rule=(
            f"medium: at least {review_pays:.2f} (the costs), and at most {_MEDIUM_FPR_MAX:.1%} of the honest reach it;"
            f" high: at least {reject_pays:.2f}, and at most {_HIGH_FPR_MAX:.1%}"
        ),
    )


def _exceeded_by(honest: npt.NDArray[np.float64], share: float) -> float:
    """The least threshold that at most `share` of `honest` reach."""
    descending = np.sort(honest)[::-1]
    return float(np.nextafter(descending[int(share * len(descending))], np.inf))


def _command(logs: Sequence[Path], label_delay_hours: float, seed: int) -> str:
    events = [part for log in logs for part in ("--events", log.name)]
    return shlex.join(
        [
            "fraud-worker",
            "train",
            *events,
            "--label-delay-hours",
            f"{label_delay_hours:g}",
            "--seed",
            str(seed),
            "--out",
            "DIR",
        ]
    )


def _card(manifest: Manifest, booster: lgb.Booster) -> str:
    """The model card, Markdown."""
    gain = pl.DataFrame({"name": FEATURE_NAMES, "gain": booster.feature_importance("gain")}).sort(
        "gain", descending=True
    )
    total = max(float(gain["gain"].sum()), 1e-12)
    figures = "\n".join(f"| {name} | {_figure(value)} |" for name, value in manifest.metrics.items())
    slices = "\n".join(f"| {name} | {part['rows']:,} | {part['positives']:,} |" for name, part in manifest.rows.items())
    features = "\n".join(
        f"| {row['name']} | {row['gain'] / total:.1%} |" for row in gain.head(12).iter_rows(named=True)
    )
    return f"""# Model {manifest.model_sha256[:12]}

{manifest.trees} boosted trees over the {len(manifest.features)} features of registry {manifest.feature_registry},
monotone in every risk count and age. Trained on events from {manifest.data_window[0]} to {manifest.data_window[1]} by

    {manifest.command}

It gives the probability that a request to recycle or reactivate a card is abuse. It cannot see a first account on a
fresh device, address and profile: nothing tells it from an honest one. Its probabilities hold for the share of abuse in
its log.

| slice | rows | abuse |
|---|---|---|
{slices}

Thresholds: MEDIUM from {manifest.thresholds.medium:.4f}, HIGH from {manifest.thresholds.high:.4f}
({manifest.thresholds.rule}).

## On the latest slice, which the trees have not seen

| figure | value |
|---|---|
{figures}

![ROC, precision and recall, calibration]({PLOT_FILE})

## What it looks at

| feature | share of gain |
|---|---|
{features}
"""


def _figure(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(f"{part:.4f}" for part in value)
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"
