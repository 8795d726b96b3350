"""Evaluation: how good scores are against labels, in numbers.

Knows labels, scores and scikit-learn's metrics. Must not know how a model was trained, or what a feature means beyond
its being a count.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import brentq, minimize
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from fraud_worker.event_log import JudgedRows
from fraud_worker.registry import FEATURES

_ECE_BINS: Final = 15
_BOOTSTRAPS: Final = 200
_PROBABILITY_MIN: Final = 1e-6
_NEAR: Final = 1e-9
_Z95: Final = 1.959964
KINDS_MIN: Final = 5
"""So many accounts of abuse, and of honest requests, an interval of the AUC needs."""

Labels = npt.NDArray[np.int8]
Scores = npt.NDArray[np.float64]


def report(judged: JudgedRows, scores: Scores) -> dict[str, Any]:
    """The figures of `evaluate --json`: `metrics` by the log's weights, and the best that one count alone does on the
    same rows."""
    found = metrics(judged.labels, scores, judged.events["account_id"], judged.weights)
    return found | {"best_single_count": best_single_count(judged)}


def metrics(labels: Labels, scores: Scores, accounts: pl.Series, weights: Scores | None = None) -> dict[str, Any]:
    """How `scores`, probabilities, rank and hold. Figures that need both kinds of label are null when one is missing.

    `weights`: how many requests each row stands for; all figures but `rows` and `positives`, which count, are of those
    requests. A request that was let through at random stands for those that were refused: left at 1, the requests that
    a model likes least would hardly count where it is judged.
    `auc_ci95`: see `_auc_interval`; null where fewer than `KINDS_MIN` accounts of a kind leave it to chance.
    `ece`: expected calibration error over 15 bins of equal width.
    `brier_skill`: the share by which the Brier score is below that of always answering the base rate.
    `calibration_slope`: of the logistic regression of the label on the score's log odds; 1 is right, less is
    too sure.
    """
    positives = int(labels.sum())
    both = 0 < positives < len(labels)
    stands_for = np.ones(len(labels)) if weights is None else weights
    base_rate = float(np.average(labels, weights=stands_for))
    brier = float(brier_score_loss(labels, scores, pos_label=1, sample_weight=stands_for))
    return {
        "rows": len(labels),
        "positives": positives,
        "base_rate": base_rate,
        "auc": float(roc_auc_score(labels, scores, sample_weight=stands_for)) if both else None,
        "auc_ci95": _auc_interval(labels, scores, accounts, stands_for) if both else None,
        "pr_auc": float(average_precision_score(labels, scores, sample_weight=stands_for)) if positives else None,
        "recall_at_1pct_fpr": recall_at(0.01, labels, scores, stands_for) if both else None,
        "recall_at_5pct_fpr": recall_at(0.05, labels, scores, stands_for) if both else None,
        "precision_at_top_1pct": _precision_at_top(0.01, labels, scores, stands_for),
        "brier": brier,
        "brier_skill": 1 - brier / (base_rate * (1 - base_rate)) if both else None,
        "ece": _calibration_error(labels, scores, stands_for),
        "calibration_slope": _calibration_slope(labels, scores, stands_for) if both else None,
    }


def best_single_count(judged: JudgedRows) -> dict[str, Any] | None:
    """Which count of the registry has the best AUC of its own, and what AUC; what a rule of one line would do.

    Unknown ranks lowest. None when one kind of label is missing.
    """
    if not 0 < judged.labels.sum() < len(judged):
        return None
    found = {
        feature.name: float(
            roc_auc_score(
                judged.labels, np.nan_to_num(judged.features[:, column], nan=-1.0), sample_weight=judged.weights
            )
        )
        for column, feature in enumerate(FEATURES)
        if feature.unit == "count"
    }
    best = max(found, key=lambda name: found[name])
    return {"feature": best, "auc": found[best]}


def recall_at(fpr_max: float, labels: Labels, scores: Scores, weights: Scores | None = None) -> float:
    """The share of abuse at or above the lowest threshold that at most `fpr_max` of the honest reach."""
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False, sample_weight=weights)
    return float(tpr[fpr <= fpr_max].max())


def threshold_at(fpr_max: float, labels: Labels, scores: Scores) -> float:
    """That threshold itself; infinite where the best score alone is reached by more of the honest."""
    fpr, _, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    return float(thresholds[fpr <= fpr_max].min())


def _precision_at_top(share: float, labels: Labels, scores: Scores, weights: Scores) -> float:
    best = np.argsort(-scores, kind="stable")
    sums = np.cumsum(weights[best])
    top = best[: int(np.searchsorted(sums, share * sums[-1])) + 1]
    return float(np.average(labels[top], weights=weights[top]))


def _auc_interval(labels: Labels, scores: Scores, accounts: pl.Series, weights: Scores) -> list[float] | None:
    """Where the AUC lies, 95 %: the hull of two intervals, since each alone is too narrow somewhere.

    One by 200 bootstraps over accounts, since the requests of one account are not independent; where scores part the
    kinds without error, or a kind is rare, it has no width. The other asks which true values would not surprise: by the
    variance of Hanley and McNeil (1982) at that value, for as many independent rows as the accounts of each kind are
    worth (Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", 2006).
    None below `KINDS_MIN` accounts of a kind: then no interval deserves to be believed.
    """
    codes = accounts.rank("dense").to_numpy().astype(np.int64) - 1
    abusers, honest = (_effective(codes[labels == kind], weights[labels == kind]) for kind in (1, 0))
    if min(abusers, honest) < KINDS_MIN:
        return None
    auc = float(roc_auc_score(labels, scores, sample_weight=weights))
    found = [*_unsurprising(auc, abusers, honest)]
    draw, places = np.random.default_rng(0), np.unique(scores, return_inverse=True)[1]
    drawn = []
    for _ in range(_BOOTSTRAPS):
        times = draw.poisson(1.0, codes.max() + 1)[codes] * weights
        abuse = np.bincount(places, weights=times * labels)
        others = np.bincount(places, weights=times * (1 - labels))
        if abuse.any() and others.any():
            # scikit-learn's takes a hundred times as long, for it sorts each time.
            above = np.cumsum(others) - others / 2
            drawn.append(float(abuse @ above / (abuse.sum() * others.sum())))
    found += np.quantile(drawn, (0.025, 0.975)).tolist()
    return [min(found), max(found)]


def _effective(accounts: npt.NDArray[np.int64], weights: Scores) -> float:
    """How many accounts that count alike these are worth (Kish 1965): a few that count for most are worth few."""
    sums = np.bincount(accounts, weights=weights)
    return float(sums.sum() ** 2 / np.sum(sums**2))


def _unsurprising(auc: float, positives: float, negatives: float) -> tuple[float, float]:
    """The least and the greatest true AUC from which `auc` is no more than 1.96 standard errors away."""

    def surprise(true: float) -> float:
        of_two_abusers, of_two_honest = true / (2 - true), 2 * true**2 / (1 + true)
        variance = (
            true * (1 - true)
            + (positives - 1) * (of_two_abusers - true**2)
            + (negatives - 1) * (of_two_honest - true**2)
        ) / (positives * negatives)
        return float((auc - true) ** 2 - _Z95**2 * variance)

    return _first_surprise(surprise, auc, 0.0), _first_surprise(surprise, auc, 1.0)


def _first_surprise(surprise: Callable[[float], float], auc: float, end: float) -> float:
    """Between `auc`, which surprises nobody, and `end`, which does: there nothing varies."""
    if auc == end:
        return end
    near = auc + (end - auc) * _NEAR
    return float(brentq(surprise, near, end)) if surprise(near) < 0 else auc


def _calibration_error(labels: Labels, scores: Scores, weights: Scores) -> float:
    bins = np.minimum((scores * _ECE_BINS).astype(np.int64), _ECE_BINS - 1)
    gaps = np.bincount(bins, weights=(scores - labels) * weights, minlength=_ECE_BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def _calibration_slope(labels: Labels, scores: Scores, weights: Scores) -> float | None:
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
            float(np.average(np.logaddexp(0.0, margin) - labels * margin, weights=weights)),
            np.array([np.average(error * odds, weights=weights), np.average(error, weights=weights)]),
        )

    return float(minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x[0])


def write_scores(path: Path, judged: JudgedRows, scores: Scores) -> None:
    """One CSV row an event that was judged, in the order of time: its number in its log (from 0), label, score."""
    judged.events.select(
        "row", "event_time", "account_id", "device_id", label=pl.Series(judged.labels), score=pl.Series(scores)
    ).write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")
