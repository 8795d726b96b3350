"""What one process of `make properties` does: it plays chunks of sequences in a database of its own."""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from migrations.runner import migrate
from server.__main__ import GARBAGE_MIN
from tests.integration.world import World
from tests.property.operations import Round, sequences, told
from tests.property.player import Mismatch, Player

CHUNK = 100
DONE = "done"


@dataclass(frozen=True)
class Chunk:
    """So many sequences of one seed."""

    seed: int
    sequences: int


@dataclass(frozen=True)
class Finding:
    """A chunk's failure, as text, after so many of its sequences went well."""

    chunk: Chunk
    went_well: int
    text: str


@dataclass(frozen=True)
class Played:
    """One sequence that went well: how often accounts did what, and what became of each kind of command."""

    operations: Counter[str]
    outcomes: Counter[tuple[str, str]]


def work(urls: tuple[str, str], chunks: Sequence[Chunk], results: Any) -> None:
    """One process: plays its chunks in its own database, and tells of each sequence, failures, and its end."""
    with asyncio.Runner() as runner:
        world = runner.run(_world(urls))
        player = runner.run(Player.open(world))
        gc.freeze()
        gc.set_threshold(GARBAGE_MIN)  # as the server has it
        for chunk in chunks:
            went_well: list[Played] = []
            try:
                _play_chunk(runner, world, player, chunk, went_well, results)
            except BaseException as error:
                results.put(Finding(chunk, len(went_well), "".join(traceback.format_exception_only(error))))
                break
        results.put(DONE)


def _play_chunk(
    runner: asyncio.Runner, world: World, player: Player, chunk: Chunk, went_well: list[Played], results: Any
) -> None:
    failed = False

    @seed(chunk.seed)
    @settings(
        max_examples=chunk.sequences,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(sequences)
    def lives(sequence: Sequence[Round]) -> None:
        nonlocal failed
        try:
            with told(sequence):
                runner.run(player.play(sequence))
        except BaseException:
            failed = True
            raise
        if not failed:  # what is played to make a failure shorter does not count
            went_well.append(Played(player.operations, player.outcomes))
            results.put(went_well[-1])

    lives()
    runner.run(_finish(world))


async def _finish(world: World) -> None:
    """What is about no account must hold, too, of what the last sequence has left. Then dead rows are swept out."""
    if broken := await world.broken():
        raise Mismatch(f"invariants do not hold in the whole database: {broken}")
    await world.owner.execute("VACUUM")


async def _world(urls: tuple[str, str]) -> World:
    await migrate(urls[0], backtest=True)
    return await World.create(urls)
