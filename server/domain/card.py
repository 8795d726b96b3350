"""A card and its state at a moment. Knows validity and lifecycle; must not know what a platform pays."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    HELD = "HELD"
    RELEASED = "RELEASED"


class VoidReason(StrEnum):
    """Why a card ends outside of recycling."""

    REFUNDED = "REFUNDED"
    CHARGEBACK = "CHARGEBACK"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One membership card as its row has it. Money in minor units; `version` rises with every change.

    A card is held, for a review, from `held_since` until `hold_until` or an earlier verdict: nothing but a void can be
    done to it, and its validity stands still. From `hold_until` on it is free, whether its row says so yet or not.
    """

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
    held_since: datetime | None = None
    hold_until: datetime | None = None

    @property
    def etag(self) -> str:
        """Changes with every change of the card."""
        return f"v{self.version}"

    @property
    def duration(self) -> timedelta:
        """The full validity."""
        return self.duration_days * DAY

    def at(self, now: datetime) -> Card:
        """The card as time has left it at `now`: a hold that has lapsed is over."""
        return self.released(self.hold_until) if self.hold_until is not None and self.hold_until <= now else self

    def held(self, now: datetime, until: datetime) -> Card:
        """The card held from `now` on."""
        return replace(self, held_since=now, hold_until=until, version=self.version + 1)

    def released(self, moment: datetime) -> Card:
        """The card free again at `moment`. What of its validity was running has stood still meanwhile; a bound that
        had passed before the hold stays, since its owner lost nothing by the hold."""
        assert self.held_since is not None
        free = replace(self, held_since=None, hold_until=None, version=self.version + 1)
        bound = self.bound()
        if bound is None or bound <= self.held_since:
            return free
        moved = bound + (moment - self.held_since)
        return (
            replace(free, expire_time=moved)
            if self.state is CardState.ACTIVE
            else replace(free, activate_by_time=moved)
        )

    def state_at(self, now: datetime) -> CardState:
        """The state at `now`: an ACTIVE or ISSUED card whose bound has passed is EXPIRED (bounds are half-open). While
        a card is held its state is that in which the hold found it."""
        card = self.at(now)
        bound = card.bound()
        return CardState.EXPIRED if bound is not None and bound <= (card.held_since or now) else card.state

    def is_held_at(self, now: datetime) -> bool:
        """Whether the card is held at `now`."""
        return self.hold_until is not None and now < self.hold_until

    def valid_until(self, now: datetime) -> datetime | None:
        """When time alone will next change what can be done with the card, after `now`; None when it will not."""
        card = self.at(now)
        bound = card.hold_until or card.bound()
        return bound if bound is not None and now < bound else None

    def bound(self) -> datetime | None:
        """When time alone ends, or has ended, the stored state of a card that is not held; None when it does not."""
        if self.state is CardState.ACTIVE:
            return self.expire_time
        if self.state is CardState.ISSUED:
            return self.activate_by_time
        return None

    def unused_at(self, now: datetime) -> timedelta:
        """Validity not yet run: all of it for ISSUED, the rest for ACTIVE, none otherwise."""
        card = self.at(now)
        match self.state_at(now):
            case CardState.ISSUED:
                return card.duration
            case CardState.ACTIVE if card.expire_time is not None:
                return card.expire_time - (card.held_since or now)
            case _:
                return timedelta(0)
