"""`python -m bench.events`: events a second through WatchEvents, against plain reads of the same rows in the same run.

Prints one JSON line a figure; progress goes to standard error.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import asyncpg
import grpc.aio
import uvloop
from card_recycling.v1 import card_service_pb2 as pb
from card_recycling.v1 import card_service_pb2_grpc

from bench.__main__ import scratch
from bench.cards import Cards
from bench.measure import BenchError, Run, middle_rate, progress, show, summary
from local.stack import Settings, Stack, running
from server.engine.feed import PAGE
from server.store.database import SESSION

ROUNDS = 5
EVENTS = 20_000

SELECT = """
    SELECT * FROM card_event
    WHERE (xact, account_id COLLATE "C", card_id, version) > ($1, $2 COLLATE "C", $3, $4)
    ORDER BY xact, account_id COLLATE "C", card_id, version
    LIMIT $5
"""


async def watch(stub: card_service_pb2_grpc.CardServiceAsyncStub) -> Run:
    """The log from its beginning, as a watcher without a filter is told it."""
    begin = time.perf_counter()
    count = 0
    call = stub.WatchEvents(pb.WatchEventsRequest(start=pb.WATCH_START_BEGINNING))
    async for response in call:
        count += len(response.events)
        if count >= EVENTS:
            break
    call.cancel()
    seconds = time.perf_counter() - begin
    return Run(count=count, seconds=seconds, latencies_ms=[1000 * seconds])


async def select(connection: asyncpg.Connection) -> Run:
    """The same rows in pages of the same size, as they lie in the table."""
    begin = time.perf_counter()
    count, after = 0, (0, "", UUID(int=0), 0)
    while count < EVENTS:
        rows = await connection.fetch(SELECT, *after, PAGE)
        if not rows:
            raise BenchError(f"there are {count} events only")
        count += len(rows)
        after = tuple(rows[-1][name] for name in ("xact", "account_id", "card_id", "version"))
    seconds = time.perf_counter() - begin
    return Run(count=count, seconds=seconds, latencies_ms=[1000 * seconds])


async def latency(stub: card_service_pb2_grpc.CardServiceAsyncStub, cards: Cards) -> list[float]:
    """Milliseconds from before a card is written until a watcher who is up to date has its event."""
    found = []
    call = stub.WatchEvents(pb.WatchEventsRequest())
    responses = aiter(call)
    await anext(responses)
    for _ in range(40):
        begin = time.perf_counter()
        await cards.issue(1)
        while not (await anext(responses)).events:
            pass
        found.append(1000 * (time.perf_counter() - begin))
    call.cancel()
    return found


async def measure(stack: Stack) -> None:
    """Both figures of a running service."""
    async with AsyncExitStack() as parts:
        owner = await asyncpg.connect(stack.database_url)
        parts.push_async_callback(owner.close)
        reader = await asyncpg.connect(stack.server_url, server_settings=SESSION)
        parts.push_async_callback(reader.close)
        channel = grpc.aio.insecure_channel(stack.address)
        parts.push_async_callback(channel.close)
        stub = card_service_pb2_grpc.CardServiceStub(channel)
        progress("issuing cards")
        cards = Cards(owner)
        await cards.issue(EVENTS)
        await owner.execute("VACUUM (ANALYZE)")
        await watch(stub)
        watched, selected = [], []
        for number in range(ROUNDS):
            progress(f"round {number + 1} of {ROUNDS}")
            watched.append(await watch(stub))
            selected.append(await select(reader))
        show(
            "watch_events_over_select",
            middle_rate(watched) / middle_rate(selected),
            "ratio",
            page=PAGE,
            watch=summary(watched),
            select=summary(selected),
        )
        latencies_ms = sorted(await latency(stub, cards))
        show("event_latency_ms", latencies_ms[len(latencies_ms) // 2], "ms", worst_ms=round(latencies_ms[-1], 1))


def main() -> None:
    """Runs it all."""
    with scratch() as folder:
        _run(folder)


def _run(folder: Path) -> None:
    with running(Settings(folder=folder, log=folder / "service.log")) as stack:
        uvloop.run(measure(stack))


if __name__ == "__main__":
    main()
