"""What the engine counts. Knows OpenTelemetry's API and our instruments; must not know who reads them.

Counts are added up a batch and told once, since telling costs more than counting. What a command was decided is counted
when it is recorded, so that one that goes again counts once. No attribute names an account, a card or a device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TypeAlias

from opentelemetry import metrics

from server.domain.commands import Command
from server.domain.errors import Reason
from server.domain.lists import ListHit
from server.domain.recycling import DegradedMode, RecyclingState
from server.domain.risk import VELOCITY_CODE, WITHOUT_DEVICE_CODE
from server.domain.snapshot import Snapshot
from server.engine.ports import DueKind, Entry

_meter = metrics.get_meter(__name__)
_decisions = _meter.create_counter(
    "recycling.decisions",
    unit="{decision}",
    description="Judged requests that were recorded, or failed for want of a score.",
)
_score_failures = _meter.create_counter(
    "recycling.score.failures", unit="{batch}", description="Batches whose scores were not to be had, by cause."
)
_list_hits = _meter.create_counter(
    "recycling.list.hits", unit="{hit}", description="List entries that named a request, by list and subject."
)
_velocity_hits = _meter.create_counter(
    "recycling.velocity.hits", unit="{hit}", description="Caps that a judged request had reached, by counter."
)
_without_device = _meter.create_counter(
    "recycling.without.device",
    unit="{decision}",
    description="Judged requests that named no device, where the policy minds.",
)
_scores = _meter.create_histogram(
    "recycling.risk.score",
    unit="1",
    description="Probabilities that the fraud worker gave.",
    explicit_bucket_boundaries_advisory=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
)
_batch_sizes = _meter.create_histogram(
    "recycling.batch.size",
    unit="{command}",
    description="Commands decided together.",
    explicit_bucket_boundaries_advisory=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)

_swept = _meter.create_counter(
    "recycling.sweep.commands",
    unit="{command}",
    description="What the sweeper found due and submitted, by kind and outcome: RECORDED, or why not.",
)
_sweep_lag = _meter.create_gauge(
    "recycling.sweep.lag", unit="s", description="For how long the oldest item of a kind has been due, unrecorded."
)

_Key: TypeAlias = tuple[str, bool, str, str, str, str, bool]
_KEY_NAMES = ("method", "dry_run", "platform", "outcome", "band", "degraded_mode", "explored")

FAILED = "FAILED"
"""The outcome of a call that failed for want of a score."""

RECORDED = "RECORDED"
"""The outcome of what the sweeper found and nobody had done before."""


def count_batch(size: int) -> None:
    """A batch was taken."""
    _batch_sizes.record(size)


def count_score_failure(cause: str) -> None:
    """The scores of a batch were not to be had."""
    _score_failures.add(1, {"cause": cause})


def count_failed(command: Command, snapshot: Snapshot) -> None:
    """A call failed, since its policy needs a score."""
    platform = snapshot.known_policy().platform
    _add_decisions((command.method, command.dry_run, platform, FAILED, "", DegradedMode.REJECT, False), 1)


def count_swept(kind: DueKind, recorded: int, refusals: Iterable[Reason]) -> None:
    """The sweeper submitted what was due of one kind."""
    for outcome, number in (Counter({RECORDED: recorded}) + Counter(map(str, refusals))).items():
        _swept.add(number, {"kind": kind, "outcome": outcome})


def tell_sweep_lags(lags: Mapping[DueKind, timedelta]) -> None:
    """How far the sweeper is behind."""
    for kind, lag in lags.items():
        _sweep_lag.set(lag.total_seconds(), {"kind": kind})


def count_list_hits(hits: Iterable[ListHit]) -> None:
    """List entries named a request."""
    for (kind, subject_kind), number in Counter((hit.list, hit.subject_kind) for hit in hits).items():
        _list_hits.add(number, {"list": kind, "subject_kind": subject_kind})


def count_decisions(entries: Iterable[Entry]) -> None:
    """Commands were recorded; those that risk has judged are counted."""
    decisions: Counter[_Key] = Counter()
    hits: list[ListHit] = []
    caps: Counter[str] = Counter()
    nameless: Counter[str] = Counter()
    for entry in entries:
        command, change, decision = entry.command, entry.change, entry.change.decision
        if decision is None:
            continue
        outcome = RecyclingState.APPROVED
        if change.refused or change.held:
            outcome = RecyclingState.REJECTED if change.refused else RecyclingState.IN_REVIEW
        band, mode = decision.risk_band or "", decision.degraded_mode or ""
        platform = change.known_card().platform
        decisions[command.method, command.dry_run, platform, outcome, band, mode, decision.explored] += 1
        if decision.risk_score is not None:
            _scores.record(decision.risk_score)
        hits += decision.list_hits
        caps.update(code for code in decision.reason_codes if code.startswith(VELOCITY_CODE))
        nameless[platform] += WITHOUT_DEVICE_CODE in decision.reason_codes
    for key, number in decisions.items():
        _add_decisions(key, number)
    count_list_hits(hits)
    for code, number in caps.items():
        _velocity_hits.add(number, {"counter": code.removeprefix(VELOCITY_CODE).lower()})
    for platform, number in nameless.items():
        _without_device.add(number, {"platform": platform})


def _add_decisions(key: _Key, number: int) -> None:
    _decisions.add(number, dict(zip(_KEY_NAMES, key, strict=True)))
