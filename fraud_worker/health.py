"""A model's health in figures: drift of what it sees and says, calibration, and challengers beside it.

Knows distributions, labels and scores as arrays. Must not know where rows come from, features' meanings, or the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

SHARE_MIN: Final = 1e-4
"""An empty bin counts as holding this share: PSI knows no zero."""

CALIBRATION_BINS: Final = 15
"""Of equal width, as in training's evaluation."""

_LOGIT_MAX: Final = 30.0
_NEWTON_STEPS: Final = 50

Values = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How values lay in training: `shares` of the bins between ascending `edges` (a value on an edge belongs above it),
    and at last of the unknown (NaN). So there are two shares more than edges, and they sum to 1."""

    edges: Sequence[float]
    shares: Sequence[float]

    @property
    def null_rate(self) -> float:
        """The share of the unknown."""
        return self.shares[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a model's training saw: features by name, scores, and between which bounds its alert rate should lie (None:
    nothing is said of that)."""

    features: Mapping[str, Distribution]
    score: Distribution
    alert_rate: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From `medium` on a request is MEDIUM, which alerts; from `high` on HIGH."""

    medium: float
    high: float

    def bands(self, scores: Values) -> npt.NDArray[np.int64]:
        """0 LOW, 1 MEDIUM, 2 HIGH."""
        return (scores >= self.medium).astype(np.int64) + (scores >= self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDrift:
    """One feature: its PSI against training, and the share of rows where it is unknown, now and then. None where
    training left no distribution."""

    name: str
    psi: float | None
    null_rate: float
    expected_null_rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What rows and scores look like beside training's. None where training left no distribution."""

    alert_rate: float
    score_psi: float | None
    features: tuple[FeatureDrift, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """The labelled rows whose score lies in [low, high): how many, what they were told, and what came of them."""

    low: float
    high: float
    rows: int
    mean_score: float
    positive_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Scores against labels. `ece`: expected calibration error; `slope`: of the log odds of abuse over the score's log
    odds, 1 where scores are neither too bold (below 1) nor too timid (Cox 1958). None where labels do not tell."""

    rows: int
    positives: int
    ece: float | None
    brier: float | None
    slope: float | None
    auc: float | None
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A challenger beside the champion, on the rows that both scored. None where those do not tell."""

    rows: int
    band_agreement: float | None
    """The share of rows that both put into the same band, each by its own thresholds."""
    score_correlation: float | None
    """Of the ranks (Spearman): what matters is whom each suspects more."""
    labelled_rows: int
    champion_auc: float | None
    challenger_auc: float | None


def drift(names: Sequence[str], rows: Values, scores: Values, thresholds: Thresholds, of: Reference | None) -> Drift:
    """How `rows` (n by features `names`, NaN for unknown) and their `scores` differ from those that trained; n > 0."""
    unknown = np.isnan(rows).mean(axis=0)
    features = []
    for column, name in enumerate(names):
        expected = of.features.get(name) if of else None
        features.append(
            FeatureDrift(
                name=name,
                psi=stability(expected, rows[:, column]) if expected else None,
                null_rate=float(unknown[column]),
                expected_null_rate=expected.null_rate if expected else None,
            )
        )
    return Drift(
        alert_rate=float((scores >= thresholds.medium).mean()),
        score_psi=stability(of.score, scores) if of else None,
        features=tuple(features),
    )


def stability(expected: Distribution, values: Values) -> float:
    """The population stability index of `values`: sum of (found - expected) ln(found / expected) over the bins.

    By rule of thumb below 0.1 nothing has moved, and from 0.25 on much has. Without any drift it is about
    (bins - 1) / rows, so a few rows always seem to drift.
    """
    found = np.maximum(shares(values, expected.edges), SHARE_MIN)
    wanted = np.maximum(np.asarray(expected.shares, dtype=np.float64), SHARE_MIN)
    return float(np.sum((found - wanted) * np.log(found / wanted)))


def shares(values: Values, edges: Sequence[float]) -> Values:
    """The share of `values` in each bin of `edges`, and of the unknown; see `Distribution`. `values` is not empty."""
    places = np.searchsorted(np.asarray(edges, dtype=np.float64), values, side="right")
    places[np.isnan(values)] = len(edges) + 1
    return np.bincount(places, minlength=len(edges) + 2) / len(values)


def calibration(scores: Values, labels: Labels) -> Calibration:
    """How far `scores` (0 to 1) are from what `labels` (1 abuse, 0 honest) say of them."""
    rows, positives = len(labels), int(labels.sum())
    if not rows:
        return Calibration(rows=0, positives=0, ece=None, brier=None, slope=None, auc=None, bins=())
    bins = reliability(scores, labels)
    return Calibration(
        rows=rows,
        positives=positives,
        ece=sum(each.rows * abs(each.mean_score - each.positive_share) for each in bins) / rows,
        brier=float(np.mean((scores - labels) ** 2)),
        slope=slope(scores, labels),
        auc=auc(scores, labels),
        bins=bins,
    )


def reliability(scores: Values, labels: Labels) -> tuple[ReliabilityBin, ...]:
    """The bins of equal width that hold any row, in order."""
    places = np.minimum((scores * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    counts = np.bincount(places, minlength=CALIBRATION_BINS)
    told = np.bincount(places, weights=scores, minlength=CALIBRATION_BINS)
    came = np.bincount(places, weights=labels, minlength=CALIBRATION_BINS)
    return tuple(
        ReliabilityBin(
            low=place / CALIBRATION_BINS,
            high=(place + 1) / CALIBRATION_BINS,
            rows=int(counts[place]),
            mean_score=float(told[place] / counts[place]),
            positive_share=float(came[place] / counts[place]),
        )
        for place in np.flatnonzero(counts).tolist()
    )


def auc(scores: Values, labels: Labels) -> float | None:
    """The chance that a row of abuse scores above an honest one, ties by half; None where one kind is missing."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    above = ranks(scores)[labels == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def slope(scores: Values, labels: Labels) -> float | None:
    """The slope of the logistic regression of `labels` on the scores' log odds; None where there is none, or where the
    scores part the kinds so well that no slope is steep enough."""
    clipped = np.clip(scores, np.exp(-_LOGIT_MAX), 1 - 1e-13)
    odds = np.log(clipped / (1 - clipped))
    if labels.min() == labels.max() or np.ptp(odds) == 0:
        return None
    design = np.column_stack([np.ones_like(odds), odds])
    found = np.array([0.0, 1.0])
    for _ in range(_NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-np.clip(design @ found, -_LOGIT_MAX, _LOGIT_MAX)))
        hessian = (design * (probability * (1 - probability))[:, None]).T @ design
        try:
            step = np.linalg.solve(hessian, design.T @ (labels - probability))
        except np.linalg.LinAlgError:
            return None
        found = found + step
        if not np.isfinite(found).all() or abs(found[1]) > 1e3:
            return None
        if np.abs(step).max() < 1e-9:
            return float(found[1])
    return None


def ranks(values: Values) -> Values:
    """Ranks from 1, equal values sharing their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: npt.NDArray[np.int64] = np.cumsum(counts)
    mean: Values = (last - (counts - 1) / 2)[places]
    return mean


def comparison(
    champion: tuple[Values, Thresholds],
    challenger: tuple[Values, Thresholds],
    labelled: tuple[Values, Values, Labels],
) -> Comparison:
    """A challenger beside the champion: both their scores of some rows, NaN where the challenger gave none; and the
    champion's scores, the challenger's and the labels of others."""
    (scores, thresholds), (others, other_thresholds) = champion, challenger
    both = ~np.isnan(others)
    scores, others = scores[both], others[both]
    labelled_scores, labelled_others, labels = labelled
    known = ~np.isnan(labelled_others)
    return Comparison(
        rows=len(scores),
        band_agreement=_mean(thresholds.bands(scores) == other_thresholds.bands(others)),
        score_correlation=_correlation(ranks(scores), ranks(others)),
        labelled_rows=int(known.sum()),
        champion_auc=auc(labelled_scores[known], labels[known]),
        challenger_auc=auc(labelled_others[known], labels[known]),
    )


def _mean(values: npt.NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None


def _correlation(left: Values, right: Values) -> float | None:
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(np.corrcoef(left, right)[0, 1])
