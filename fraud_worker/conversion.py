"""The conversion model: a folder on disk becomes probabilities that owners pay again, and how much stands behind them.

Knows the folder's manifest and how to answer questions about rows. Folders are checked as those of the model of abuse
are (`scorer.opened`). Must not know where rows come from, priors, money, gRPC, or what follows from a probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import lightgbm as lgb
import msgspec
import numpy as np

from fraud_worker.conversion_inputs import (
    DISPOSITIONS,
    INPUT_NAMES,
    SEGMENTS,
    Matrix,
    Numbers,
    cell,
    cells,
    matrix,
)
from fraud_worker.scorer import MANIFEST_FILE, Calibration, ModelRefused, opened

SUPPORT_MAX: Final = 10**9


class ConversionManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a conversion model: enough to refuse a wrong one, and to train it again."""

    version: str
    """Of all that stands here but `train_time`; see `identity`."""
    model_sha256: str
    feature_registry: str
    feature_registry_sha256: str
    inputs: Sequence[str]
    train_time: str
    """ISO 8601, UTC."""
    command: str
    """What was run; file names without their folders."""
    seed: int
    mature_days: float
    """Whoever has not paid again so long after a recycle never has, for this model."""
    data_window: Sequence[str]
    """First and last moment of the recycles that trained, ISO 8601."""
    rows: dict[str, dict[str, int]]
    """For each slice: rows, positives."""
    support: dict[str, int]
    """Recyclings that trained, by segment and disposition; see `conversion_inputs.cell`."""
    trees: int
    calibration: Calibration
    metrics: dict[str, Any]
    """Of the latest rows, by trees and a calibration that had not seen them; `cells_auc` is that of the mean rate of
    the row's segment and disposition, which needs no model."""
    libraries: dict[str, str]
    parameters: dict[str, Any] = {}
    self_test: Sequence[float] = ()
    """The raw scores that the trees gave the probe's rows where they were trained."""


class ConversionModel:
    """A verified model. Immutable; safe to share between tasks."""

    def __init__(self, manifest: ConversionManifest, booster: lgb.Booster) -> None:
        self.manifest: Final = manifest
        self._booster: Final = booster
        self._support: Final = np.zeros((len(SEGMENTS) + 1, len(DISPOSITIONS) + 1), dtype=np.int64)
        for segment, disposition in cells():
            self._support[segment, disposition] = manifest.support.get(cell(segment, disposition), 0)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model in `folder`. Takes a second or two. Raises `ModelRefused`."""
        return cls(*opened(folder, ConversionManifest, "conversion", _check))

    @property
    def version(self) -> str:
        """The manifest's: of everything that it says."""
        return self.manifest.version

    def probabilities(self, features: Matrix, dispositions: Numbers, segments: Numbers) -> Matrix:
        """For each question, a row of checked features and two numbers of the wire: how probable it is, calibrated,
        that the owner pays again."""
        rows = matrix(features, dispositions, segments)
        raw = np.asarray(self._booster.predict(rows, raw_score=True, num_threads=1), dtype=np.float64)
        return self.manifest.calibration.probabilities(raw)

    def support(self, dispositions: Numbers, segments: Numbers) -> Numbers:
        """For each question, of how many recyclings of its segment and disposition the model has learnt: none, where it
        knows no such number."""
        known = (dispositions > 0) & (dispositions <= len(DISPOSITIONS)) & (segments >= 0) & (segments <= len(SEGMENTS))
        return np.where(known, self._support[np.where(known, segments, 0), np.where(known, dispositions, 0)], 0)


def _check(manifest: ConversionManifest, folder: Path) -> None:
    where = folder / MANIFEST_FILE
    if tuple(manifest.inputs) != INPUT_NAMES:
        raise ModelRefused(f"{where} contradicts itself: its inputs are not those of this worker")
    known = {cell(*each) for each in cells()}
    if not all(name in known and 0 <= count <= SUPPORT_MAX for name, count in manifest.support.items()):
        raise ModelRefused(f"{where}: the support must count recyclings by segment and disposition")
