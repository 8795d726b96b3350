"""A card and its state at a moment. Knows validity and lifecycle; must not know what a platform pays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


class CardState(StrEnum):
    """Where a card stands. A row never says EXPIRED: it follows from the row and the time. An event tells that it has
    happened, once somebody has noticed."""

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
    EXPIRED = "EXPIRED"
    """Its bound has passed."""
    CLOSED = "CLOSED"
    """The time in which it could come back is over."""
    BOUND = "BOUND"
    """A device was bound to it."""


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

    `expired_bound`: the bound whose passing an event tells already. `bound_devices`: keyed hashes, the earliest first.
    `comes_back_until`: the end of the time in which a RECYCLED card can come back, exclusive; it is no part of the row,
    but follows from its live recycling and that one's policy. From then on the card is VOID, whatever its row says.
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
    expired_bound: datetime | None = None
    bound_devices: tuple[bytes, ...] = ()
    comes_back_until: datetime | None = None

    @property
    def etag(self) -> str:
        """Changes with every change of the card."""
        return f"v{self.version}"

    @property
    def duration(self) -> timedelta:
        """The full validity."""
        return self.duration_days * DAY

    @property
    def recorded_state(self) -> CardState:
        """The state that its events tell: EXPIRED from the event on that says so."""
        bound = self.bound()
        return CardState.EXPIRED if bound is not None and bound == self.expired_bound else self.state

    def at(self, now: datetime) -> Card:
        """The card as time has left it at `now`, as it will be recorded: a hold that has lapsed is over, and what has
        expired or closed since is so."""
        card = self.released(self.hold_until) if self.hold_until is not None and self.hold_until <= now else self
        if card.has_expired(now):
            return card.expired()
        return card.closed() if card.has_closed(now) else card

    def has_expired(self, now: datetime) -> bool:
        """Whether its bound has passed and no event tells so yet. A held card's validity stands still."""
        bound = self.bound()
        return self.hold_until is None and bound is not None and bound <= now and bound != self.expired_bound

    def has_closed(self, now: datetime) -> bool:
        """Whether it waits in vain: the time in which it could come back is over, and the row does not say so yet."""
        waits = self.state is CardState.RECYCLED and self.hold_until is None
        return waits and self.comes_back_until is not None and self.comes_back_until <= now

    def expired(self) -> Card:
        """The card after the event that tells of its expiry."""
        return replace(self, expired_bound=self.bound(), version=self.version + 1)

    def closed(self) -> Card:
        """The waiting card ended."""
        return replace(self, state=CardState.VOID, comes_back_until=None, version=self.version + 1)

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
