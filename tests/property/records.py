"""All that is recorded of accounts and all that should be, as facts that compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from server.replay.database import RecordedDecisions
from server.replay.decision import Replay, replay
from server.store import rows
from tests.integration.world import World
from tests.property.reference import Account


class Replays:
    """A connection that replays decisions. Build it with `open`."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self._recorded = RecordedDecisions(connection)

    @classmethod
    async def open(cls, url: str) -> Replays:
        """Over the database at `url`, the server's."""
        return cls(await asyncpg.connect(url))

    async def otherwise(self) -> AsyncIterator[Replay]:
        """The decisions on record that do not come out of their receipts as they were recorded."""
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            async for case in self._recorded.cases():
                if not (outcome := replay(case)).same:
                    yield outcome

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()


async def recorded_facts(
    world: World, account_ids: list[str], now: datetime, left: Container[Any] | None
) -> set[tuple[Any, ...]]:
    """What the database says as of `now`; with `left` as the rows have it, but for those."""
    owner, recorded = world.owner, left is not None
    found: set[tuple[Any, ...]] = set()
    for row in await owner.fetch(
        "SELECT c AS card, r AS recycling FROM card AS c LEFT JOIN recycling AS r"
        " ON r.account_id = c.account_id AND r.recycling_id = c.live_recycling_id WHERE c.account_id = ANY ($1)",
        account_ids,
    ):
        card = await world.store.waiting_card(row["card"], row["recycling"], None)
        if not recorded or card.card_id in (left or ()):
            card = card.at(now)
        found.add(
            ("card", card.card_id, card.state_at(now) if not recorded else card.recorded_state,
             card.expire_time or card.activate_by_time, card.generation, card.renewals_used, card.version,
             card.hold_until, card.bound_devices)
        )  # fmt: skip
    for row in await owner.fetch("SELECT r AS it FROM recycling AS r WHERE account_id = ANY ($1)", account_ids):
        recycling = rows.recycling(row["it"]).at(now)
        owed = recycling.compensation
        found.add(
            ("recycling", recycling.recycling_id, recycling.state, recycling.fee_minor,
             (owed.amount, owed.unit, owed.state) if owed else None, recycling.settlement_held,
             recycling.window_moved)
        )  # fmt: skip
    for row in await owner.fetch("SELECT v AS it FROM review AS v WHERE account_id = ANY ($1)", account_ids):
        review = rows.review(row["it"])
        if not recorded or review.review_id in (left or ()):
            review = review.at(now)
        found.add(("review", review.review_id, "OPEN" if review.state == "CLAIMED" else review.state))
    for account_id in account_ids:
        wallet = await world.store.wallet(account_id)
        found |= {("wallet", account_id, each.platform, each.unit, each.amount) for each in wallet.balances}
    for row in await owner.fetch("SELECT * FROM coupon WHERE account_id = ANY ($1)", account_ids):
        found.add(("coupon", row["coupon_id"], row["max_discount_minor"], row["expire_time"]))
    if recorded:
        rest = await owner.fetch(
            "SELECT coupon_id FROM coupon_open WHERE account_id = ANY ($1) AND expire_time <= $2", account_ids, now
        )
        found |= {("unswept", row["coupon_id"]) for row in rest if row["coupon_id"] not in (left or ())}
    rows_of = await owner.fetch(
        "SELECT redemption_id, platform, offer_id FROM redemption WHERE account_id = ANY ($1)", account_ids
    )
    found |= {("redemption", *row) for row in rows_of}
    rows_of = await owner.fetch(
        "SELECT recycling_id, platform, sum(amount)::bigint FROM goodwill WHERE account_id = ANY ($1) GROUP BY 1, 2",
        account_ids,
    )
    found |= {("goodwill", *row) for row in rows_of}
    told = await owner.fetch("SELECT recycling_id FROM outcome WHERE account_id = ANY ($1)", account_ids)
    found |= {("charged back", row["recycling_id"]) for row in told}
    query = (
        "SELECT account_id, count(*) FROM risk_label WHERE account_id = ANY ($1) AND recycling_id IS NULL GROUP BY 1"
    )
    found |= {("accused", *row) for row in await owner.fetch(query, account_ids)}
    return found


def expected_facts(account: Account, now: datetime) -> Iterable[tuple[Any, ...]]:
    """What the reference says."""
    account.pass_time(now)
    for card in account.cards.values():
        yield ("card", card.card_id, card.state_at(now), card.bound, card.generation, card.renewals, card.version,
               card.hold.until if card.hold else None, tuple(card.devices))  # fmt: skip
    for each in account.recyclings.values():
        owed = (each.amount, each.unit, each.owed) if each.amount else None
        yield ("recycling", each.recycling_id, each.state, each.fee, owed, each.settlement_held, each.moved)
        if each.charged_back:
            yield ("charged back", each.recycling_id)
    if account.accused:
        yield ("accused", account.account_id, account.accused)
    yield from (("review", review.review_id, review.state) for review in account.reviews)
    wallet = account.wallet
    held = wallet.held + Counter((each.platform, "COUPON") for each in wallet.coupons if each.has_coupon(now))
    yield from (("wallet", account.account_id, *key, amount) for key, amount in held.items() if amount)
    yield from (("coupon", each.coupon_id, each.cap, each.coupon_until) for each in wallet.coupons)
    yield from (("redemption", each.redemption_id, each.platform, each.offer_id) for each in wallet.redemptions)
    granted: Counter[tuple[UUID, str]] = Counter()
    for recycling_id, platform, amount, _ in wallet.granted:
        granted[recycling_id, platform] += amount
    yield from (("goodwill", *key, amount) for key, amount in granted.items())
