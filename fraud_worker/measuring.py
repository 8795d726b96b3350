"""MeasureHealth: messages to arrays, figures to messages. Knows the contract; must not know how a figure comes about.

No row is touched by Python, so that thousands take milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

import numpy as np
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb

from fraud_worker import health
from fraud_worker.columns import UNKNOWN, RequestRefused, checked_matrix
from fraud_worker.health import Distribution, Labels, Reference, Thresholds, Values
from fraud_worker.registry import FEATURE_NAMES
from fraud_worker.scorer import Bins, Manifest

ROWS_MAX: Final = 5_000


def measured(request: pb.MeasureHealthRequest, references: Mapping[str, Reference | None]) -> pb.MeasureHealthResponse:
    """The figures of the model asked about. `references`: what the models in use were trained on, by version.

    Raises `RequestRefused`.
    """
    reference = references.get(request.model_version)
    thresholds = _thresholds(request, "")
    scores = _scores(request.scores, "scores", request.row_count)
    labels = _labels(request.labels)
    labelled = _scores(request.labelled_scores, "labelled_scores", len(labels))
    answer = pb.MeasureHealthResponse(
        reference_known=reference is not None,
        calibration=_calibration(health.calibration(labelled, labels)),
    )
    if reference is not None and reference.alert_rate is not None:
        answer.alert_rate_low, answer.alert_rate_high = reference.alert_rate
    if request.row_count:
        rows = checked_matrix(request, ROWS_MAX)
        drift = health.drift(FEATURE_NAMES, rows, scores, thresholds, reference)
        answer.MergeFrom(pb.MeasureHealthResponse(alert_rate=drift.alert_rate, score_psi=drift.score_psi))
        answer.features.extend(pb.FeatureDrift(**asdict(feature)) for feature in drift.features)
    for place, challenger in enumerate(request.challengers):
        path = f"challengers[{place}]."
        found = health.comparison(
            (scores, thresholds),
            (
                _scores(challenger.scores, f"{path}scores", request.row_count, may_lack=True),
                _thresholds(challenger, path),
            ),
            (
                labelled,
                _scores(challenger.labelled_scores, f"{path}labelled_scores", len(labels), may_lack=True),
                labels,
            ),
        )
        answer.challengers.append(pb.Comparison(model_version=challenger.model_version, **asdict(found)))
    return answer


def reference_of(manifest: Manifest) -> Reference | None:
    """What the manifest tells of training; None where it tells nothing."""
    if manifest.score_bins is None:
        return None
    band = manifest.alert_rate
    return Reference(
        features={name: _distribution(bins) for name, bins in manifest.feature_bins.items()},
        score=_distribution(manifest.score_bins),
        alert_rate=(band.low, band.high) if band else None,
    )


def _distribution(bins: Bins) -> Distribution:
    return Distribution(edges=bins.edges, shares=[*bins.shares, bins.unknown])


def _thresholds(of: pb.MeasureHealthRequest | pb.ChallengerScores, path: str) -> Thresholds:
    if not 0 < of.medium_threshold <= of.high_threshold <= 1:
        raise RequestRefused(
            f"{path}medium_threshold", "must be above 0 and at most high_threshold, which is at most 1"
        )
    return Thresholds(medium=of.medium_threshold, high=of.high_threshold)


def _labels(given: Sequence[int]) -> Labels:
    labels = np.array(given, dtype=np.int32)
    if len(labels) > ROWS_MAX or not np.isin(labels, (0, 1)).all():
        raise RequestRefused("labels", f"must be at most {ROWS_MAX:,} values of 0 or 1")
    return labels.astype(np.int8)


def _scores(given: Sequence[float], path: str, count: int, *, may_lack: bool = False) -> Values:
    """Scores as an array, NaN where one is lacking."""
    scores = np.array(given, dtype=np.float64)
    if len(scores) != count:
        raise RequestRefused(path, f"must hold {count:,} values, and not {len(scores):,}")
    lacking = scores == UNKNOWN if may_lack else np.zeros(count, dtype=np.bool_)
    if not (((scores >= 0) & (scores <= 1)) | lacking).all():
        raise RequestRefused(path, "must lie between 0 and 1")
    scores[lacking] = np.nan
    return scores


def _calibration(found: health.Calibration) -> pb.Calibration:
    figures = asdict(found)
    bins = [pb.ReliabilityBin(**each) for each in figures.pop("bins")]
    return pb.Calibration(**figures, bins=bins)
