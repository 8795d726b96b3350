"""What the edge counts: errors by reason, of calls and of items of batches. Must not know who reads it."""

from __future__ import annotations

from opentelemetry import metrics

from server.domain.errors import Refusal

_errors = metrics.get_meter(__name__).create_counter(
    "recycling.errors", unit="{error}", description="Calls and items of batches that failed, by reason."
)


def count_error(refusal: Refusal) -> None:
    """A call, or an item of a batch, failed."""
    _errors.add(1, {"reason": refusal.reason})
