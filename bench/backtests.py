"""`python -m bench.backtests`: decisions a second of a back-test, and what callers notice of it.

Prints one JSON line a figure; progress goes to standard error. Callers recycle one card after the other, so that their
times are those of an unhurried service; with and without a back-test they take turns.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from importlib.resources import files
from pathlib import Path

import asyncpg
import uvloop
from card_recycling.v1 import policy_service_pb2 as pb
from card_recycling.v1 import recycling_service_pb2 as rb

from bench.__main__ import ENVIRONMENT, scratch
from bench.cards import Cards, recycle_requests
from bench.measure import BenchError, Run, in_flight, middle_rate, progress, show, summary
from bench.recycles import BATCH_ITEMS, RecycleClient
from clients.python import RecyclingClient
from local.stack import Settings, Stack, running

ROUNDS = 3
DECISIONS = 6_000
CALLS = 300
TIMEOUT_S = 60.0


def candidate() -> str:
    """The shipped policy with another fee: every decision changes."""
    body = json.loads(files("policies").joinpath("iqiyi.json").read_text("utf-8"))
    return json.dumps(body | {"fee_basis_points": 2_000})


async def backtest(client: RecyclingClient) -> Run:
    """One over everything that was decided first."""
    begin = time.perf_counter()
    request = pb.BacktestPolicyRequest(document=candidate(), rows_max=DECISIONS)
    report = await client.backtest_policy(request, timeout_s=TIMEOUT_S)
    seconds = time.perf_counter() - begin
    if report.replayed != DECISIONS or report.skipped or not report.changed:
        raise BenchError(f"{report.replayed} of {DECISIONS} decided again, {report.changed} changed: {report.skipped}")
    return Run(count=report.replayed, seconds=seconds, latencies_ms=[1000 * seconds])


async def measure(stack: Stack) -> None:
    """All figures of a running service."""
    async with AsyncExitStack() as parts:
        owner = await asyncpg.connect(stack.database_url)
        parts.push_async_callback(owner.close)
        callers = RecycleClient(stack.address)
        parts.push_async_callback(callers.close)
        client = await parts.enter_async_context(RecyclingClient(stack.address))
        progress("issuing and recycling cards")
        cards = Cards(owner)
        await cards.issue(DECISIONS + 2 * ROUNDS * CALLS)
        for _ in range(DECISIONS // BATCH_ITEMS):
            requests = recycle_requests(cards.take(BATCH_ITEMS))  # approved or held: both are decided again
            await client.batch_recycle(rb.BatchRecycleRequest(requests=requests), timeout_s=TIMEOUT_S)
        await owner.execute("VACUUM (ANALYZE)")
        await backtest(client)
        runs, alone, beside = [], [], []
        for number in range(ROUNDS):
            progress(f"round {number + 1} of {ROUNDS}")
            runs.append(await backtest(client))
            alone.append(await _one_by_one(callers, cards))
            under_way = asyncio.create_task(_keep_testing(client))
            beside.append(await _one_by_one(callers, cards))
            under_way.cancel()
            await asyncio.gather(under_way, return_exceptions=True)
        show("backtest_decisions_per_second", middle_rate(runs), "1/s", decisions=DECISIONS, backtest=summary(runs))
        show(
            "recycle_beside_backtest",
            summary(beside)["p50_ms"] / summary(alone)["p50_ms"],
            "ratio of p50",
            alone=summary(alone),
            beside=summary(beside),
        )


async def _one_by_one(callers: RecycleClient, cards: Cards) -> Run:
    requests = recycle_requests(cards.take(CALLS))

    async def call(number: int) -> object:
        return await callers.recycle(requests[number : number + 1])

    run, _ = await in_flight(1, call, range(CALLS))
    return run


async def _keep_testing(client: RecyclingClient) -> None:
    request = pb.BacktestPolicyRequest(document=candidate(), rows_max=DECISIONS)
    while True:
        await client.backtest_policy(request, timeout_s=TIMEOUT_S)


def main() -> None:
    """Runs it all."""
    with scratch() as folder:
        _run(folder)


def _run(folder: Path) -> None:
    with running(Settings(folder=folder, environment=ENVIRONMENT, log=folder / "service.log")) as stack:
        uvloop.run(measure(stack))


if __name__ == "__main__":
    main()
