"""The scorer: a model folder on disk becomes probabilities of abuse.

Knows the files of a model folder (`model.txt`, `manifest.json`), checks them before it loads them, and knows how to
score a matrix of features. Must not know where rows come from, gRPC, or what follows from a score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

import lightgbm as lgb
import msgspec
import numpy as np
import numpy.typing as npt

from fraud_worker import probe
from fraud_worker.identity import version_of
from fraud_worker.registry import FEATURE_NAMES, FEATURES, REGISTRY_NAME, registry_sha256

MODEL_FILE: Final = "model.txt"
MANIFEST_FILE: Final = "manifest.json"

_LOWEST: Final = np.array([feature.lowest for feature in FEATURES])
_HIGHEST: Final = np.array([feature.highest for feature in FEATURES])


class ModelRefused(Exception):
    """A model folder is incomplete, was changed after training, follows another feature registry, or does not score."""


class RowsRefused(ValueError):
    """A value is not finite or out of its feature's range; `row` and `feature` say which."""

    def __init__(self, row: int, feature: str, why: str) -> None:
        super().__init__(f"row {row}, {feature}: {why}")
        self.row, self.feature, self.why = row, feature, why


SLOPE_MAX: Final = 100.0
INTERCEPT_MAX: Final = 100.0
"""A calibration beyond these makes every score 0 or 1."""
SELF_TEST_TOLERANCE: Final = 1e-6
"""How far a raw score of the self-test may be off the one in the manifest."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Platt scaling: probability = 1 / (1 + exp(-(slope * raw + intercept))), slope > 0."""

    method: str
    slope: float
    intercept: float

    def probabilities(self, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Raw scores (log odds) to probabilities, in the same order."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.slope * raw + self.intercept, -500.0, 500.0)))


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """From `medium` on a request is MEDIUM, from `high` on HIGH; `rule` says how they were found."""

    medium: float
    high: float
    rule: str


class Bins(msgspec.Struct, frozen=True, kw_only=True):
    """How one feature, or the score, spread when the model was trained; what is served is compared with it."""

    edges: Sequence[float]
    """Ascending. Bin 0 lies below the first, bin i from edge i - 1 on and below edge i, the last from the last on."""
    shares: Sequence[float]
    """Expected share of each bin: one more than edges. With `unknown` they sum to 1."""
    unknown: float
    """Expected share of unknown values: the null rate."""

    def is_sound(self) -> bool:
        """Whether edges ascend, and each bin has a share."""
        return list(self.edges) == sorted(set(self.edges)) and len(self.shares) == len(self.edges) + 1

    def counts(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """How many of `values` fall into each bin, the unknown (NaN) last."""
        known = values[~np.isnan(values)]
        binned = np.bincount(np.searchsorted(self.edges, known, side="right"), minlength=len(self.edges) + 1)
        return np.append(binned, len(values) - len(known)).astype(np.int64)


class AlertRate(msgspec.Struct, frozen=True, kw_only=True):
    """The share of requests that are not LOW, on the latest mature slice."""

    share: float
    low: float
    high: float
    """Bounds of a 95 % band: whole days drawn anew, and no narrower than the binomial (Wilson) one."""
    rows: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model: enough to refuse a wrong one, and to train it again."""

    version: str
    """Of all that stands here but `train_time`; see `identity`."""
    model_sha256: str
    feature_registry: str
    feature_registry_sha256: str
    features: Sequence[str]
    train_time: str
    """ISO 8601, UTC."""
    command: str
    """What was run; file names without their folders."""
    seed: int
    label_delay_hours: float
    data_window: Sequence[str]
    """First and last moment of the events that trained, ISO 8601."""
    rows: dict[str, dict[str, int]]
    """For each slice: rows, positives."""
    trees: int
    calibration: Calibration
    thresholds: Thresholds
    costs: dict[str, float]
    metrics: dict[str, Any]
    """Of rows that the trees which scored them had not seen; `validation` says which."""
    libraries: dict[str, str]
    validation: str = ""
    """How the scores came about on which calibration, thresholds, metrics and bins rest."""
    calibration_window: Sequence[str] = ()
    """First and last moment of the rows that calibrate, ISO 8601."""
    parameters: dict[str, Any] = {}
    """What the trees were grown with."""
    attack_copies: int = 0
    """Made-up abuse of low weight that trained beside the rows of the log."""
    self_test: Sequence[float] = ()
    """The raw scores that the trees gave the probe's rows where they were trained; where they are not told, any will
    do."""
    alert_rate: AlertRate | None = None
    score_bins: Bins | None = None
    feature_bins: dict[str, Bins] = {}
    """For each feature. Like `score_bins`, of the rows that calibrate."""


class Model:
    """A verified model. Immutable; safe to share between tasks."""

    def __init__(self, manifest: Manifest, booster: lgb.Booster) -> None:
        self.manifest: Final = manifest
        self._booster: Final = booster

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model in `folder`: its manifest is checked, then its trees' hash, then the trees in another process
        (`probe`), and only what passes is parsed in this one. Takes a second or two. Raises `ModelRefused`."""
        model = cls(*opened(folder, Manifest, "abuse", _check))
        model.self_test()
        return model

    @property
    def version(self) -> str:
        """The manifest's: of everything that decides."""
        return self.manifest.version

    def score(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Calibrated probabilities of abuse of `rows` (n by the registry's features, NaN for unknown), in order.

        One call of the trees a batch, on the calling thread. Raises `RowsRefused`.
        """
        check_rows(rows)
        return self.probabilities(rows)

    def probabilities(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """As `score`, of rows that were checked already."""
        if not len(rows):
            return np.empty(0)
        return self.manifest.calibration.probabilities(self.raw(rows))

    def raw(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The trees' sum for each row: log odds before calibration."""
        return np.asarray(self._booster.predict(rows, raw_score=True, num_threads=1), dtype=np.float64)

    def contributions(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What each feature adds to the raw score of each row (SHAP values, log odds), and the base value as the last
        column: each row adds up to its raw score. Takes hundreds of times as long as `raw`."""
        return np.asarray(self._booster.predict(rows, pred_contrib=True, num_threads=1), dtype=np.float64)

    def self_test(self) -> None:
        """Scores the probe's rows. Raises `ModelRefused` when that gives anything but probabilities."""
        probabilities = self.score(probe.rows())
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ModelRefused(f"model {self.version} does not give probabilities: {probabilities[:3].tolist()}")


class AnyManifest(Protocol):
    """What the manifests of all kinds of models say."""

    @property
    def version(self) -> str: ...
    @property
    def model_sha256(self) -> str: ...
    @property
    def feature_registry(self) -> str: ...
    @property
    def feature_registry_sha256(self) -> str: ...
    @property
    def train_time(self) -> str: ...
    @property
    def trees(self) -> int: ...
    @property
    def calibration(self) -> Calibration: ...
    @property
    def self_test(self) -> Sequence[float]: ...


M = TypeVar("M", bound=AnyManifest)


def opened(
    folder: Path, manifest_type: type[M], kind: probe.Kind, check: Callable[[M, Path], None]
) -> tuple[M, lgb.Booster]:
    """Manifest and trees of `folder`. The manifest is checked, also by `check`, then the trees' hash, then the trees in
    another process, and only what passes is parsed in this one. Raises `ModelRefused`."""
    manifest, content = _verified(folder, manifest_type)
    check(manifest, folder)
    try:
        trees, raw = probe.probed(content, kind)
    except probe.ProbeFailed as error:
        raise ModelRefused(f"{folder / MODEL_FILE} is refused: {error}") from error
    if trees != manifest.trees:
        raise ModelRefused(f"{folder / MANIFEST_FILE} tells of {manifest.trees:,} trees, and there are {trees:,}")
    told = manifest.self_test
    if told and not (len(told) == len(raw) and np.allclose(told, raw, rtol=0, atol=SELF_TEST_TOLERANCE)):
        raise ModelRefused(f"{folder / MODEL_FILE} does not give the scores that its manifest tells of")
    return manifest, lgb.Booster(model_str=content.decode())


def _verified(folder: Path, manifest_type: type[M]) -> tuple[M, bytes]:
    """Manifest and trees of `folder`: what can be told of them without parsing trees. Raises `ModelRefused`."""
    where = folder / MANIFEST_FILE
    try:
        fields = msgspec.json.decode(where.read_bytes())
        manifest = msgspec.convert(fields, type=manifest_type)
        content = (folder / MODEL_FILE).read_bytes()
    except OSError as error:
        raise ModelRefused(f"{folder} is not a model folder: {error.strerror}: {error.filename}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRefused(f"{where}: {error}") from error
    if hashlib.sha256(content).hexdigest() != manifest.model_sha256:
        raise ModelRefused(f"{folder / MODEL_FILE} is not the file that its manifest describes: its SHA-256 differs")
    if (version := version_of(fields)) != manifest.version:
        why = f"changed after training: it says version {manifest.version}, and what it holds is version {version}"
        raise ModelRefused(f"{where} was {why}")
    if manifest.feature_registry_sha256 != registry_sha256() or manifest.feature_registry != REGISTRY_NAME:
        raise ModelRefused(
            f"{folder} follows another feature registry than {REGISTRY_NAME} of this worker: train it again"
        )
    calibration = manifest.calibration
    if not (0 < calibration.slope <= SLOPE_MAX and abs(calibration.intercept) <= INTERCEPT_MAX):
        raise ModelRefused(
            f"{where}: the calibration must have 0 < slope <= {SLOPE_MAX:g} and"
            f" -{INTERCEPT_MAX:g} <= intercept <= {INTERCEPT_MAX:g}"
        )
    if not _is_aware(manifest.train_time):
        raise ModelRefused(f"{where}: train_time must be a time in ISO 8601 with its offset")
    return manifest, content


def _check(manifest: Manifest, folder: Path) -> None:
    where = folder / MANIFEST_FILE
    if tuple(manifest.features) != FEATURE_NAMES:
        raise ModelRefused(f"{where} contradicts itself: its features are not those of {REGISTRY_NAME}")
    if not 0 < manifest.thresholds.medium <= manifest.thresholds.high <= 1:
        raise ModelRefused(f"{where}: the thresholds must satisfy 0 < medium <= high <= 1")
    bins = {**manifest.feature_bins, "score_bins": manifest.score_bins}
    if wrong := next((name for name, each in bins.items() if each is not None and not each.is_sound()), None):
        raise ModelRefused(f"{where}: the bins of {wrong} need ascending edges, and one share more than edges")


def _is_aware(time: str) -> bool:
    try:
        return datetime.fromisoformat(time).tzinfo is not None
    except ValueError:
        return False


def check_rows(rows: npt.NDArray[np.float64]) -> None:
    """Raises `RowsRefused` at the first value that is infinite or out of its feature's range."""
    if rows.ndim != 2 or rows.shape[1] != len(FEATURES):
        raise ValueError(f"expected rows of {len(FEATURES)} features, got an array of shape {rows.shape}")
    # NaN is below and above nothing.
    outside = (rows < _LOWEST) | (rows > _HIGHEST)
    if outside.any():
        row, column = (int(position) for position in np.argwhere(outside)[0])
        feature = FEATURES[column]
        raise RowsRefused(row, feature.name, f"must lie between {feature.lowest:,.0f} and {feature.highest:,.0f}")
