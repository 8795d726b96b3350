"""How wallets must fare, told a second time: what offers, exchanges and goodwill do, from the rules in words.

Knows what an account holds and has used, no card, and none of the server's code but the commands, which say what is
asked. What a card pays comes from `reference`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from server.domain.commands import Exchange, Grant, Redeem
from tests.property.holdings import DAY, No, Recycling, Redemption, Told
from tests.property.rules import BEST, Holding, Rules

MONTH = 30 * DAY
"""For so long what was taken or granted counts against its limit."""
WORTH = 10**12
"""So many of what `worth` counts in are a minor unit: any best rate is a whole number, which sums faster."""


def whole(worth: Any) -> int:
    """An exact number of minor units as a worth."""
    counted = worth * WORTH
    assert counted == int(counted), f"{worth} is no multiple of 1/{WORTH}"
    return int(counted)


BEST_WORTH = {holding: whole(best) for holding, best in BEST.items()}


@dataclass
class Wallet:
    """What one account holds. `received`: what partners have given it, in minor units."""

    held: Counter[Holding] = field(default_factory=Counter)
    coupons: list[Recycling | Redemption] = field(default_factory=list)
    """Who gave each; some have expired."""
    received: int = 0
    taken: list[tuple[str, str, datetime]] = field(default_factory=list)
    granted: list[tuple[UUID, str, int, datetime]] = field(default_factory=list)
    redemptions: list[Redemption] = field(default_factory=list)

    def worth(self, now: datetime) -> int:
        """All that it holds at the best rates, and has got."""
        coupons = sum(each.cap for each in self.coupons if each.has_coupon(now))
        return (self.received + coupons) * WORTH + sum(
            amount * BEST_WORTH[holding] for holding, amount in self.held.items() if amount
        )

    def boundaries(self, now: datetime) -> Iterator[tuple[str, datetime]]:
        """The moments ahead at which a coupon expires, or a limit is free again."""
        for each in self.coupons:
            if each.coupon_until is not None and each.coupon_until > now:
                yield "coupon", each.coupon_until
        for moment in (*(each[-1] for each in self.taken), *(each[-1] for each in self.granted)):
            if moment + MONTH > now:
                yield "usage", moment + MONTH

    def redeem(self, command: Redeem, rules: Rules, listed: set[str], now: datetime) -> Told:
        """Takes an offer. Raises No."""
        platform, offer_id = command.platform, command.offer_id
        offer = rules.offers.get(offer_id)
        if offer is None:
            raise No("OFFER_NOT_FOUND")
        if self.held[platform, offer.unit] < offer.price:
            raise No("INSUFFICIENT_BALANCE")
        used = sum(
            1 for where, which, moment in self.taken if (where, which) == (platform, offer_id) and moment > now - MONTH
        )
        if offer.often is not None and used >= offer.often:
            raise No("LIMIT_EXCEEDED")
        if "DENY" in listed:
            raise No("WALLET_HELD")
        until = None if offer.life is None else now + offer.life
        says = {
            "redemption.price": offer.price,
            "redemption.benefit.value_minor": offer.value,
            "redemption.expire_time": until,
        }
        if command.dry_run:
            return Told(says)
        self.held[platform, offer.unit] -= offer.price
        self.taken.append((platform, offer_id, now))
        made = Redemption(platform, offer_id, 0 if until is None else offer.value, until)
        self.redemptions.append(made)
        if until is None:
            self.received += offer.value
        else:
            self.coupons.append(made)
        return Told(says, made)

    def exchange(self, command: Exchange, rules: Rules, listed: set[str]) -> Told:
        """Changes one unit into another. Raises No."""
        rate = rules.rates.get((str(command.unit), command.to_platform, str(command.to_unit)))
        if rate is None:
            raise No("EXCHANGE_NOT_OFFERED")
        given = command.platform, str(command.unit)
        if self.held[given] < command.amount:
            raise No("INSUFFICIENT_BALANCE")
        got = command.amount * rate.get * (10_000 - rate.spread) // (rate.give * 10_000)
        if command.amount > rate.most or got == 0:
            raise No("LIMIT_EXCEEDED")
        if got < command.min_amount:
            raise No("QUOTE_STALE")
        if "DENY" in listed:
            raise No("WALLET_HELD")
        if not command.dry_run:
            self.held[given] -= command.amount
            self.held[command.to_platform, str(command.to_unit)] += got
        return Told({"amount_out": got})

    def grant(self, command: Grant, recycling: Recycling, listed: set[str], now: datetime) -> Told:
        """Gives goodwill, by the rules that `recycling` was made under. Raises No."""
        platform, goodwill = recycling.platform, recycling.rules.goodwill
        if goodwill is None:
            raise No("METHOD_NOT_ALLOWED")
        if command.unit != goodwill.unit:
            raise No("FIELD_INVALID")
        recent = sum(amount for _, where, amount, moment in self.granted if where == platform and moment > now - MONTH)
        if command.amount > goodwill.most or recent + command.amount > goodwill.in_30_days:
            raise No("LIMIT_EXCEEDED")
        if "DENY" in listed:
            raise No("WALLET_HELD")
        if not command.dry_run:
            self.held[platform, goodwill.unit] += command.amount
            self.granted.append((recycling.recycling_id, platform, command.amount, now))
        return Told({})
