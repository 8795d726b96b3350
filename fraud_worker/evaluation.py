"""Evaluation: how good scores are against labels, in numbers.

Knows labels, scores and scikit-learn's metrics. Must not know how a model was trained, or what a feature means beyond
its being a count.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import minimize
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from fraud_worker.event_log import JudgedRows
from fraud_worker.registry import FEATURES

_ECE_BINS: Final = 15
_BOOTSTRAPS: Final = 200
_PROBABILITY_MIN: Final = 1e-6

Labels = npt.NDArray[np.int8]
Scores = npt.NDArray[np.float64]


def report(judged: JudgedRows, scores: Scores) -> dict[str, Any]:
    """The figures of `evaluate --json`: `metrics`, and the best that one count alone does on the same rows."""
    return metrics(judged.labels, scores, judged.events["account_id"]) | {
        "best_single_count": best_single_count(judged)
    }


def metrics(labels: Labels, scores: Scores, accounts: pl.Series) -> dict[str, Any]:
    """How `scores`, probabilities, rank and hold. Figures that need both kinds of label are null when one is missing.

    `auc_ci95`: from 200 bootstraps over accounts, since the requests of one account are not independent.
    `ece`: expected calibration error over 15 bins of equal width.
    `brier_skill`: the share by which the Brier score is below that of always answering the base rate.
    `calibration_slope`: of the logistic regression of the label on the score's log odds; 1 is right, less is
    too sure.
    """
    positives = int(labels.sum())
    both = 0 < positives < len(labels)
    base_rate = positives / len(labels)
    top = max(1, math.ceil(len(scores) / 100))
    best = np.argsort(-scores, kind="stable")[:top]
    brier = float(brier_score_loss(labels, scores, pos_label=1))
    return {
        "rows": len(labels),
        "positives": positives,
        "base_rate": base_rate,
        "auc": float(roc_auc_score(labels, scores)) if both else None,
        "auc_ci95": _auc_interval(labels, scores, accounts) if both else None,
        "pr_auc": float(average_precision_score(labels, scores)) if positives else None,
        "recall_at_1pct_fpr": recall_at(0.01, labels, scores) if both else None,
        "recall_at_5pct_fpr": recall_at(0.05, labels, scores) if both else None,
        "precision_at_top_1pct": float(labels[best].mean()),
        "brier": brier,
        "brier_skill": 1 - brier / (base_rate * (1 - base_rate)) if both else None,
        "ece": _calibration_error(labels, scores),
        "calibration_slope": _calibration_slope(labels, scores) if both else None,
    }


def best_single_count(judged: JudgedRows) -> dict[str, Any] | None:
    """Which count of the registry has the best AUC of its own, and what AUC; what a rule of one line would do.

    Unknown ranks lowest. None when one kind of label is missing.
    """
    if not 0 < judged.labels.sum() < len(judged):
        return None
    found = {
        feature.name: float(roc_auc_score(judged.labels, np.nan_to_num(judged.features[:, column], nan=-1.0)))
        for column, feature in enumerate(FEATURES)
        if feature.unit == "count"
    }
    best = max(found, key=lambda name: found[name])
    return {"feature": best, "auc": found[best]}


def recall_at(fpr_max: float, labels: Labels, scores: Scores) -> float:
    """The share of abuse at or above the lowest threshold that at most `fpr_max` of the honest reach."""
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(tpr[fpr <= fpr_max].max())


def threshold_at(fpr_max: float, labels: Labels, scores: Scores) -> float:
    """That threshold itself; infinite where the best score alone is reached by more of the honest."""
    fpr, _, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    return float(thresholds[fpr <= fpr_max].min())


def _auc_interval(labels: Labels, scores: Scores, accounts: pl.Series) -> list[float]:
    draw = np.random.default_rng(0)
    codes = accounts.rank("dense").to_numpy().astype(np.int64) - 1
    found = []
    for _ in range(_BOOTSTRAPS):
        weights = draw.poisson(1.0, codes.max() + 1)[codes]
        if weights[labels == 1].any() and weights[labels == 0].any():
            found.append(float(roc_auc_score(labels, scores, sample_weight=weights)))
    return [float(bound) for bound in np.quantile(found, (0.025, 0.975))] if found else []


def _calibration_error(labels: Labels, scores: Scores) -> float:
    bins = np.minimum((scores * _ECE_BINS).astype(np.int64), _ECE_BINS - 1)
    gaps = np.bincount(bins, weights=scores - labels, minlength=_ECE_BINS)
    return float(np.abs(gaps).sum() / len(scores))


def _calibration_slope(labels: Labels, scores: Scores) -> float | None:
    """None where the scores do not differ, or part the labels without error and so bear any slope."""
    kept = np.clip(scores, _PROBABILITY_MIN, 1 - _PROBABILITY_MIN)
    odds = np.log(kept / (1 - kept))
    abuse, honest = odds[labels == 1], odds[labels == 0]
    if odds.min() == odds.max() or abuse.min() >= honest.max() or abuse.max() <= honest.min():
        return None

    def loss(line: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        margin = line[0] * odds + line[1]
        error = 1 / (1 + np.exp(-margin)) - labels
        return (
            float(np.mean(np.logaddexp(0.0, margin) - labels * margin)),
            np.array([np.mean(error * odds), np.mean(error)]),
        )

    return float(minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x[0])


def write_scores(path: Path, judged: JudgedRows, scores: Scores) -> None:
    """One CSV row an event that was judged, in the order of time: its number in its log (from 0), label, score."""
    judged.events.select(
        "row", "event_time", "account_id", "device_id", label=pl.Series(judged.labels), score=pl.Series(scores)
    ).write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")
