"""What the service does without being asked, in the lives: sweeps, prices, policies that take over. And how a database
is made ready for it, and emptied.

Knows the real sweeper, price maker and policy keeper; the reference of these is `market`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from server.domain.revision import Activation
from server.engine.engine import Engine
from server.engine.policies import PolicyKeeper
from server.engine.pricing import make_prices
from server.engine.sweeper import sweep
from server.store.policies import PostgresPolicies
from server.store.policy_document import read_document
from server.store.prices import PostgresPrices
from tests.integration.world import World, put_documents
from tests.property.market import Market, Price
from tests.property.reference import Account
from tests.property.rules import PLATFORMS, REVISIONS

KEPT = ("policy_revision", "policy_activation", "policy_set", "backtest_clock", "schema_migration", "event_relay")
"""Tables that no sequence writes to, or that are wound back."""
POINTED_AT_BY = ("outcome", "review", "goodwill", "recycling")
"""Emptied before what they point to."""


class Service:
    """Two sweepers, two price makers and a policy keeper in one world."""

    def __init__(self, world: World, engines: Sequence[Engine], empties: str) -> None:
        self._world = world
        self._engines = engines
        self._empties = empties
        self._policies = PolicyKeeper(PostgresPolicies(world.store), read_document)
        self._prices = PostgresPrices(world.store)

    @classmethod
    async def open(cls, world: World, engines: Sequence[Engine]) -> Service:
        """Adds all revisions, the first of each in force; the others are drafts."""
        # Invariants read the documents again and again: they need not be decompressed each time.
        await world.owner.execute("ALTER TABLE policy_revision ALTER COLUMN document SET STORAGE PLAIN")
        await put_documents(world.server_url, *(json.loads(REVISIONS[name][0].document(name)) for name in PLATFORMS))
        await world.owner.execute("UPDATE policy_activation SET effective_time = '-infinity'")  # for each sequence
        keeper = PolicyKeeper(PostgresPolicies(world.store), read_document)
        for platform in PLATFORMS:
            for revision in REVISIONS[platform][1:]:
                await keeper.create(revision.document(platform), etag="", actor="ops", note="")
        tables = await world.owner.fetch(
            "SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind IN ('r', 'p') AND NOT relispartition AND NOT relname = ANY ($1)",
            [*KEPT, *POINTED_AT_BY],
        )
        # Not TRUNCATE: after that every connection plans every statement anew, which takes far longer.
        deletes = [f"DELETE FROM {name}" for name in (*POINTED_AT_BY, *(row[0] for row in tables))]
        deletes.append("DELETE FROM policy_activation WHERE activation > 2")
        return cls(world, engines, "; ".join(deletes))

    async def begin(self) -> None:
        """An empty database, the first revisions in force."""
        for engine in self._engines:
            await engine.drain()  # of a sequence that was given up
        await self._world.owner.execute(self._empties)

    async def sweep(self) -> None:
        """Both sweepers look once, at the same time."""
        await asyncio.gather(*(sweep(self._world.due, engine) for engine in self._engines))

    async def activate(self, platform: str, place: int, ahead: timedelta, now: datetime, market: Market) -> None:
        """One revision takes over, as soon as may be or so long after."""
        effective_time = now + ahead if ahead else None
        first = 2  # 1 is the shipped one
        wanted = Activation(
            platform=platform, revision=first + place, effective_time=effective_time, etag="", actor="ops", note=""
        )
        await self._policies.activate(wanted)
        market.activate(platform, place, now, ahead)

    async def make_prices(self, accounts: Iterable[Account], now: datetime, market: Market) -> str:
        """Two makers at once make one price; returns what is other than the reference has it."""
        every = list(accounts)
        known = set(market.prices)
        await asyncio.gather(make_prices(self._prices), make_prices(self._prices))
        found = {}
        for row in await self._world.owner.fetch("SELECT * FROM price"):
            price = Price(
                row["platform"], row["tier"], row["from_time"], row["until_time"], row["demand"], row["supply"],
                row["waiting"], row["prior_bonus"], row["bonus"],
            )  # fmt: skip
            found[price.platform, price.tier, price.begin] = price
        waiting: Counter[tuple[str, str]] = Counter(
            (card.platform, card.tier)
            for account in every
            for card in account.cards.values()
            if card.state == "RECYCLED"
        )
        # A card whose wait is over is counted until that is recorded.
        told = {key[:2]: price.waiting for key, price in found.items() if key not in known}
        ended: Counter[tuple[str, str]] = Counter(
            (card.platform, card.tier)
            for account in every
            for card in account.cards.values()
            if card.state == "VOID" and card.taken_by is not None and card.taken_by.disposition != "CANCEL"
        )
        if any(not waiting[key] <= number <= waiting[key] + ended[key] for key, number in told.items()):
            return f"waiting cards: {told}, not from {waiting} on"
        market.make((trade for account in every for trade in account.trades), told, now)
        if found != market.prices:
            return f"prices: {set(found.values()) ^ set(market.prices.values())}"
        return ""


async def unrecorded(world: World, account_ids: list[str]) -> dict[str, Any]:
    """Until when a sweeper has reserved which row, by its id: what it lost a race for is left for the next look. With a
    review goes the card that it holds."""
    rows = await world.owner.fetch(
        "SELECT id, max(sweep_until) AS sweep_until FROM ("
        " SELECT account_id, card_id AS id, sweep_until FROM card"
        " UNION ALL SELECT account_id, review_id, sweep_until FROM review"
        " UNION ALL SELECT account_id, r.card_id, v.sweep_until"
        " FROM review AS v JOIN recycling AS r USING (account_id, recycling_id)"
        " UNION ALL SELECT account_id, coupon_id, sweep_until FROM coupon_open"
        ") AS reserved WHERE account_id = ANY ($1) AND sweep_until IS NOT NULL GROUP BY id",
        account_ids,
    )
    return {row["id"]: row["sweep_until"] for row in rows}
