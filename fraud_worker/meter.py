"""What the worker counts. Knows OpenTelemetry's API and our instruments; must not know who reads them.

No attribute names an account, a card or a device: a refused request is told by the field at fault, without its row.
"""

from __future__ import annotations

import re

from opentelemetry import metrics

_meter = metrics.get_meter(__name__)
_scored = _meter.create_counter("fraud.scored", unit="{row}", description="Rows that were scored.")
_refused = _meter.create_counter(
    "fraud.refused", unit="{request}", description="Requests that were not answered, by method and reason."
)
_loads = _meter.create_counter(
    "fraud.model.loads", unit="{model}", description="Models taken from their folders, or refused, by role."
)
_shadow_failures = _meter.create_counter(
    "fraud.shadow.failures", unit="{batch}", description="Batches that a challenger failed to score."
)

_conversion_failures = _meter.create_counter(
    "fraud.conversion.failures", unit="{batch}", description="Batches that the conversion model failed to answer."
)

_ROW = re.compile(r"\[\d+\]$")


def count_scored(rows: int) -> None:
    """The champion has scored so many rows."""
    _scored.add(rows)


def count_refused(method: str, reason: str, field: str = "") -> None:
    """A request was not answered; `field` is at fault, where one is."""
    _refused.add(1, {"method": method, "reason": reason, "field": _ROW.sub("", field)})


def count_load(role: str, *, refused: bool) -> None:
    """A model was taken into use as champion, challenger or conversion model, or refused."""
    _loads.add(1, {"role": role, "outcome": "REFUSED" if refused else "LOADED"})


def count_shadow_failure() -> None:
    """A challenger failed."""
    _shadow_failures.add(1)


def count_conversion_failure() -> None:
    """The conversion model failed."""
    _conversion_failures.add(1)
