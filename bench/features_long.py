"""What a feature row costs when the history is long: `python -m bench.features_long` fills scratch databases with 10
thousand to 10 million events at equal events a key, and prints one JSON line a figure.

Equal events a key means that ten times the events are ten times the accounts, devices, addresses and cards over the
same 90 days: what grows is the indexes, not what a request has to read. Knows how to fill the risk tables set by
set, which no server does. Must not know how features are computed.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import asyncpg
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.measure import BenchError, show
from bench.scores import FEATURES, ROWS
from migrations.postgres import EmbeddedPostgres
from migrations.runner import migrate
from server.store.store import SESSION

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
BATCHES = 60
BATCHES_ALONE = 200
WARM_UP_BATCHES = 40

POSTGRES = {"shared_buffers": "4GB", "max_wal_size": "16GB", "checkpoint_timeout": "1h", "autovacuum": "off"}
"""The indexes of ten million events take about so much, and a service of that size would have it."""
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


class History:
    """A database of `events` events."""

    def __init__(self, events: int, connection: asyncpg.Connection[Any], bar: Progress, task: TaskID) -> None:
        self._events = events
        self._connection = connection
        self._bar = bar
        self._task = task
        self._end: Any = None

    async def fill(self) -> None:
        """Events, then projections, then indexes: each as one set."""
        connection, events = self._connection, self._events
        self._end = await connection.fetchval("SELECT date_trunc('second', now())")
        await connection.execute("".join(f"SET {name} = '{value}';" for name, value in _LOADING.items()))
        await connection.execute(f"SELECT ensure_risk_event_partitions(now() - {_HISTORY}, now())")
        indexes = await connection.fetch(_INDEXES)
        for index in indexes:
            if index["key"]:
                await connection.execute(f"ALTER TABLE {index['relation']} DROP CONSTRAINT {index['key']}")
            else:
                await connection.execute(f"DROP INDEX {index['name']}")
        await connection.execute("ALTER TABLE risk_event DISABLE TRIGGER risk_event_projected")
        chunk = max(events // 10, 10_000)
        for first in range(1, events + 1, chunk):
            await self._step("events", _FILL, events, self._end, first, min(first + chunk - 1, events))
        for kind in range(1, 8):
            await self._step(f"pairs of kind {kind}", _PAIRS, kind)
        for kind in range(1, 4):
            await self._step(f"links of kind {kind}", _LINKS, kind)
        for index in indexes:
            if index["key"]:
                made = f"ALTER TABLE {index['relation']} ADD CONSTRAINT {index['key']} {index['key_definition']}"
            else:
                made = index["definition"]
            await self._step(f"index {index['name']}", made)
        await connection.execute("ALTER TABLE risk_event ENABLE TRIGGER risk_event_projected")
        await self._step("labels", _LABELS)
        await self._step("vacuum", "VACUUM (ANALYZE) risk_event, risk_pair, risk_link, risk_label")
        if await connection.fetchval("SELECT count(*) FROM risk_event") != events:
            raise BenchError("not all events are there")

    async def _step(self, what: str, statement: str, *arguments: object) -> None:
        self._bar.update(self._task, description=f"{self._events:,} events: {what}")
        if arguments:
            await self._connection.execute(statement, *arguments, timeout=1800)
        else:
            await self._connection.execute(statement, timeout=1800)
        self._bar.advance(self._task)

    async def us_per_row(
        self, server: asyncpg.Connection[Any], rows: int, batches: int, warm_up: int
    ) -> tuple[float, float]:
        """The median over batches of `rows` recycles of recent, random accounts, each account once a batch; and of the
        processor time that the database took for them, which says more on a busy machine."""
        backend = await server.fetchval("SELECT pg_backend_pid()")
        draw = random.Random(rows)
        times, busy = [], []
        for number in range(warm_up + batches):
            # The last event of each account: no two of them have the same one.
            accounts = self._events // _EVENTS_AN_ACCOUNT
            numbers = draw.sample(range(self._events - accounts + 1, self._events + 1), rows)
            found = await self._connection.fetch(_REQUESTS, self._events, self._end, numbers)
            columns: Sequence[list[Any]] = [list(column) for column in zip(*map(tuple, found), strict=True)]
            begin, begin_busy = time.perf_counter(), _processor_s(backend)
            answered = await server.fetch(FEATURES, *columns, timeout=60)
            if number >= warm_up:
                times.append(time.perf_counter() - begin)
                busy.append(_processor_s(backend) - begin_busy)
            if len(answered) != rows:
                raise BenchError("a request got no row")
        return median(times) * 1e6 / rows, median(busy) * 1e6 / rows


def _processor_s(process_id: int) -> float:
    """How long a process has run on a processor."""
    return int(Path(f"/proc/{process_id}/schedstat").read_text().split()[0]) / 1e9


async def _measured(postgres: EmbeddedPostgres, events: int, bar: Progress) -> dict[str, float]:
    name = f"history_{events}"
    postgres.create_database(name)
    url = postgres.owner_url(name)
    await migrate(url)
    task = bar.add_task(f"{events:,} events", total=10 + 10 + 11 + 2)
    owner = await asyncpg.connect(url)
    server = await asyncpg.connect(postgres.server_url(name), server_settings=SESSION)
    try:
        begin = time.monotonic()
        history = History(events, owner, bar, task)
        await history.fill()
        loaded_s = time.monotonic() - begin
        bar.update(task, description=f"{events:,} events: measuring")
        batch_us, batch_cpu_us = await history.us_per_row(server, ROWS, BATCHES, WARM_UP_BATCHES)
        alone_us, alone_cpu_us = await history.us_per_row(server, 1, BATCHES_ALONE, BATCHES_ALONE)
        found = {
            "batch_us": batch_us,
            "batch_cpu_us": batch_cpu_us,
            "alone_us": alone_us,
            "alone_cpu_us": alone_cpu_us,
            "loaded_s": loaded_s,
            "bytes": float(await owner.fetchval("SELECT pg_database_size(current_database())")),
        }
        bar.update(task, completed=33, description=f"{events:,} events: {found['batch_us']:.0f} us a row")
        return found
    finally:
        await server.close()
        await owner.close()


def main(
    up_to: Annotated[int, typer.Option(help="The longest history to make, in events.", min=SIZES[0])] = SIZES[-1],
) -> None:
    """Fills and measures each size, the shortest first."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="features-long-") as folder,
        Progress(*columns, console=Console(stderr=True)) as bar,
        EmbeddedPostgres(Path(folder), durable=False, settings=POSTGRES) as postgres,
    ):
        shortest: dict[str, float] = {}
        for events in (size for size in SIZES if size <= up_to):
            found = asyncio.run(_measured(postgres, events, bar))
            shortest = shortest or found
            show(
                "features_us_per_row_long",
                found["batch_us"],
                "us",
                events=events,
                rows=ROWS,
                over_shortest=round(found["batch_us"] / shortest["batch_us"], 3),
                cpu_us=round(found["batch_cpu_us"], 1),
                cpu_over_shortest=round(found["batch_cpu_us"] / shortest["batch_cpu_us"], 3),
                alone_us=round(found["alone_us"]),
                alone_cpu_us=round(found["alone_cpu_us"]),
                loaded_s=round(found["loaded_s"]),
                gigabytes=round(found["bytes"] / 2**30, 2),
            )


if __name__ == "__main__":
    typer.run(main)
