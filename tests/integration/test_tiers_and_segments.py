"""Tiers and segments through the engine on a real database, under the checker's eyes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from card_recycling.v1 import types_pb2

from server.domain.errors import Reason
from server.domain.recycling import Balance, Unit
from tests.conftest import FreshDatabase
from tests.integration.world import World, circumstances, compensate, reactivate, reason, recycle


@pytest.fixture
async def world(fresh_database: FreshDatabase) -> AsyncIterator[World]:
    """A world of its own, whose invariants hold at the end."""
    world = await World.create(await fresh_database())
    yield world
    broken = await world.broken()
    await world.close()
    assert broken == {}


@pytest.mark.parametrize(
    ("platform", "terms", "unit", "amount", "fee"),
    [
        ("iqiyi", {"tier": "PREMIUM"}, None, 2_759, 240),
        ("iqiyi", {"segment": "MIDDLE"}, Unit.GROWTH_POINT, 2_833, 300),
        ("iqiyi", {"segment": "MIDDLE", "tier": "PREMIUM"}, Unit.GROWTH_POINT, 2_896, 240),
        ("tencent", {"tier": "PREMIUM"}, None, 360, 0),
    ],
)
async def test_tier_and_segment_price_a_card(
    world: World, platform: str, terms: dict[str, Any], unit: Unit | None, amount: int, fee: int
) -> None:
    """30 unused days of 2,999 minor units, by the tier's fee or points and the segment's unit."""
    card = await world.issue(platform, **terms)
    recycling = await world.recycled(card, unit=unit)
    assert (recycling.fee_minor, recycling.compensation.amount) == (fee, amount)
    await world.answer(compensate(recycling))
    assert sum(balance.amount for balance in (await world.store.wallet(card.account_id)).balances) == amount


async def test_the_young_are_paid_in_the_same_transaction(world: World) -> None:
    """One command leaves recycling, postings and balance; a reactivation takes them back; nothing is left to settle."""
    card = await world.issue(segment="YOUNG")
    recycling = await world.recycled(card)
    assert recycling.compensation.state == types_pb2.COMPENSATION_STATE_SETTLED
    wallet = await world.store.wallet(card.account_id)
    assert wallet.balances == (Balance(platform="iqiyi", unit=Unit.COIN, amount=2_699),)
    assert reason(await world.run(compensate(recycling))) is Reason.ALREADY_COMPENSATED
    await world.answer(reactivate(recycling))
    assert (await world.store.wallet(card.account_id)).balances == ()


async def test_the_young_wait_when_in_doubt(world: World) -> None:
    """A request that is held pays nothing before its verdict."""
    review = await world.held(await world.issue(segment="YOUNG"))
    assert await world.count("posting", review.account_id) == 0


async def test_a_dry_run_pays_nobody(world: World) -> None:
    """It tells of an instant settlement, and leaves no posting."""
    card = await world.issue(segment="YOUNG")
    answer = await world.recycled(card, dry_run=True, circumstances=circumstances())
    assert answer.compensation.state == types_pb2.COMPENSATION_STATE_SETTLED
    assert await world.count("posting", card.account_id) == 0


async def test_a_unit_that_is_not_offered_is_refused(world: World) -> None:
    """Growth value on iqiyi is the middle's."""
    card = await world.issue(segment="SENIOR")
    assert reason(await world.run(recycle(card, unit=Unit.GROWTH_POINT))) is Reason.FIELD_INVALID
