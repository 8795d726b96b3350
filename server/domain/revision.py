"""A policy's revisions as records: who made them, and since when they govern. Knows no rule of any policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from server.domain.policy import TIERS, Policy

ACTIVATION_LEAD = timedelta(seconds=10)
"""So far ahead is an activation at least: whatever is decided by then has read of it."""


class PolicyState(StrEnum):
    """Whether a revision governs."""

    DRAFT = "DRAFT"
    SCHEDULED = "SCHEDULED"
    IN_FORCE = "IN_FORCE"
    SUPERSEDED = "SUPERSEDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRevision:
    """One revision as it stands. `effective_time`: of its latest activation; None for a draft. `etag` is that of the
    whole platform."""

    platform: str
    revision: int
    document: str
    document_sha256: bytes
    state: PolicyState
    effective_time: datetime | None
    create_time: datetime
    actor: str
    note: str
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionDraft:
    """A document to keep. `etag`: that the platform must still have; empty for any."""

    platform: str
    document: str
    etag: str
    actor: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A revision that shall govern from `effective_time` on; None: as soon as may be."""

    platform: str
    revision: int
    effective_time: datetime | None
    etag: str
    actor: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRevision:
    """A revision that bears on what may be gained: it governs now or will (`planned`), or did so until `superseded`."""

    platform: str
    revision: int
    superseded: datetime | None
    planned: bool


def lingers(policy: Policy, superseded: datetime, now: datetime) -> bool:
    """Whether cards that were recycled under a former revision can still come back. Holds prolong a window; one hold
    after the other, a year of them, is reckoned with."""
    if policy.reactivation is None:
        return False
    window = max(policy.for_tier(tier).reactivation.window_days for tier in TIERS)  # type: ignore[union-attr]
    return now < superseded + timedelta(days=window + 366)
