"""The risk log expires by quarters, and nothing else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from migrations.expiry import ExpiryError, expire_events
from server.domain.outcome import OutcomeKind
from server.engine.outcomes import OutcomeRecorder
from tests.conftest import FreshDatabase
from tests.integration.world import START, World, circumstances, new_account, news

QUARTER_END = datetime(2026, 4, 1, tzinfo=UTC)
"""The end of the quarter that START lies in."""
DAYS = timedelta(days=180)


@pytest.fixture
async def world(fresh_database: FreshDatabase) -> AsyncIterator[World]:
    """A world whose log has quarters, in the second of which it is; its invariants hold at the end."""
    world = await World.create(await fresh_database())
    await world.owner.execute(
        "SELECT ensure_risk_event_partitions($1, $2)", START - timedelta(days=90), START + timedelta(days=800)
    )
    yield world
    broken = await world.broken()
    await world.close()
    assert broken == {}


async def quarters(world: World) -> list[str]:
    rows = await world.owner.fetch("SELECT DISTINCT tableoid::regclass::text AS name FROM risk_event ORDER BY 1")
    return [row["name"] for row in rows]


async def move_to(world: World, moment: datetime) -> None:
    now = await world.owner.fetchval("SELECT service_clock()")
    await world.move(moment - now)


async def test_a_quarter_goes_once_all_of_it_is_old(world: World) -> None:
    """To the microsecond: what happened at its very end is kept for the whole time."""
    await world.issue()
    await move_to(world, QUARTER_END + DAYS - timedelta(microseconds=1))
    assert await expire_events(world.owner_url, 180) == ["risk_event_2025q4"]
    assert await quarters(world) == ["risk_event_2026q1"]
    await world.move(timedelta(microseconds=1))
    assert await expire_events(world.owner_url, 180) == ["risk_event_2026q1"]
    assert await quarters(world) == []
    assert await expire_events(world.owner_url, 180) == []


async def test_what_expired_events_have_shown_is_remembered(world: World) -> None:
    """Who was seen on a device years ago was seen on it; and the service goes on."""
    first, second = new_account(), new_account()
    device = circumstances("a tablet")
    await world.recycled(await world.issue(account_id=first), circumstances=device)
    await move_to(world, QUARTER_END + 2 * DAYS)
    await expire_events(world.owner_url, 180)
    again = await world.recycled(await world.issue(account_id=second), circumstances=device)
    receipt = await world.owner.fetchval(
        "SELECT receipt -> 'features' FROM command WHERE request_id = $1", UUID(again.request_id)
    )
    assert json.loads(receipt)["device_accounts_ever"] == 1


async def test_cards_and_complaints_stay(world: World) -> None:
    """Neither events of cards nor outcomes expire, and the checker misses no event of theirs."""
    recycling = await world.recycled(await world.issue())
    await OutcomeRecorder(world.store).record(news(recycling, OutcomeKind.COMPLAINT, timedelta(0)))
    before = await world.owner.fetchval("SELECT count(*) FROM card_event")
    await move_to(world, QUARTER_END + DAYS)
    assert "risk_event_2026q1" in await expire_events(world.owner_url, 180)
    assert await world.owner.fetchval("SELECT count(*) FROM card_event") == before
    assert await world.owner.fetchval("SELECT count(*) FROM outcome") == 1


@pytest.mark.parametrize("days", [179, 0, -1, 36_501])
async def test_nothing_expires_before_its_time(world: World, days: int) -> None:
    """180 days at least, whoever asks for less."""
    with pytest.raises(ExpiryError, match="180 to 36500"):
        await expire_events(world.owner_url, days)
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await world.owner.execute("SELECT expire_risk_events(interval '179 days')")


async def test_who_reads_the_log_is_not_cut_off(world: World) -> None:
    """A partition that is being read stays until nobody reads it."""
    await move_to(world, QUARTER_END + DAYS)
    async with world.owner.transaction():
        await world.owner.execute("SELECT FROM risk_event")
        with pytest.raises(ExpiryError, match="in use"):
            await expire_events(world.owner_url, 180, attempts_max=1)
    assert await expire_events(world.owner_url, 180) == ["risk_event_2025q4", "risk_event_2026q1"]


async def test_the_server_lets_nothing_expire(world: World) -> None:
    """Only the owner may."""
    server = await asyncpg.connect(world.server_url)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await server.execute("SELECT expire_risk_events(interval '180 days')")
    await server.close()


async def test_operators_let_quarters_expire(world: World) -> None:
    """By the command that brings the database up to date; it says what it dropped."""
    await move_to(world, QUARTER_END + DAYS)
    command = [sys.executable, "-m", "migrations", "--keep-events-days", "180"]
    done = subprocess.run(
        command, env=os.environ | {"DATABASE_URL": world.owner_url}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["nothing to apply", "dropped risk_event_2025q4", "dropped risk_event_2026q1"]
