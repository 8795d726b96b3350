"""Dynamic pricing on a real database: made once and in time, paid, quoted, and accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from card_recycling.v1 import recycling_service_pb2

from server.domain.errors import Reason
from server.engine.pricing import make_prices
from server.store.prices import PostgresPrices
from tests.builders import document
from tests.conftest import FreshDatabase
from tests.integration.world import UNMINDED, World, put_documents, quote, reason, recycle

HOUR = timedelta(hours=1)
RULE = {
    "bonus_max_basis_points": 300,
    "period_minutes": 60,
    "pool_capacity": 1_000,
    "smoothing_basis_points": 10_000,
}


@pytest.fixture
async def world(fresh_database: FreshDatabase) -> AsyncIterator[World]:
    """A world whose iqiyi goes all the way to the market's bonus in each period; its invariants hold at the end."""
    world = await World.create(await fresh_database())
    body = document("iqiyi")
    await put_documents(world.server_url, body | {"pricing": RULE, "risk": body["risk"] | UNMINDED})
    await world.move(HOUR)
    yield world
    broken = await world.broken()
    await world.close()
    assert broken == {}


async def traded(world: World) -> None:
    """A market of ten bought for none handed in; its bonus stands two periods later."""
    await world.issue_many(10)
    await world.move(HOUR)
    await make_prices(PostgresPrices(world.store))


async def test_a_bonus_stands_for_its_period(world: World) -> None:
    """base 2,999: 3 % more of it from the period's beginning to its end, and not a microsecond beyond."""
    await traded(world)
    cards = await world.issue_many(4)
    plain = (await world.recycled(cards[0])).compensation.amount
    await world.move(HOUR)
    assert (await world.recycled(cards[1])).compensation.amount == plain + 2_999 * 300 // 10_000
    await world.move(HOUR - timedelta(microseconds=1))
    assert (await world.recycled(cards[2])).compensation.amount == plain + 89
    await world.move(timedelta(microseconds=1))
    assert (await world.recycled(cards[3])).compensation.amount == plain


async def test_a_price_is_made_once(world: World) -> None:
    """Many servers at once keep one price, and none is changed afterwards."""
    await world.issue_many(10)
    await world.move(HOUR)
    prices = PostgresPrices(world.store)
    await asyncio.gather(*(make_prices(prices) for _ in range(8)))
    before = await world.owner.fetch("SELECT * FROM price ORDER BY platform, tier")
    await world.issue_many(10)
    assert await make_prices(prices) == 0
    assert await world.owner.fetch("SELECT * FROM price ORDER BY platform, tier") == before
    assert len([row for row in before if row["platform"] == "iqiyi"]) == 2


async def test_a_quote_ends_with_its_price(world: World) -> None:
    """Terms that no longer hold are stale, though nothing else has changed."""
    await traded(world)
    (card,) = await world.issue_many(1)
    await world.move(2 * HOUR - timedelta(minutes=1))
    answer = recycling_service_pb2.QuoteRecycleResponse.FromString(await world.answer(quote(card)))
    await world.move(timedelta(minutes=1))
    assert reason(await world.run(recycle(card, quote_token=answer.quote_token))) is Reason.QUOTE_STALE


async def test_more_handed_in_than_bought_earns_no_bonus(world: World) -> None:
    """Nobody is paid to sell what nobody wants."""
    cards = await world.issue_many(10)
    await world.move(HOUR)
    for card in cards:
        await world.recycled(card)
    await world.move(HOUR)
    await make_prices(PostgresPrices(world.store))
    newest = await world.owner.fetchrow(
        "SELECT demand, supply, waiting, bonus FROM price WHERE platform = 'iqiyi' AND tier = 'BASIC'"
        " ORDER BY from_time DESC LIMIT 1"
    )
    assert newest is not None
    assert tuple(newest) == (0, 10, 10, 0)
