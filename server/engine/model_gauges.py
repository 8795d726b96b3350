"""The health of the model in use as metrics, refreshed now and then from the decisions on record.

Knows the gauges' names; must not know who reads them. Every server tells the same, since the records are the source.
"""

from __future__ import annotations

import asyncio
import logging

from opentelemetry import metrics

from server.domain.errors import Refusal
from server.domain.model_health import HealthQuestion, HealthReport
from server.engine.model_health import ModelHealthReporter

log = logging.getLogger(__name__)


class ModelGauges:
    """Gauges of the model that scored last; what cannot be told keeps its last value."""

    def __init__(self, meter: metrics.Meter | None = None) -> None:
        meter = meter or metrics.get_meter(__name__)
        self._psi = meter.create_gauge("fraud_model_psi", description="Population stability index of each feature.")
        self._score_psi = meter.create_gauge(
            "fraud_model_score_psi", description="Population stability index of the scores."
        )
        self._null_rate = meter.create_gauge(
            "fraud_model_null_rate", description="Share of requests where a feature was unknown."
        )
        self._alert_rate = meter.create_gauge(
            "fraud_model_alert_rate", description="Share of requests that were MEDIUM or HIGH."
        )
        self._ece = meter.create_gauge(
            "fraud_model_ece", description="Expected calibration error on requests whose outcome is known."
        )

    def show(self, report: HealthReport) -> None:
        """Sets the gauges."""
        model = next((each for each in report.models if each.rows), None)
        if model is None:
            return
        figures = model.figures
        for feature in figures.features:
            attributes = {"feature": feature.name}
            self._null_rate.set(feature.null_rate, attributes)
            if feature.psi is not None:
                self._psi.set(feature.psi, attributes)
        for gauge, value in (
            (self._score_psi, figures.score_psi),
            (self._alert_rate, figures.alert_rate),
            (self._ece, figures.calibration.ece),
        ):
            if value is not None:
                gauge.set(value)


async def keep_gauges(reporter: ModelHealthReporter, gauges: ModelGauges, every_s: float) -> None:
    """Refreshes the gauges every `every_s` seconds, for ever. What fails is logged, and tried again the next time."""
    while True:
        await asyncio.sleep(every_s)
        try:
            gauges.show(await reporter.report(HealthQuestion()))
        except Refusal as refusal:
            log.warning("the model's health cannot be told: %s", refusal.reason)
        except Exception as error:
            log.warning("the model's health cannot be told: %s: %s", type(error).__name__, error)
