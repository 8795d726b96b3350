"""The record of one review: what waits for a person's verdict, and how that ended. Knows its words and states; must not
know what a verdict does to cards and recyclings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from server.domain.recycling import Decision, Recycling, RiskBand

CLAIM_LEASE = timedelta(minutes=15)
"""How long a claimed review is its reviewer's alone."""
CLAIMS_MAX = 20
"""How many reviews one reviewer may have claimed at once, unless told otherwise: nobody keeps the others' work."""


class ReviewKind(StrEnum):
    """What waits. RECYCLE and REACTIVATE hold the card; SETTLEMENT only holds back what is owed, and never lapses."""

    RECYCLE = "RECYCLE"
    REACTIVATE = "REACTIVATE"
    SETTLEMENT = "SETTLEMENT"


class ReviewState(StrEnum):
    """Where a review stands. CLAIMED is never stored: it follows from the lease and the time."""

    OPEN = "OPEN"
    CLAIMED = "CLAIMED"
    APPROVED = "APPROVED"
    DENIED = "DENIED"
    EXPIRED = "EXPIRED"
    CLOSED = "CLOSED"
    """Ended without a verdict, since there was nothing left to decide: the card was voided or given back."""


class ReviewVerdict(StrEnum):
    """What a reviewer says."""

    APPROVE = "APPROVE"
    DENY = "DENY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One review. `request_id` is that of the command which opened it; `version` rises with every change."""

    review_id: UUID
    request_id: UUID
    account_id: str
    card_id: UUID
    recycling_id: UUID
    kind: ReviewKind
    platform: str
    state: ReviewState
    create_time: datetime
    hold_until: datetime | None
    risk_score: float | None
    risk_band: RiskBand | None
    reason_codes: tuple[str, ...]
    policy_revision: str
    model_version: str
    claimed_by: str | None = None
    claim_until: datetime | None = None
    reviewer: str | None = None
    note: str = ""
    resolve_time: datetime | None = None
    version: int = 1

    @property
    def etag(self) -> str:
        """Changes with every change of the review, a claim too."""
        return f"r{self.version}"

    @property
    def holds_card(self) -> bool:
        """Whether the card is held for it."""
        return self.kind is not ReviewKind.SETTLEMENT

    def is_lapsed_at(self, now: datetime) -> bool:
        """Whether its hold has ended by itself and nobody has recorded that yet."""
        return self.state is ReviewState.OPEN and self.hold_until is not None and self.hold_until <= now

    def at(self, now: datetime) -> Review:
        """The review as time has left it at `now`: CLAIMED while the lease runs, EXPIRED from the hold's end on."""
        if self.is_lapsed_at(now):
            assert self.hold_until is not None
            return self.ended(ReviewState.EXPIRED, self.hold_until)
        if self.state is ReviewState.OPEN and self.claim_until is not None:
            if now < self.claim_until:
                return replace(self, state=ReviewState.CLAIMED)
            return replace(self, claimed_by=None, claim_until=None)
        return self

    def ended(self, state: ReviewState, now: datetime, *, reviewer: str | None = None, note: str = "") -> Review:
        """The review after its end at `now`."""
        return replace(
            self,
            state=state,
            claimed_by=None,
            claim_until=None,
            reviewer=reviewer,
            note=note,
            resolve_time=now,
            version=self.version + 1,
        )


def opened(
    kind: ReviewKind,
    recycling: Recycling,
    recycling_id: UUID,
    decision: Decision,
    *,
    review_id: UUID,
    request_id: UUID,
    now: datetime,
    hold_until: datetime | None = None,
) -> Review:
    """A new review of what `decision` found suspicious."""
    return Review(
        review_id=review_id,
        request_id=request_id,
        account_id=recycling.account_id,
        card_id=recycling.card_id,
        recycling_id=recycling_id,
        kind=kind,
        platform=recycling.platform,
        state=ReviewState.OPEN,
        create_time=now,
        hold_until=hold_until,
        risk_score=decision.risk_score,
        risk_band=decision.risk_band,
        reason_codes=decision.reason_codes,
        policy_revision=decision.policy_revision,
        model_version=decision.model_version,
    )
