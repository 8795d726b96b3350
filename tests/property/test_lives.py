"""A few sequences of every run of the tests; `make properties` plays as many as are wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.conftest import FreshDatabase
from tests.integration.world import World
from tests.property.operations import Round, sequences, told
from tests.property.player import Player

SEED = 20_261_124
EXAMPLES = 8


def test_accounts_fare_as_the_rules_say(fresh_database: FreshDatabase) -> None:
    """Whatever several callers do to several accounts, and whenever, comes out as the reference says; no invariant is
    broken on the way, nobody gains, and every decision replays."""
    with asyncio.Runner() as runner:
        world = runner.run(_world(fresh_database))
        player = runner.run(Player.open(world))

        @seed(SEED)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            verbosity=Verbosity.quiet,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(sequences)
        def lives(sequence: Sequence[Round]) -> None:
            with told(sequence):
                runner.run(player.play(sequence))

        try:
            lives()
            assert not runner.run(world.broken())
        finally:
            runner.run(player.close())


async def _world(fresh_database: FreshDatabase) -> World:
    return await World.create(await fresh_database())
