"""Makes the price of each coming period in time. Knows when; must not know how a bonus follows from a market, nor SQL.

Any number may run on one database: the first to keep a price has made it. Where none runs for a whole period the next
one has no bonus.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Protocol

from server.domain.policy import TIERS, Policy
from server.domain.pricing import Market, Price, next_bonus, period_of
from server.engine.ports import StoreUnavailable

log = logging.getLogger(__name__)

PAUSE_S = 5.0


class PriceStore(Protocol):
    """The database. Every method raises StoreUnavailable when it cannot be reached."""

    async def now(self) -> datetime:
        """The database's clock."""
        ...

    async def governing(self) -> list[tuple[int, Policy]]:
        """The policy of each platform that governs now, with its revision."""
        ...

    async def prior_bonus(self, platform: str, tier: str, from_time: datetime) -> int | None:
        """The bonus of the newest price before `from_time`, 0 where there is none; None where that price is made."""
        ...

    async def market(self, platform: str, tier: str, from_time: datetime, until_time: datetime) -> Market:
        """What the market of a tier was like."""
        ...

    async def put_price(self, price: Price) -> None:
        """Keeps a price, unless another has, or its period has begun."""
        ...


async def make_prices(store: PriceStore) -> int:
    """Makes what is due of the coming periods' prices; returns how many."""
    now, made = await store.now(), 0
    for revision, policy in await store.governing():
        if policy.pricing is None:
            continue
        present, coming = period_of(now, policy.pricing)
        over = period_of(present - (coming - present), policy.pricing)
        for tier in TIERS:
            prior = await store.prior_bonus(policy.platform, tier, coming)
            if prior is None:
                continue
            market = await store.market(policy.platform, tier, *over)
            await store.put_price(
                Price(
                    platform=policy.platform,
                    tier=tier,
                    from_time=coming,
                    until_time=period_of(coming, policy.pricing)[1],
                    policy_revision=revision,
                    market=market,
                    prior_bonus=prior,
                    bonus=next_bonus(prior, market, policy.pricing),
                )
            )
            made += 1
    return made


async def keep_making_prices(store: PriceStore) -> None:
    """Does so until cancelled."""
    while True:
        try:
            await make_prices(store)
        except StoreUnavailable as error:
            log.info("prices are made later: %s", error)
        except Exception:
            log.exception("making prices failed")
        await asyncio.sleep(PAUSE_S)
