"""Explanations: how the score of a row came about, feature by feature.

Knows what models say of contributions, and how to put it; must not know gRPC, nor who asks.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from fraud_worker.registry import FEATURES
from fraud_worker.scorer import Model
from fraud_worker.sentences import sentence


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """What one feature adds to a raw score, in log odds; positive speaks for abuse. `value` None is unknown."""

    feature: str
    reason_code: str
    value: float | None
    contribution: float
    sentence: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One score: `base_value` and all contributions add up to `raw_score` (log odds), which calibration makes
    `probability`. The contributions are those of all features, the greatest first, whichever its sign."""

    model_version: str
    raw_score: float
    base_value: float
    probability: float
    contributions: tuple[Contribution, ...]


def explain(model: Model, rows: npt.NDArray[np.float64]) -> list[Explanation]:
    """One explanation a row of a checked matrix, in order."""
    raw = model.raw(rows)
    probabilities = model.manifest.calibration.probabilities(raw)
    return [
        Explanation(
            model_version=model.version,
            raw_score=float(raw[number]),
            base_value=parts[-1],
            probability=float(probabilities[number]),
            contributions=_contributions(rows[number].tolist(), parts[:-1]),
        )
        for number, parts in enumerate(model.contributions(rows).tolist())
    ]


def _contributions(values: list[float], parts: list[float]) -> tuple[Contribution, ...]:
    found = []
    for feature, number, part in zip(FEATURES, values, parts, strict=True):
        value = None if math.isnan(number) else number
        found.append(
            Contribution(
                feature=feature.name,
                reason_code=feature.name.upper(),
                value=value,
                contribution=part,
                sentence=sentence(feature, value),
            )
        )
    # Equal ones stay in the order of the registry.
    return tuple(sorted(found, key=lambda contribution: -abs(contribution.contribution)))
