"""A card and its state at a moment. Knows validity and lifecycle; must not know what a platform pays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


class CardState(StrEnum):
    """Where a card stands. EXPIRED is never stored: it follows from the row and the time."""

    ISSUED = "ISSUED"
    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    RECYCLED = "RECYCLED"
    VOID = "VOID"


class CardEventKind(StrEnum):
    """What happened to a card."""

    ISSUED = "ISSUED"
    ACTIVATED = "ACTIVATED"
    RECYCLED = "RECYCLED"
    REACTIVATED = "REACTIVATED"
    VOIDED = "VOIDED"


class VoidReason(StrEnum):
    """Why a card ends outside of recycling."""

    REFUNDED = "REFUNDED"
    CHARGEBACK = "CHARGEBACK"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One membership card as its row has it. Money in minor units; `version` rises with every change."""

    card_id: UUID
    account_id: str
    external_serial: str | None
    platform: str
    tier: str
    segment: str | None
    state: CardState
    face_value_minor: int
    paid_minor: int
    currency: str
    duration_days: int
    issue_time: datetime
    activate_by_time: datetime | None
    activate_time: datetime | None
    expire_time: datetime | None
    generation: int
    renewals_used: int
    live_recycling_id: UUID | None
    version: int

    @property
    def etag(self) -> str:
        """Changes with every change of the card."""
        return f"v{self.version}"

    @property
    def duration(self) -> timedelta:
        """The full validity."""
        return self.duration_days * DAY

    def state_at(self, now: datetime) -> CardState:
        """The state at `now`: an ACTIVE or ISSUED card whose bound has passed is EXPIRED (bounds are half-open)."""
        bound = self.bound()
        return CardState.EXPIRED if bound is not None and bound <= now else self.state

    def valid_until(self, now: datetime) -> datetime | None:
        """When time alone will next change the state, after `now`; None when it will not."""
        bound = self.bound()
        return bound if bound is not None and now < bound else None

    def bound(self) -> datetime | None:
        """When time alone ends, or has ended, the stored state; None when it does not."""
        if self.state is CardState.ACTIVE:
            return self.expire_time
        if self.state is CardState.ISSUED:
            return self.activate_by_time
        return None

    def unused_at(self, now: datetime) -> timedelta:
        """Validity not yet run: all of it for ISSUED, the rest for ACTIVE, none otherwise."""
        match self.state_at(now):
            case CardState.ISSUED:
                return self.duration
            case CardState.ACTIVE if self.expire_time is not None:
                return self.expire_time - now
            case _:
                return timedelta(0)
