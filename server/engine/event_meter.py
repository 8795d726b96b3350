"""What is counted of events on their way out. Knows OpenTelemetry's API and our instruments; must not know who
reads."""

from __future__ import annotations

from opentelemetry import metrics

_meter = metrics.get_meter(__name__)
_watchers = _meter.create_up_down_counter(
    "recycling.events.watchers", unit="{stream}", description="Streams of WatchEvents that are open."
)
_told = _meter.create_counter("recycling.events.told", unit="{event}", description="Events sent through WatchEvents.")
_delay = _meter.create_gauge(
    "recycling.events.delay",
    unit="s",
    description="How long a recorded event has been waiting for an older transaction to end.",
)
_published = _meter.create_counter(
    "recycling.relay.published", unit="{event}", description="Events that the relay published, and were acknowledged."
)
_failures = _meter.create_counter(
    "recycling.relay.failures", unit="{failure}", description="Times that the relay could not publish."
)
_lag = _meter.create_gauge(
    "recycling.relay.lag", unit="s", description="How long the next event has been waiting to be published."
)


def count_watchers(change: int) -> None:
    """So many more streams are open."""
    _watchers.add(change)


def count_told(events: int) -> None:
    """Events were sent to a watcher."""
    _told.add(events)


def show_delay(seconds: float) -> None:
    """How long the first event waits that is recorded, but not told."""
    _delay.set(seconds)


def count_published(events: int) -> None:
    """Events were published."""
    _published.add(events)


def count_failure() -> None:
    """Events could not be published."""
    _failures.add(1)


def show_lag(seconds: float) -> None:
    """How long the first event waits that is not published."""
    _lag.set(seconds)
