"""What a feature row costs when the history is long: `python -m bench.features_long` fills scratch databases with 10
thousand to 10 million events at equal events a key, measures them in turns, and prints one JSON line a length.
docs/operations.md says what the figures mean.

Equal events a key means that ten times the events are ten times the accounts, devices, addresses and cards over the
same 90 days: what grows is the indexes, not what a request has to read. Knows how to fill the risk tables set by
set, which no server does. Must not know how features are computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import asyncpg
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.measure import BenchError, show
from bench.scores import FEATURES, ROWS
from migrations.postgres import EmbeddedPostgres
from migrations.runner import migrate
from server.store.database import SESSION

LENGTHS = (10_000, 100_000, 1_000_000, 10_000_000)
WARM_UP_BATCHES = 20
WARM_UP_BATCHES_MAX = 600
"""Of the longest history, what requests read are some 300 thousand pages; a batch reads six thousand."""
COLD_A_ROW_MAX = 0.1
ROUNDS = 100
ALONE_A_ROUND = 4

POSTGRES = {"shared_buffers": "4GB", "max_wal_size": "16GB", "checkpoint_timeout": "1h", "autovacuum": "off"}
"""The indexes that requests read take two thirds of it; docs/operations.md says what a service needs."""
_LOADING = {"work_mem": "1GB", "hash_mem_multiplier": "2", "maintenance_work_mem": "1GB", "synchronize_seqscans": "off"}

_EVENTS_AN_ACCOUNT = 10
_HISTORY = "interval '90 days'"

# An event by its number i of n. An account's events come evenly, and its cards go through their lives; a seventh of the
# accounts share devices by ten, addresses have three accounts each, and a hundred accounts look alike.
_EVENT = """
SELECT i AS seq, $2::timestamptz - {history} * (1 - i / n::float8) AS event_time, account, card,
       'account-' || account AS account_id,
       (ARRAY['ISSUE', 'ACTIVATE', 'RECYCLE', 'RECYCLE', 'COMPENSATE', 'REACTIVATE', 'RECYCLE', 'ACTIVATE', 'RECYCLE',
              'COMPENSATE'])[1 + (i / accounts + account) % 10] AS kind,
       'card-' || card AS card_id,
       decode(md5('device' || CASE WHEN account % 7 = 0 THEN account / 70 ELSE account END), 'hex') AS device_hash,
       decode(md5('address' || address), 'hex') AS address_hash,
       decode(md5('prefix' || address / 40), 'hex') AS prefix_hash,
       decode(md5('profile' || account % greatest(accounts / 100, 1)), 'hex') AS profile_hash,
       serial_block('bench', (1000 + card)::text) AS serial_block,
       (ARRAY[2999, 1990, 2500, 990])[1 + account % 4]::bigint AS amount_minor,
       '{{"session_seconds": 81.5, "page_views": 7, "emulator": false, "hosting": false, "inconsistencies": 0}}'::json
         AS signals
FROM (
  SELECT i, n, accounts, account, account * 3 + i % 3 AS card, (account * 3 + i % 3) / 2 AS address
  FROM (
    SELECT i, $1::bigint AS n, $1::bigint / {each} AS accounts, (i * 7919) % ($1::bigint / {each}) AS account
    FROM {numbers} AS i
  ) AS numbered
) AS drawn
"""


def _event(numbers: str) -> str:
    return _EVENT.format(history=_HISTORY, each=_EVENTS_AN_ACCOUNT, numbers=numbers)


_FILL = f"""
INSERT INTO risk_event (seq, event_time, account_id, kind, card_id, device_hash, address_hash, prefix_hash,
                        profile_hash, serial_block, amount_minor, tier, reason, signals, outcome)
OVERRIDING SYSTEM VALUE
SELECT seq, event_time, account_id, kind, card_id, device_hash, address_hash, prefix_hash, profile_hash, serial_block,
       amount_minor, 'BASIC', CASE WHEN kind = 'RECYCLE' THEN 'VOLUNTARY' END, signals,
       CASE WHEN kind IN ('RECYCLE', 'REACTIVATE') THEN CASE WHEN seq % 31 = 0 THEN 'REJECTED' ELSE 'APPROVED' END END
FROM ({_event("generate_series($3::bigint, $4::bigint)")}) AS event
"""  # noqa: S608 - constants
# Times rise with the sequence numbers, so that both minima belong to the same event.
_PAIRS = """
INSERT INTO risk_pair (account_id, kind, key, other, first_time, first_seq)
SELECT e.account_id, pair.kind, pair.key, pair.other, min(e.event_time), min(e.seq)
FROM risk_event AS e
CROSS JOIN LATERAL risk_pairs(
  e.kind, e.card_id, e.device_hash, e.address_hash, e.profile_hash, e.serial_block, e.amount_minor) AS pair
WHERE pair.kind = $1
GROUP BY e.account_id, pair.kind, pair.key, pair.other
ORDER BY min(e.seq)
"""
_LINKS = """
INSERT INTO risk_link (kind, key, other, first_time, first_seq)
SELECT link.kind, link.key, link.other, min(e.event_time), min(e.seq)
FROM risk_event AS e
CROSS JOIN LATERAL risk_links(e.card_id, e.device_hash, e.address_hash, e.profile_hash) AS link
WHERE link.kind = $1
GROUP BY link.kind, link.key, link.other
ORDER BY min(e.seq)
"""
_LABELS = """
INSERT INTO risk_label (account_id, label, source, label_time)
SELECT account_id, 1, 'bench', max(event_time) FROM risk_event WHERE seq % 300 = 0 GROUP BY account_id
"""
_REQUESTS = f"""
SELECT account_id, 'RECYCLE' AS kind, card_id, device_hash, address_hash, prefix_hash, profile_hash, serial_block,
       amount_minor, 'BASIC' AS tier, 'VOLUNTARY' AS reason, signals, $2::timestamptz AS as_of,
       9223372036854775807 AS as_of_seq, true AS leaves
FROM ({_event("unnest($3::bigint[])")}) AS event
"""  # noqa: S608 - constants
_INDEXES = """
SELECT i.indexrelid::regclass::text AS name,
       replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ') AS definition, c.conname AS key,
       i.indrelid::regclass::text AS relation, pg_get_constraintdef(c.oid) AS key_definition
FROM pg_index AS i LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid
WHERE i.indrelid IN ('risk_event'::regclass, 'risk_pair'::regclass, 'risk_link'::regclass)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a feature row cost, in microseconds: as the client saw it, and of the processor time of the database's
    process, which says more on a busy machine."""

    us: float
    cpu_us: float


class History:
    """A database of `events` events, and a session in it as a server has them."""

    def __init__(self, events: int, owner: asyncpg.Connection[Any], server: asyncpg.Connection[Any]) -> None:
        self.events = events
        self._owner = owner
        self._server = server
        self._draw = random.Random(events)
        self._end: Any = None
        self._backend = 0

    @classmethod
    async def open(cls, postgres: EmbeddedPostgres, events: int, resources: contextlib.AsyncExitStack) -> History:
        """Makes the database, without events; its connections go with `resources`."""
        name = f"history_{events}"
        postgres.create_database(name)
        await migrate(postgres.owner_url(name))
        owner = await asyncpg.connect(postgres.owner_url(name))
        resources.push_async_callback(owner.close)
        server = await asyncpg.connect(postgres.server_url(name), server_settings=SESSION)
        resources.push_async_callback(server.close)
        return cls(events, owner, server)

    async def fill(self, bar: Progress) -> None:
        """Events, then projections, then indexes: each as one set."""
        connection, events = self._owner, self.events
        self._backend = await self._server.fetchval("SELECT pg_backend_pid()")
        self._end = await connection.fetchval("SELECT date_trunc('second', now())")
        await connection.execute("".join(f"SET {name} = '{value}';" for name, value in _LOADING.items()))
        await connection.execute(f"SELECT ensure_risk_event_partitions(now() - {_HISTORY}, now())")
        indexes = await connection.fetch(_INDEXES)
        chunk = max(events // 10, 10_000)
        task = bar.add_task("", total=-(-events // chunk) + 7 + 3 + len(indexes) + 2)

        async def step(what: str, statement: str, *arguments: object) -> None:
            bar.update(task, description=f"{events:,} events: {what}")
            if arguments:
                await connection.execute(statement, *arguments, timeout=1800)
            else:
                await connection.execute(statement, timeout=1800)
            bar.advance(task)

        for index in indexes:
            if index["key"]:
                await connection.execute(f"ALTER TABLE {index['relation']} DROP CONSTRAINT {index['key']}")
            else:
                await connection.execute(f"DROP INDEX {index['name']}")
        await connection.execute("ALTER TABLE risk_event DISABLE TRIGGER risk_event_projected")
        for first in range(1, events + 1, chunk):
            await step("events", _FILL, events, self._end, first, min(first + chunk - 1, events))
        for kind in range(1, 8):
            await step(f"pairs of kind {kind}", _PAIRS, kind)
        for kind in range(1, 4):
            await step(f"links of kind {kind}", _LINKS, kind)
        for index in indexes:
            if index["key"]:
                made = f"ALTER TABLE {index['relation']} ADD CONSTRAINT {index['key']} {index['key_definition']}"
            else:
                made = index["definition"]
            await step(f"index {index['name']}", made)
        await connection.execute("ALTER TABLE risk_event ENABLE TRIGGER risk_event_projected")
        await step("labels", _LABELS)
        await step("vacuum", "VACUUM (ANALYZE) risk_event, risk_pair, risk_link, risk_label")
        if await connection.fetchval("SELECT count(*) FROM risk_event") != events:
            raise BenchError("not all events are there")
        bar.update(task, description=f"{events:,} events")

    async def warm_up(self, bar: Progress) -> None:
        """Asks until what requests read is in the database's memory and mapped by the session, as it is in a server
        that has run for a while."""
        task = bar.add_task(f"{self.events:,} events: warming up", total=WARM_UP_BATCHES_MAX)
        cold = await self.pages_read() + self.page_faults()
        for _ in range(0, WARM_UP_BATCHES_MAX, WARM_UP_BATCHES):
            for _ in range(WARM_UP_BATCHES):
                await self.ask(ROWS)
                bar.advance(task)
            before, cold = cold, await self.pages_read() + self.page_faults()
            if cold - before <= COLD_A_ROW_MAX * WARM_UP_BATCHES * ROWS:
                break
        bar.update(task, completed=WARM_UP_BATCHES_MAX)

    async def ask(self, rows: int) -> Cost:
        """Has the features told of `rows` recycles of random accounts, each account once."""
        accounts = self.events // _EVENTS_AN_ACCOUNT
        # The last event of each account: no two of them have the same one.
        numbers = self._draw.sample(range(self.events - accounts + 1, self.events + 1), rows)
        found = await self._owner.fetch(_REQUESTS, self.events, self._end, numbers)
        columns: Sequence[list[Any]] = [list(column) for column in zip(*map(tuple, found), strict=True)]
        begin, begin_cpu = time.perf_counter(), _processor_s(self._backend)
        answered = await self._server.fetch(FEATURES, *columns, timeout=60)
        seconds, cpu_seconds = time.perf_counter() - begin, _processor_s(self._backend) - begin_cpu
        if len(answered) != rows:
            raise BenchError("a request got no row")
        return Cost(us=seconds * 1e6 / rows, cpu_us=cpu_seconds * 1e6 / rows)

    async def pages_read(self) -> int:
        """How many pages were not in the database's memory, so far."""
        # A session tells what it read between two statements.
        await self._server.execute("SELECT pg_stat_force_next_flush()")
        await self._server.execute("SELECT")
        found: int = await self._owner.fetchval(
            "SELECT blks_read FROM pg_stat_database WHERE datname = current_database()"
        )
        return found

    def page_faults(self) -> int:
        """How often the session came upon memory that it had not mapped, so far."""
        return int(Path(f"/proc/{self._backend}/stat").read_text().rpartition(")")[2].split()[7])

    async def size(self) -> int:
        """In bytes, of all that is in the database."""
        found: int = await self._owner.fetchval("SELECT pg_database_size(current_database())")
        return found


def _processor_s(process_id: int) -> float:
    """How long a process has run on a processor."""
    return int(Path(f"/proc/{process_id}/schedstat").read_text().split()[0]) / 1e9


async def _run(postgres: EmbeddedPostgres, lengths: Sequence[int], bar: Progress) -> None:
    async with contextlib.AsyncExitStack() as resources:
        histories = []
        for events in lengths:
            history = await History.open(postgres, events, resources)
            await history.fill(bar)
            histories.append(history)
        await _compare(histories, bar)


async def _compare(histories: Sequence[History], bar: Progress) -> None:
    """Measures and prints; the first is the one that the others are held against."""
    for history in histories:
        await history.warm_up(bar)
    before = {history: (await history.pages_read(), history.page_faults()) for history in histories}
    # In turns, so that whatever else the machine does, it does to all of them.
    batches: dict[History, list[Cost]] = {history: [] for history in histories}
    alone: dict[History, list[Cost]] = {history: [] for history in histories}
    for _ in bar.track(range(ROUNDS), description="measuring"):
        for history in histories:
            batches[history].append(await history.ask(ROWS))
        for history in histories:
            alone[history] += [await history.ask(1) for _ in range(ALONE_A_ROUND)]
    rows = ROUNDS * (ROWS + ALONE_A_ROUND)
    shortest = batches[histories[0]]
    for history in histories:
        pages, faults = before[history]
        costs = batches[history]
        pairs = list(zip(costs, shortest, strict=True))
        show(
            "features_us_per_row_long",
            median(cost.us for cost in costs),
            "us",
            events=history.events,
            rows=ROWS,
            over_shortest=round(median(cost.us / base.us for cost, base in pairs), 3),
            cpu_us=round(median(cost.cpu_us for cost in costs), 1),
            cpu_over_shortest=round(median(cost.cpu_us / base.cpu_us for cost, base in pairs), 3),
            alone_us=round(median(cost.us for cost in alone[history])),
            alone_cpu_us=round(median(cost.cpu_us for cost in alone[history])),
            pages_read_a_row=round((await history.pages_read() - pages) / rows, 2),
            page_faults_a_row=round((history.page_faults() - faults) / rows, 2),
            gigabytes=round(await history.size() / 2**30, 2),
        )


def main(
    up_to: Annotated[int, typer.Option(help="The longest history to make, in events.", min=LENGTHS[0])] = LENGTHS[-1],
) -> None:
    """Fills all histories, the shortest first, then measures them in turns."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="features-long-") as folder,
        Progress(*columns, console=Console(stderr=True)) as bar,
        EmbeddedPostgres(Path(folder), durable=False, settings=POSTGRES) as postgres,
    ):
        asyncio.run(_run(postgres, [events for events in LENGTHS if events <= up_to], bar))


if __name__ == "__main__":
    typer.run(main)
