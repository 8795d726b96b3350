"""A dump of the database, restored into another Postgres: the service goes on there as if nothing had happened."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from migrations.postgres import EmbeddedPostgres, wheel_binaries
from migrations.runner import migrate
from server.domain.commands import Redeem
from server.domain.events import BEGINNING
from server.store.events import PostgresEvents
from server.store.store import connect
from tests.conftest import FreshDatabase
from tests.integration.world import World, reactivate, recycle


@pytest.fixture
async def world(fresh_database: FreshDatabase) -> AsyncIterator[World]:
    world = await World.create(await fresh_database())
    yield world
    await world.close()


def run(program: str, *arguments: str | Path) -> None:
    subprocess.run([wheel_binaries() / program, *arguments], check=True, capture_output=True, text=True)


async def told(world: World) -> list[tuple[Any, ...]]:
    """The events of each card and transfer in their order, without their place in a server's order of transactions."""
    page = await PostgresEvents(world.store.database).after(BEGINNING, 1_000)
    found = [
        (each.position.subject_id, each.position.version, replace(each, position=BEGINNING)) for each in page.events
    ]
    return sorted(found, key=lambda each: each[0])


async def test_a_restored_dump_serves_on(world: World, open_folder: Path) -> None:
    """Promises hold, decisions replay, answers are the same bytes, and no event is lost or told twice."""
    card = await world.issue(face_value_minor=2_999, paid_minor=2_999)
    asked = recycle(card)
    answered = await world.answer(asked)
    back = await world.settled(await world.issue(account_id=card.account_id))
    await world.answer(reactivate(back))
    await world.settled(await world.issue(account_id=card.account_id))
    await world.answer(
        Redeem(request_id=uuid.uuid4(), account_id=card.account_id, platform="iqiyi", offer_id="jd-voucher-10")
    )
    review = await world.held(await world.issue())
    before = await told(world)
    dump = open_folder / "recycling.dump"
    run("pg_dump", "--format=custom", f"--file={dump}", world.owner_url)
    with EmbeddedPostgres(open_folder / "elsewhere", durable=False) as elsewhere:
        elsewhere.create_database("restored")
        owner_url, server_url = elsewhere.owner_url("restored"), elsewhere.server_url("restored")
        run("pg_restore", "--exit-on-error", "--single-transaction", f"--dbname={owner_url}", dump)
        assert await migrate(owner_url) == []
        restored = World(
            owner_url=owner_url,
            server_url=server_url,
            store=await connect(server_url, connections=6, connections_for_batches=2),
            owner=await asyncpg.connect(owner_url),
            new_id=uuid.uuid4,
        )
        assert await restored.answer(asked) == answered
        assert await told(restored) == before
        await restored.move(timedelta(days=7))
        assert sum((await restored.sweep()).values()) > 0, f"the hold of {review.review_id} lapses"
        await restored.settled(await restored.issue())
        after = await told(restored)
        assert [each for each in after if each in before] == before and len(after) > len(before)
        assert await restored.broken() == {}
        assert await restored.replayed_otherwise() == ()
        await restored.close()
