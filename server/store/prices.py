"""Prices and markets in the database, on the store's connections. Must not decide anything.

Methods raise StoreUnavailable when the database cannot be reached.
"""

from __future__ import annotations

from datetime import datetime

from server.domain.policy import Policy
from server.domain.pricing import Market, Price
from server.store.store import PostgresStore


class PostgresPrices:
    """Prices over the same connections as `store`."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._query = store.database.query

    async def now(self) -> datetime:
        """The database's clock."""
        return await self._store.now()

    async def governing(self) -> list[tuple[int, Policy]]:
        """The policy of each platform that governs now, with its revision."""
        found = await self._query("policies_in_force")
        return [(row["revision"], await self._store.policy(row["platform"], row["revision"])) for row in found]

    async def prior_bonus(self, platform: str, tier: str, from_time: datetime) -> int | None:
        """The bonus of the newest price before `from_time`, 0 where there is none; None where that price is made."""
        (found,) = await self._query("price_due", platform, tier, from_time)
        return None if found["made"] else found["prior_bonus"] or 0

    async def market(self, platform: str, tier: str, from_time: datetime, until_time: datetime) -> Market:
        """What the market of a tier was like."""
        (found,) = await self._query("price_market", platform, tier, from_time, until_time)
        return Market(demand=found["demand"], supply=found["supply"], waiting=found["waiting"])

    async def put_price(self, price: Price) -> None:
        """Keeps a price, unless another has, or its period has begun."""
        market = price.market
        await self._query(
            "price_put", price.platform, price.tier, price.from_time, price.until_time, price.policy_revision,
            market.demand, market.supply, market.waiting, price.prior_bonus, price.bonus,
        )  # fmt: skip
