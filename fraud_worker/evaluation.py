"""Evaluation: how good scores are against labels, in numbers and plots.

Knows labels, scores and scikit-learn's metrics. Must not know how a model was trained or what a feature means.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, precision_recall_curve, roc_auc_score, roc_curve

from fraud_worker.event_log import JudgedRows

_ECE_BINS: Final = 15
_BOOTSTRAPS: Final = 200

Labels = npt.NDArray[np.int8]
Scores = npt.NDArray[np.float64]


def metrics(labels: Labels, scores: Scores, accounts: pl.Series) -> dict[str, Any]:
    """The figures of `evaluate --json`. Those that need both kinds of label are null when one is missing.

    `auc_ci95`: from 200 bootstraps over accounts, since the requests of one account are not independent.
    `ece`: expected calibration error over 15 bins of equal width.
    """
    positives = int(labels.sum())
    both = 0 < positives < len(labels)
    top = max(1, math.ceil(len(scores) / 100))
    best = np.argsort(-scores, kind="stable")[:top]
    return {
        "rows": len(labels),
        "positives": positives,
        "auc": float(roc_auc_score(labels, scores)) if both else None,
        "auc_ci95": _auc_interval(labels, scores, accounts) if both else None,
        "pr_auc": float(average_precision_score(labels, scores)) if positives else None,
        "recall_at_1pct_fpr": _recall_at(0.01, labels, scores) if both else None,
        "recall_at_5pct_fpr": _recall_at(0.05, labels, scores) if both else None,
        "precision_at_top_1pct": float(labels[best].mean()),
        "brier": float(brier_score_loss(labels, scores, pos_label=1)),
        "ece": _calibration_error(labels, scores),
    }


def _recall_at(fpr_max: float, labels: Labels, scores: Scores) -> float:
    fpr, tpr, _ = roc_curve(labels, scores)
    return float(tpr[fpr <= fpr_max].max())


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


def write_scores(path: Path, judged: JudgedRows, scores: Scores) -> None:
    """One CSV row an event that was judged, in the order of time: its number in its log (from 0), label, score."""
    judged.events.select(
        "row", "event_time", "account_id", "device_id", label=pl.Series(judged.labels), score=pl.Series(scores)
    ).write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")


def plot(path: Path, labels: Labels, scores: Scores) -> None:
    """A PNG of the ROC curve, the precision-recall curve and the calibration of `scores`; `labels` needs both kinds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (roc, recall, calibration) = pyplot.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    fpr, tpr, _ = roc_curve(labels, scores)
    roc.plot(fpr, tpr)
    roc.set(xscale="symlog", xlabel="honest requests flagged", ylabel="abuse flagged", title="ROC")
    roc.set_xscale("symlog", linthresh=0.01)
    roc.set_xlim(0, 1)
    precisions, recalls, _ = precision_recall_curve(labels, scores)
    recall.plot(recalls, precisions)
    recall.set(xlabel="recall", ylabel="precision", title="Precision and recall", ylim=(0, 1.02))
    true, predicted = calibration_curve(labels, scores, n_bins=10, strategy="uniform")
    calibration.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    calibration.plot(predicted, true, marker="o")
    calibration.set(xlabel="score", ylabel="share of abuse", title="Calibration")
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)
