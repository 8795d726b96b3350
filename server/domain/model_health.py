"""How fraud models fare, in figures. Knows their names; must not know how one is measured, nor what a feature is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureHealth:
    """One feature beside training: population stability index, and shares of requests where it is unknown."""

    name: str
    null_rate: float
    psi: float | None = None
    expected_null_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """The requests with scores in [low, high)."""

    low: float
    high: float
    rows: int
    mean_score: float
    positive_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Scores beside what became of the requests."""

    rows: int
    positives: int
    bins: tuple[CalibrationBin, ...]
    ece: float | None = None
    brier: float | None = None
    slope: float | None = None
    auc: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengerHealth:
    """A challenger beside the model that decided, on the requests that both scored."""

    model_version: str
    rows: int
    labelled_rows: int
    band_agreement: float | None = None
    score_correlation: float | None = None
    champion_auc: float | None = None
    challenger_auc: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured of one model; None is what cannot be told."""

    reference_known: bool
    features: tuple[FeatureHealth, ...]
    calibration: Calibration
    challengers: tuple[ChallengerHealth, ...]
    alert_rate: float | None = None
    alert_rate_low: float | None = None
    alert_rate_high: float | None = None
    score_psi: float | None = None

    @property
    def alert_rate_expected(self) -> bool | None:
        """Whether the alert rate lies within what training lets expect."""
        if self.alert_rate is None or self.alert_rate_low is None or self.alert_rate_high is None:
            return None
        return self.alert_rate_low <= self.alert_rate <= self.alert_rate_high


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHealth:
    """One model: how many requests it scored, when last (None: only in the mature window), and its figures."""

    model_version: str
    rows: int
    last_time: datetime | None
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionModelUse:
    """A model of conversions: in how many decisions it was heard, and when last."""

    model_version: str
    rows: int
    last_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """[from_time, to_time)."""

    from_time: datetime
    to_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """How models fare: `recent` requests tell of drift, `mature` ones of calibration; at most `rows_max` of each."""

    recent: Window
    mature: Window
    rows_max: int
    rows: int
    degraded_rows: int
    models: tuple[ModelHealth, ...]
    conversion_models: tuple[ConversionModelUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthQuestion:
    """What is asked; None stands for the default: the last seven days, all platforms, 30 days."""

    from_time: datetime | None = None
    to_time: datetime | None = None
    platform: str | None = None
    mature_days: int | None = None
