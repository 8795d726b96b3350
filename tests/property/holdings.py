"""What accounts hold and wait for, and what a card's recycle would pay, told a second time: from the rules in words.

Knows no account, no command and none of the server's code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

from tests.property.rules import TIERS, Rules

US = timedelta(microseconds=1)
DAY = timedelta(days=1)
POINT = "GROWTH_POINT"


class No(Exception):
    """The service must refuse, for this reason."""


@dataclass
class Card:
    """A card. `bound` ends its ISSUED or ACTIVE time by itself, None never; `expired`: whether that has happened."""

    card_id: UUID
    platform: str
    tier: str
    face: int
    paid: int
    days: int
    bound: datetime | None
    state: str = "ISSUED"
    activated: bool = False
    generation: int = 1
    renewals: int = 0
    version: int = 1
    taken_by: Recycling | None = None
    hold: Review | None = None
    expired: bool = False
    charged_back: bool = False
    devices: list[bytes] = field(default_factory=list)

    def pass_time(self, now: datetime) -> None:
        """What its own bounds do to a card that is not held. It waits for a reactivation no longer than it can come."""
        if self.hold is not None:
            return
        if self.state in ("ISSUED", "ACTIVE") and self.bound is not None and self.bound <= now and not self.expired:
            self.expired, self.version = True, self.version + 1
        if self.state == "RECYCLED" and self.taken_by is not None and self.taken_by.window_end <= now:
            self.state, self.version = "VOID", self.version + 1

    def state_at(self, now: datetime) -> str:
        """Its state; while it is held, that in which the hold found it."""
        moment = self.hold.created if self.hold else now
        running = self.state in ("ISSUED", "ACTIVE") and self.bound is not None
        return "EXPIRED" if running and self.bound is not None and self.bound <= moment else self.state

    def unused_at(self, now: datetime) -> timedelta:
        """Validity not yet run: all of an ISSUED card's, the rest of an ACTIVE one's."""
        state = self.state_at(now)
        if state == "ISSUED":
            return self.days * DAY
        moment = self.hold.created if self.hold else now
        return self.bound - moment if state == "ACTIVE" and self.bound is not None else timedelta(0)

    def release(self, moment: datetime) -> None:
        """Ends its hold: what of its time was running has stood still."""
        assert self.hold is not None
        if self.state in ("ISSUED", "ACTIVE") and self.bound is not None and self.bound > self.hold.created:
            self.bound += moment - self.hold.created
        self.hold = None
        self.version += 1


@dataclass
class Recycling:
    """What became of one recycle, by the `rules` of its moment. `cap` and `coupon_until`: of a coupon. `due`: from when
    on it may be settled."""

    recycling_id: UUID
    card: Card
    state: str
    disposition: str
    fee: int
    amount: int
    cap: int
    owed: str
    settlement_held: bool
    created: datetime
    unused: timedelta
    rules: Rules
    unit: str
    coupon_until: datetime | None
    due: datetime
    moved: timedelta = timedelta(0)
    charged_back: bool = False

    @property
    def window_end(self) -> datetime:
        """Up to when its card can come back."""
        return self.created + self.rules.window[TIERS.index(self.card.tier)] + self.moved

    def has_coupon(self, now: datetime) -> bool:
        """Whether its coupon, once paid, is still good."""
        return self.coupon_until is not None and now < self.coupon_until

    @property
    def platform(self) -> str:
        """Whose card it took."""
        return self.card.platform

    @property
    def coupon_id(self) -> UUID:
        """A coupon's id is that of what gave it."""
        return self.recycling_id

    def reject(self) -> None:
        """Nothing is taken and nothing owed."""
        self.state, self.disposition, self.fee, self.amount, self.cap, self.owed = "REJECTED", "", 0, 0, 0, ""
        self.coupon_until = None
        self.settlement_held = False


@dataclass
class Redemption:
    """What an offer gave. `cap` and `coupon_until`: of a coupon."""

    platform: str
    offer_id: str
    cap: int
    coupon_until: datetime | None
    redemption_id: UUID | None = None

    def has_coupon(self, now: datetime) -> bool:
        """Whether its coupon is still good."""
        return self.coupon_until is not None and now < self.coupon_until

    @property
    def coupon_id(self) -> UUID | None:
        """A coupon's id is that of what gave it."""
        return self.redemption_id


@dataclass
class Review:
    """What waits for a verdict. `review_id` is learnt from the database: no answer tells it."""

    kind: str
    recycling: Recycling
    created: datetime
    until: datetime | None
    state: str = "OPEN"
    review_id: UUID | None = None
    reviewer: str = ""
    claim_until: datetime | None = None


@dataclass
class Quote:
    """Terms that are held until `until`, of a card in one version, by one revision."""

    token: str
    card: Card
    version: int
    terms: tuple[Any, ...]
    disposition: str
    until: datetime


@dataclass
class Told:
    """What an answer must say, by its fields' paths; `made` gets the id of what is new."""

    says: dict[str, Any]
    made: Recycling | Redemption | Card | Quote | None = None


@dataclass(frozen=True)
class Terms:
    """What a card's recycle would mean at one moment: `cap` of a coupon."""

    fee: int
    amount: int
    cap: int
    unit: str
    rules: Rules


def base(card: Card, unused: timedelta) -> int:
    """What was paid for the unused part of its time."""
    return card.paid * (unused // US) // (card.days * DAY // US)


def price(card: Card, now: datetime, rules: Rules, bonus: int, share: int | None = None) -> Terms:
    """The price by the policies' table. `bonus`: of dynamic pricing, in basis points. `share`: where growth points are
    wanted in place of coins."""
    unused, tier = card.unused_at(now), TIERS.index(card.tier)
    bonus = min(bonus, rules.bonus_max)
    if card.platform == "iqiyi":
        worth = base(card, unused)
        fee = -(-worth * rules.fee[tier] // 10_000)
        amount = max(0, worth - fee + worth * bonus // 10_000)
        if share is not None and amount:
            return Terms(fee, amount * share // 10_000, 0, POINT, rules)
        return Terms(fee, amount, 0, "COIN", rules)
    if card.platform == "tencent":
        points = rules.per_day[tier] * (unused // DAY) * (10_000 + bonus) // 10_000
        return Terms(0, points if card.renewals == 0 else 0, 0, POINT, rules)
    cap = card.paid * rules.discount // 10_000
    return Terms(0, 1 if cap else 0, cap, "COUPON", rules)


def price_steps(card: Card, now: datetime, terms: Terms) -> datetime | None:
    """The first microsecond at which an ACTIVE card's price is another, by its unused time alone."""
    unused, duration = card.unused_at(now), card.days * DAY
    if card.state_at(now) != "ACTIVE" or not (terms.fee or terms.amount) or card.platform == "netflix":
        return None
    if card.platform == "tencent":
        return now + unused % DAY + US
    worth = base(card, unused)
    if not worth:
        return None
    least = -(-worth * (duration // US) // card.paid)
    return now + unused - least * US + US


def best_disposition(card: Card, segment: str | None, now: datetime, rules: Rules) -> str:
    """The better Y on tencent, where a renewed card can only be cancelled: no model is there, and the segment says how
    probable it is that its owner pays again, and by the rules how much of the damage he takes."""
    if card.platform != "tencent":
        return {"iqiyi": "VOUCHER", "netflix": "CANCEL"}[card.platform]
    worth = base(card, card.unused_at(now))
    pays_again = {"MIDDLE": 612, "SENIOR": 123}.get(segment or "", 321)
    felt = Fraction(rules.feels.get(segment or "", 10_000), 10_000)
    reset = Fraction(card.face * 6 * pays_again, 10_000) - 60 - 40 * felt
    cancel = Fraction(worth, 10) - 20 - 20 * felt
    return "RESET_VALIDITY" if card.renewals == 0 and reset >= cancel else "CANCEL"


def card_says(card: Card, now: datetime, prefix: str = "card.") -> dict[str, Any]:
    """What an answer must tell of it, by path."""
    hold = card.hold
    return {
        f"{prefix}state": f"CARD_STATE_{card.state_at(now)}",
        f"{prefix}generation": card.generation,
        f"{prefix}renewals_used": card.renewals,
        f"{prefix}etag": f"v{card.version}",
        f"{prefix}hold_until": hold.until if hold else None,
        f"{prefix}{'expire_time' if card.activated else 'activate_by_time'}": card.bound,
    }


def recycling_says(recycling: Recycling, prefix: str) -> dict[str, Any]:
    """What an answer must tell of it, by path."""
    held = recycling.state == "IN_REVIEW"
    return {
        f"{prefix}state": f"RECYCLING_STATE_{recycling.state}",
        f"{prefix}disposition": f"DISPOSITION_{recycling.disposition or 'UNSPECIFIED'}",
        f"{prefix}fee_minor": recycling.fee,
        f"{prefix}compensation.amount": recycling.amount,
        f"{prefix}compensation.unit": f"UNIT_{recycling.unit if recycling.amount else 'UNSPECIFIED'}",
        f"{prefix}compensation.expire_time": recycling.coupon_until,
        f"{prefix}compensation.max_discount_minor": recycling.cap,
        f"{prefix}compensation.state": f"COMPENSATION_STATE_{recycling.owed or 'UNSPECIFIED'}",
        f"{prefix}settlement_held": recycling.settlement_held,
        f"{prefix}hold_until": recycling.created + recycling.rules.hold if held else None,
    }
