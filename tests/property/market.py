"""What governs all accounts of a sequence alike, told a second time: which rules, since when, and the bonus on top of
them. Must not know accounts, nor the server's code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.property.rules import PLATFORMS, REVISIONS, TIERS, Rules

LEAD = timedelta(seconds=10)
"""So far ahead is an activation."""
PRICE_LEAD = timedelta(seconds=5)
"""Nearer to its period no price is made any more: that one has none."""
_MILLIONTHS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Price:
    """The bonus of one tier from `begin` until `end`, in millionths of a basis point, with what it follows from."""

    platform: str
    tier: str
    begin: datetime
    end: datetime
    demand: int
    supply: int
    waiting: int
    prior: int
    bonus: int


class Market:
    """The revisions that govern and will, and the prices made."""

    def __init__(self) -> None:
        self._reigns = {platform: [(_EVER, 0)] for platform in PLATFORMS}
        self.prices: dict[tuple[str, str, datetime], Price] = {}

    def __deepcopy__(self, memo: object) -> Market:
        """Itself: no account changes it, so that trials of an account share it."""
        return self

    # Revisions

    def activate(self, platform: str, number: int, now: datetime, ahead: timedelta) -> None:
        """Lets a revision govern from then on."""
        self._reigns[platform].append((now + max(ahead, LEAD), number))

    def rules(self, platform: str, now: datetime) -> Rules:
        """What governs now: of those whose time has come the latest; of one time the last that was told."""
        begun = [(since, place, number) for place, (since, number) in enumerate(self._reigns[platform]) if since <= now]
        return REVISIONS[platform][max(begun)[2]].rules

    def changes(self, platform: str, now: datetime) -> datetime | None:
        """When the next revision takes over."""
        return min((since for since, _ in self._reigns[platform] if since > now), default=None)

    def boundaries(self, now: datetime) -> Iterator[tuple[str, datetime]]:
        """The moments ahead at which another revision or another bonus begins."""
        for platform in PLATFORMS:
            if (until := self.changes(platform, now)) is not None:
                yield "policy", until
        ends = {moment for price in self.prices.values() for moment in (price.begin, price.end) if moment > now}
        yield from (("period", moment) for moment in sorted(ends))

    # Prices

    def bonus(self, platform: str, tier: str, now: datetime) -> int:
        """The bonus that stands now, in whole basis points."""
        standing = [
            price
            for price in self.prices.values()
            if (price.platform, price.tier) == (platform, tier) and price.begin <= now < price.end
        ]
        return max(standing, key=lambda price: price.begin).bonus // _MILLIONTHS if standing else 0

    def period_ends(self, rules: Rules, now: datetime) -> datetime | None:
        """When another bonus stands."""
        return None if rules.pricing is None else _period(now, rules.pricing.minutes)[1]

    def make(
        self, trades: Iterable[tuple[str, str, str, datetime]], waiting: dict[tuple[str, str], int], now: datetime
    ) -> None:
        """The coming periods' prices. `waiting`: how many cards wait, by platform and tier."""
        happened = list(trades)
        for platform in PLATFORMS:
            pricing = self.rules(platform, now).pricing
            if pricing is None:
                continue
            present, coming = _period(now, pricing.minutes)
            if now + PRICE_LEAD >= coming:
                continue
            begin, end = _period(present - (coming - present), pricing.minutes)
            for tier in TIERS:
                if (platform, tier, coming) in self.prices:
                    continue
                earlier = [
                    price
                    for price in self.prices.values()
                    if (price.platform, price.tier) == (platform, tier) and price.begin < coming
                ]
                prior = max(earlier, key=lambda price: price.begin).bonus if earlier else 0
                kinds = [
                    kind
                    for where, which, kind, moment in happened
                    if (where, which) == (platform, tier) and begin <= moment < end
                ]
                demand, supply = len(kinds) - kinds.count("RECYCLED"), kinds.count("RECYCLED")
                wait = waiting.get((platform, tier), 0)
                most = pricing.bonus_max * _MILLIONTHS
                target = 0
                if demand > supply and wait < pricing.pool:
                    wanted = most * (demand - supply) * (pricing.pool - wait)
                    target = wanted // ((demand + supply) * pricing.pool)
                start = min(prior, most)
                bonus = start + (target - start) * pricing.smoothing // 10_000
                self.prices[platform, tier, coming] = Price(
                    platform, tier, coming, _period(coming, pricing.minutes)[1], demand, supply, wait, prior,
                    max(0, min(bonus, most)),
                )  # fmt: skip


def _period(moment: datetime, minutes: int) -> tuple[datetime, datetime]:
    length = timedelta(minutes=minutes)
    begin = _EPOCH + (moment - _EPOCH) // length * length
    return begin, begin + length
