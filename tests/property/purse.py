"""How wallets must fare, told a second time: from the platforms' offers, rates and caps in words, and not from the
server's code. Of the server it knows the commands, which say what is asked, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from uuid import UUID

from server.domain.commands import Command, Compensate, Exchange, Grant, Reactivate, Recycle, Redeem

DAY = timedelta(days=1)
MONTH = 30 * DAY
WINDOW = 180 * DAY
OFFERS: dict[tuple[str, str], tuple[str, int, int | None, int, timedelta | None]] = {
    ("iqiyi", "jd-voucher-10"): ("COIN", 1000, 5, 1000, None),
    ("iqiyi", "ad-free-week"): ("COIN", 300, None, 250, None),
    ("iqiyi", "renewal-coupon"): ("COIN", 500, 2, 450, 90 * DAY),
    ("iqiyi", "premiere-ticket"): ("GROWTH_POINT", 1000, 4, 900, None),
    ("tencent", "music-month"): ("GROWTH_POINT", 300, 3, 25, None),
    ("tencent", "renewal-coupon"): ("GROWTH_POINT", 200, None, 18, 60 * DAY),
    ("iqiyi", "gone"): ("COIN", 0, 0, 0, None),
}
"""Unit, price, how often in 30 days, what it is worth, and a coupon's life. The last one there is not."""
RATES = {
    ("iqiyi", "GROWTH_POINT", "iqiyi", "COIN"): (10, 9, 200, 1_000_000),
    ("iqiyi", "COIN", "tencent", "GROWTH_POINT"): (1, 10, 300, 100_000),
    ("tencent", "GROWTH_POINT", "iqiyi", "COIN"): (10, 1, 300, 100_000),
}
"""So many for so many, the spread, and the most at once."""
BEST = {
    ("iqiyi", "COIN"): Fraction(1),
    ("iqiyi", "GROWTH_POINT"): Fraction(900, 1000),
    ("tencent", "GROWTH_POINT"): Fraction(97, 1000),
}
"""What one of a unit can be made into at best, in minor units."""
GRANT_MAX, GRANTS_MAX = 2000, 5000
PAYS = {"iqiyi": ("COIN", 2699), "middle": ("GROWTH_POINT", 2833), "tencent": ("GROWTH_POINT", 300)}
"""What an unused card for 29.99 pays: 2,999 less 10 %; that 1.05 times, floored; 10 points for each of 30 days."""


class No(Exception):
    """The service must refuse, for this reason."""


@dataclass
class Card:
    """A card that nobody activates, and its recycling."""

    card_id: UUID
    kind: str
    spent: bool = False
    """It came back with its validity renewed, and earns no more."""
    recycling_id: UUID | None = None
    recycled: datetime | None = None
    owed: str = ""

    @property
    def platform(self) -> str:
        """Whose card it is."""
        return "tencent" if self.kind == "tencent" else "iqiyi"

    @property
    def payout(self) -> Fraction:
        """What it pays, in minor units at best."""
        unit, amount = PAYS[self.kind]
        return Fraction(0) if self.spent else amount * BEST[self.platform, unit]


@dataclass
class Purse:
    """One account. `received`: what partners have given it."""

    account_id: str
    cards: list[Card] = field(default_factory=list)
    held: Counter[tuple[str, str]] = field(default_factory=Counter)
    coupons: dict[UUID, tuple[int, datetime]] = field(default_factory=dict)
    received: int = 0
    taken: list[tuple[tuple[str, str], datetime]] = field(default_factory=list)
    granted: list[tuple[int, datetime]] = field(default_factory=list)
    undone: dict[UUID, str] = field(default_factory=dict)
    """The platforms of recyclings that were reversed."""

    def worth(self, now: datetime) -> Fraction:
        """V: all that it holds at the best rates, has got, is owed, and can still get for its cards."""
        total = Fraction(self.received)
        total += sum((amount * BEST[unit] for unit, amount in self.held.items()), Fraction(0))
        total += sum(cap for cap, until in self.coupons.values() if now < until)
        for card in self.cards:
            total += card.payout if card.recycling_id is None or card.owed == "PENDING" else 0
        return total

    def apply(self, command: Command, now: datetime) -> int:
        """The effects of a command that is no repeat; an exchange's result. Raises No."""
        match command:
            case Recycle():
                self._card(command).recycled = now
            case Compensate():
                self._compensate(self._taken(command))
            case Reactivate():
                self._reactivate(self._taken(command), now)
            case Redeem():
                self._redeem(command, now)
            case Exchange():
                return self._exchange(command)
            case Grant():
                self._grant(command, now)
        return 0

    def _card(self, command: Command) -> Card:
        card = next(each for each in self.cards if each.card_id == command.card_id)
        if card.recycling_id is not None:
            raise No("CARD_ALREADY_RECYCLED")
        return card

    def _taken(self, command: Command) -> Card:
        for each in self.cards:
            if each.recycling_id == command.recycling_id:
                return each
        raise No("RECYCLING_STATE_INVALID")

    def _compensate(self, card: Card) -> None:
        if card.owed == "SETTLED":
            raise No("ALREADY_COMPENSATED")
        card.owed = "SETTLED"
        unit, amount = PAYS[card.kind]
        self.held[card.platform, unit] += amount

    def _reactivate(self, card: Card, now: datetime) -> None:
        unit, amount = PAYS[card.kind]
        assert card.recycled is not None
        if now >= card.recycled + WINDOW:
            raise No("REACTIVATION_WINDOW_CLOSED")
        if card.owed == "SETTLED" and self.held[card.platform, unit] < amount:
            raise No("COMPENSATION_SPENT")
        if card.owed == "SETTLED":
            self.held[card.platform, unit] -= amount
        assert card.recycling_id is not None
        self.undone[card.recycling_id] = card.platform
        card.recycling_id, card.recycled, card.owed, card.spent = None, None, "", card.kind == "tencent"

    def _redeem(self, command: Redeem, now: datetime) -> None:
        key = (command.platform, command.offer_id)
        if key not in OFFERS or not OFFERS[key][1]:
            raise No("OFFER_NOT_FOUND")
        unit, price, often, value, life = OFFERS[key]
        if self.held[command.platform, unit] < price:
            raise No("INSUFFICIENT_BALANCE")
        if often is not None and sum(each == key and when > now - MONTH for each, when in self.taken) >= often:
            raise No("LIMIT_EXCEEDED")
        self.held[command.platform, unit] -= price
        self.taken.append((key, now))
        if life is None:
            self.received += value
        else:
            assert command.request_id is not None
            self.coupons[command.request_id] = value, now + life

    def _exchange(self, command: Exchange) -> int:
        way = (command.platform, str(command.unit), command.to_platform, str(command.to_unit))
        if way not in RATES:
            raise No("EXCHANGE_NOT_OFFERED")
        give, get, spread, most = RATES[way]
        if self.held[command.platform, command.unit] < command.amount:
            raise No("INSUFFICIENT_BALANCE")
        got = int(Fraction(command.amount * get, give) * (1 - Fraction(spread, 10_000)))
        if command.amount > most or got == 0:
            raise No("LIMIT_EXCEEDED")
        if got < command.min_amount:
            raise No("QUOTE_STALE")
        self.held[command.platform, command.unit] -= command.amount
        self.held[command.to_platform, command.to_unit] += got
        return got

    def _grant(self, command: Grant, now: datetime) -> None:
        undone = None if command.recycling_id is None else self.undone.get(command.recycling_id)
        if (undone or self._taken(command).platform) != "iqiyi":
            raise No("FIELD_INVALID")
        recent = sum(amount for amount, when in self.granted if when > now - MONTH)
        if command.amount > GRANT_MAX or recent + command.amount > GRANTS_MAX:
            raise No("LIMIT_EXCEEDED")
        self.held["iqiyi", "COIN"] += command.amount
        self.granted.append((command.amount, now))
