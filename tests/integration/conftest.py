"""Worlds for the tests of the engine: one that most share, and new ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.conftest import FreshDatabase
from tests.integration.world import FakeScorer, World

MakeWorld = Callable[..., Awaitable[World]]


@pytest.fixture
async def new_world(fresh_database: FreshDatabase) -> AsyncIterator[MakeWorld]:
    """Gives a function that makes a world in a new database; at the end every invariant must hold in each, and every
    decision replay."""
    worlds: list[World] = []

    async def make(**settings: object) -> World:
        world = await World.create(await fresh_database(), **settings)  # type: ignore[arg-type]
        worlds.append(world)
        return world

    yield make
    broken = [await world.broken() for world in worlds]
    otherwise = [await world.replayed_otherwise() for world in worlds]
    for world in worlds:
        await world.close()
    assert not any(broken)
    assert not any(otherwise)


@pytest.fixture(scope="session")
async def shared_world(fresh_database: FreshDatabase) -> AsyncIterator[World]:
    """One world for all tests that do no more to it than use their own accounts."""
    world = await World.create(await fresh_database())
    yield world
    await world.close()


@pytest.fixture(scope="module")
async def sound_world(shared_world: World) -> AsyncIterator[World]:
    """The shared world, in which every invariant must hold after a module's tests, and every decision replay."""
    yield shared_world
    assert not await shared_world.broken()
    assert not await shared_world.replayed_otherwise()


@pytest.fixture
def world(sound_world: World) -> World:
    """The shared world with a scorer as new."""
    for setting, value in vars(FakeScorer()).items():
        setattr(sound_world.scorer, setting, value)
    return sound_world
