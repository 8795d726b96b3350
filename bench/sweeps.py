"""What it takes to catch up with time: `python -m bench.sweeps` makes many cards due at once and lets one server, then
two, record it; one JSON line a figure. docs/operations.md says what they mean.

Knows how to fill the tables of cards set by set, which no server does. Must not know how what is due is found.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer
import uvloop

from bench.__main__ import ENVIRONMENT, scratch
from bench.cards import Cards, recycle_requests
from bench.measure import BenchError, Run, in_flight, progress, show, summary
from bench.recycles import RecycleClient
from local.stack import Settings, Stack, running
from server.store.statements import statement

CALLS = 2_000
CALLERS = 4
"""Few: what is asked is how long a caller waits for an answer, not how many get one."""
BATCHED = 8_000
PATIENCE_S = 3_600.0
POLL_S = 0.5
"""How often is looked how far a sweep has come: looking reads many rows, too."""

# By the number: ACTIVE and past its end; ISSUED and past its deadline; known to have expired a month ago, which the
# service recycles by itself; RECYCLED and past its window. One account each.
_FILL = """
WITH due AS MATERIALIZED (
  SELECT 'due-' || i AS account_id, gen_random_uuid() AS card_id, gen_random_uuid() AS recycling_id, i % 4 AS kind,
         (ARRAY['iqiyi', 'tencent', 'netflix', 'iqiyi'])[1 + i % 4] AS platform,
         clock_timestamp() - i % 1000 * interval '1 second' - CASE i % 4 WHEN 2 THEN interval '31 days'
                                                              ELSE interval '1 hour' END AS bound
  FROM generate_series($1::integer, $2::integer - 1) AS i
),
opened AS (
  INSERT INTO account (account_id, version, create_time) SELECT account_id, 1, bound - interval '400 days' FROM due
),
told AS (
  INSERT INTO card_event (account_id, card_id, version, kind, state, generation, renewals_used, request_id, event_time)
  SELECT account_id, card_id, 1, 'ISSUED', 'ISSUED', 1, 0, gen_random_uuid(), bound - interval '400 days' FROM due
),
made AS (
  INSERT INTO card (account_id, card_id, platform, tier, state, face_value_minor, paid_minor, currency, duration_days,
                    issue_time, activate_by_time, activate_time, expire_time, expired_bound, waits_until, generation,
                    renewals_used, live_recycling_id, version)
  SELECT account_id, card_id, platform, 'BASIC', (ARRAY['ACTIVE', 'ISSUED', 'ACTIVE', 'RECYCLED'])[1 + kind], 2999,
         2999, 'CNY', 30, bound - interval '400 days', CASE kind WHEN 1 THEN bound END,
         CASE WHEN kind IN (0, 2) THEN bound - interval '30 days' END, CASE WHEN kind IN (0, 2) THEN bound END,
         CASE kind WHEN 2 THEN bound END, CASE kind WHEN 3 THEN bound END, 1, 0,
         CASE kind WHEN 3 THEN recycling_id END, 1
  FROM due
)
INSERT INTO recycling (account_id, recycling_id, request_id, card_id, generation, reason, priority, state, disposition,
                       fee_minor, prior_state, unused_us, settlement_held, platform, policy_revision, decision,
                       create_time, version)
SELECT due.account_id, due.recycling_id, gen_random_uuid(), due.card_id, 1, like_it.reason, like_it.priority,
       'APPROVED', 'VOUCHER', 0, like_it.prior_state, like_it.unused_us, false, due.platform, like_it.policy_revision,
       like_it.decision, bound - interval '180 days', 1
FROM due
CROSS JOIN (SELECT * FROM recycling WHERE platform = 'iqiyi' AND account_id LIKE 'bench-%' LIMIT 1) AS like_it
WHERE kind = 3
"""

# The same rows of the same tables, written by one statement that decides nothing.
_PLAIN = """
WITH moved AS (
  UPDATE card SET version = version + 1, expired_bound = coalesce(expire_time, activate_by_time), waits_until = NULL
  WHERE account_id LIKE 'due-%' AND version = 1
  RETURNING *
),
claimed AS (
  UPDATE account SET version = account.version + 1 FROM moved WHERE account.account_id = moved.account_id
),
told AS (
  INSERT INTO card_event (account_id, card_id, version, kind, state, activate_by_time, activate_time, expire_time,
                          generation, renewals_used, recycling_id, request_id, event_time)
  SELECT account_id, card_id, version, 'EXPIRED', 'EXPIRED', activate_by_time, activate_time, expire_time, generation,
         renewals_used, NULL, gen_random_uuid(), clock_timestamp() FROM moved
)
INSERT INTO command (account_id, request_id, method, input_hash, response, receipt, create_time)
SELECT account_id, gen_random_uuid(), 'ExpireCard', sha256(''), sha256(''), to_json(repeat('x', 1000)),
       clock_timestamp()
FROM moved
"""


class Sweeps:
    """A running service, whose servers look every second, and cards that are due all at once."""

    def __init__(self, stack: Stack, owner: asyncpg.Connection, client: RecycleClient, due: int) -> None:
        self._stack = stack
        self._owner = owner
        self._client = client
        self._due = due
        self._filled = 0
        self._cards = Cards(owner)

    async def run(self) -> None:
        """Measures everything."""
        await self._cards.issue(2 * CALLS + 2 * BATCHED)
        await self._client.recycle_batched(recycle_requests(self._cards.take(BATCHED)))
        progress("plain")
        plain = await self._plain()
        batched = await self._client.recycle_batched(recycle_requests(self._cards.take(BATCHED)))
        progress("alone")
        alone = await self._calls()
        one = await self._swept("one server")
        await self._fill()
        beside = await self._calls()
        if not await self._behind():
            raise BenchError("the sweep was over before its callers were: take more cards")
        await self._caught_up()
        second = self._stack.start_server("127.0.0.1:0")
        try:
            second.address()
            two = await self._swept("two servers")
        finally:
            second.stop()
        parties: dict[str, Any] = {"due": self._due, "sweep": _rates(one)}
        show("sweep_over_batch_recycle", one[0].rate / batched.rate, "ratio", **parties, batch=summary([batched]))
        show("sweep_over_plain_statement", one[0].rate / plain.rate, "ratio", **parties, plain=summary([plain]))
        show("sweep_by_two_over_one", two[0].rate / one[0].rate, "ratio", **parties, by_two=_rates(two))
        show("sweep_last_quarter_over_first", one[2] / one[1], "ratio", **parties)
        show(
            "p99_beside_sweep_over_alone",
            summary([beside])["p99_ms"] / summary([alone])["p99_ms"],
            "ratio",
            due=self._due,
            calls_in_flight=CALLERS,
            beside=summary([beside]),
            alone=summary([alone]),
        )

    async def _fill(self) -> None:
        await self._owner.execute(_FILL, self._filled, self._filled + self._due)
        self._filled += self._due

    async def _plain(self) -> Run:
        """The statement alone; what it wrote is taken back."""
        transaction = self._owner.transaction()
        await transaction.start()
        await self._owner.execute(_FILL, 0, self._due)
        await self._owner.execute("ANALYZE card, account")
        begin = time.perf_counter()
        await self._owner.execute(_PLAIN)
        seconds = time.perf_counter() - begin
        await transaction.rollback()
        return Run(count=self._due, seconds=seconds, latencies_ms=[1000 * seconds])

    async def _swept(self, whose: str) -> tuple[Run, float, float]:
        """A whole sweep, and the rates of its first and last quarter."""
        progress(f"{whose}, {self._due} cards")
        before = await self._recorded()
        await self._fill()
        begin = time.perf_counter()
        quarters = []
        for quarter in (1, 3):
            while await self._recorded() - before < quarter * self._due // 4:
                await self._patience(begin)
            quarters.append(time.perf_counter() - begin)
        await self._caught_up()
        seconds = time.perf_counter() - begin
        if (recorded := await self._recorded() - before) != self._due:
            raise BenchError(f"{recorded} were recorded of {self._due} that were due")
        run = Run(count=self._due, seconds=seconds, latencies_ms=[1000 * seconds])
        return run, self._due / 4 / quarters[0], self._due / 4 / (seconds - quarters[1])

    async def _recorded(self) -> int:
        """How much the service has done by itself. It counts events, of which there is one each."""
        found: int = await self._owner.fetchval(
            "SELECT count(*) FROM card_event WHERE version = 2 AND account_id LIKE 'due-%'"
        )
        return found

    async def _behind(self) -> bool:
        """Whether something is due."""
        oldest = await self._owner.fetch(statement("due_oldest").text)
        return any(row["lag"] for row in oldest)

    async def _caught_up(self) -> None:
        begin = time.perf_counter()
        while await self._behind():
            await self._patience(begin)

    async def _patience(self, begin: float) -> None:
        if time.perf_counter() - begin > PATIENCE_S:
            raise BenchError("the sweep does not end")
        await asyncio.sleep(POLL_S)

    async def _calls(self) -> Run:
        call = self._client.recycle_one
        run, _ = await in_flight(CALLERS, call, recycle_requests(self._cards.take(CALLS)))
        return run


def _rates(sweep: tuple[Run, float, float]) -> dict[str, float]:
    rates = {"per_second": sweep[0].rate, "first_quarter": sweep[1], "last_quarter": sweep[2]}
    return {name: round(rate, 1) for name, rate in rates.items()}


async def measure(stack: Stack, due: int) -> None:
    """Every figure of a running service."""
    async with AsyncExitStack() as parts:
        owner = await asyncpg.connect(stack.database_url)
        parts.push_async_callback(owner.close)
        client = RecycleClient(stack.address)
        parts.push_async_callback(client.close)
        await Sweeps(stack, owner, client, due).run()


def main(due: Annotated[int, typer.Option(min=1_000, help="So many cards are due at once.")] = 20_000) -> None:
    """Measures how fast servers record what time has done, and what callers notice of it."""
    begin = time.monotonic()
    with scratch() as folder:
        log: Path = folder / "service.log"
        settings = Settings(folder=folder, log=log, environment=ENVIRONMENT | {"SWEEP_EVERY_S": "1"})
        try:
            with running(settings) as stack:
                uvloop.run(measure(stack, due))
        except Exception:
            progress(log.read_text()[-2000:] if log.exists() else "")
            raise
    progress(f"took {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    typer.run(main)
