"""Dynamic pricing: the bonus on top of a policy's fixed terms, from what the market of one tier was like. Pure.

In each period of the policy one bonus stands, for every card of the tier alike. It is reckoned while the period before
runs, so that none begins without: from that one's bonus and three counts of the last period that was over by then, in
integers, so that every bonus can be replayed from its record:

    wanted   = (demand - supply) / (demand + supply), between -1 and 1; 0 where nothing happened
    room     = 1 - waiting / pool_capacity, between 0 and 1
    target   = bonus_max * max(wanted, 0) * room
    bonus    = prior + smoothing * (target - prior)

More cards are wanted back while more are bought than handed in, and as long as there is room for them. A bonus moves by
a share of the way only, so that one busy hour does not make the price jump, and never leaves [0, bonus_max].
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from server.domain.policy import BASIS_POINTS, PricingRule

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCALE = 1_000_000
"""A bonus is kept in millionths of a basis point, so that small moves are not lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """What happened in one tier of a platform within one period: cards issued or given back to their owners (`demand`),
    cards taken back (`supply`), and how many wait at its end (`waiting`)."""

    demand: int
    supply: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The bonus of one tier in [from_time, until_time), in millionths of a basis point, with what it follows from."""

    platform: str
    tier: str
    from_time: datetime
    until_time: datetime
    policy_revision: int
    market: Market
    prior_bonus: int
    bonus: int

    @property
    def bonus_basis_points(self) -> int:
        """What is paid: whole basis points, floored."""
        return self.bonus // SCALE


def period_of(moment: datetime, rule: PricingRule) -> tuple[datetime, datetime]:
    """The period that `moment` lies in. Periods are counted from 1970 on, so that all servers agree on them."""
    length = timedelta(minutes=rule.period_minutes)
    begin = _EPOCH + (moment - _EPOCH) // length * length
    return begin, begin + length


def next_bonus(prior: int, market: Market, rule: PricingRule) -> int:
    """The bonus after one more period, in millionths of a basis point."""
    bonus_max = rule.bonus_max_basis_points * SCALE
    traded = market.demand + market.supply
    wanted = max(market.demand - market.supply, 0)
    room = max(rule.pool_capacity - market.waiting, 0)
    target = bonus_max * wanted * room // (traded * rule.pool_capacity) if traded else 0
    moved = min(prior, bonus_max) + (target - min(prior, bonus_max)) * rule.smoothing_basis_points // BASIS_POINTS
    return max(0, min(moved, bonus_max))
