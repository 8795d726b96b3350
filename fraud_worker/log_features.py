"""Events of a log as rows of a database, where `risk_features` computes the very rows that serving computes.

Knows `risk_event`, `risk_label`, how raw values become hashes and signals, and the scratch Postgres. Must not know
files, what a label means to training, or models.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fraud_worker.log_reading import HASHES, REASONS, SIGNALS, TIERS, EventLogError
from fraud_worker.registry import FEATURE_NAMES
from migrations.postgres import EmbeddedPostgres
from migrations.risk_log import PROFILE_FIELDS, TraceHasher, serial_block
from migrations.risk_signals import FINGERPRINT_FIELDS, derived_signals
from migrations.runner import migrate

_COPY_ROWS: Final = 20_000
_FEATURE_ROWS: Final = 512

# Any key will do: within one scratch database it only matters that the same value gets the same hash.
_SCRATCH_KEY: Final = b"fraud-worker scratch database"

_FEATURES_OF: Final = (
    f"SELECT {', '.join(FEATURE_NAMES)} FROM risk_features("  # noqa: S608 - the names are constants
    "$1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bigint[],"
    " $10::text[], $11::text[], $12::json[], $13::timestamptz[], $14::bigint[], $15::boolean[])"
)

Matrix = npt.NDArray[np.float64]


def features_in_scratch(log: pl.DataFrame, wanted: pl.DataFrame) -> Matrix:
    """The features of the events `wanted` of `log` (merged, with `seq`), NaN for unknown. Raises `EventLogError` where
    the database cannot hold what the log says."""
    with (
        tempfile.TemporaryDirectory(prefix="fraud-worker-") as folder,
        EmbeddedPostgres(Path(folder), durable=False) as postgres,
    ):
        postgres.create_database("event_log")
        try:
            return asyncio.run(_features(postgres.owner_url("event_log"), log, wanted))
        except asyncpg.DataError as error:
            raise EventLogError(f"the log holds what the scratch database refuses: {error}") from error


async def _features(url: str, log: pl.DataFrame, wanted: pl.DataFrame) -> Matrix:
    await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        with progress_bars() as progress:
            bar = progress.add_task("loading events", total=log.height)
            await load(connection, log, lambda rows: progress.advance(bar, rows))
            bar = progress.add_task("computing features", total=wanted.height)
            return await feature_matrix(connection, wanted, lambda rows: progress.advance(bar, rows))
    finally:
        await connection.close()


async def load(
    connection: asyncpg.Connection[Any], log: pl.DataFrame, advance: Callable[[int], object] = lambda rows: None
) -> None:
    """Copies the events of `log` (as `read_log` gives it, with `seq`) into `risk_event`, and its labels of abuse into
    `risk_label`."""
    hasher = TraceHasher(_SCRATCH_KEY)
    columns = ["account_id", "event_time", "seq", "kind", "card_id", *HASHES]
    columns += ["amount_minor", "tier", "reason", "signals", "outcome"]
    for part in log.iter_slices(_COPY_ROWS):
        records = [
            (
                event.account_id,
                event.time,
                event.seq,
                event.kind,
                event.card_id,
                *event.hashes,
                event.amount,
                event.tier,
                event.reason,
                event.signals,
                event.outcome,
            )
            for event in stored_events(part, hasher)
        ]
        await connection.copy_records_to_table("risk_event", records=records, columns=columns)
        advance(part.height)
    abuse = log.filter(pl.col("abuse_time").is_not_null()).select(
        "account_id", label=pl.lit(1, dtype=pl.Int16), source=pl.lit("log"), label_time="abuse_time"
    )
    await connection.copy_records_to_table("risk_label", records=abuse.iter_rows(), columns=abuse.columns)
    await connection.execute("ANALYZE risk_event, risk_pair, risk_link, risk_label")


async def feature_matrix(
    connection: asyncpg.Connection[Any], events: pl.DataFrame, advance: Callable[[int], object] = lambda rows: None
) -> Matrix:
    """The feature rows of loaded `events`, each as of its own place in the log."""
    hasher = TraceHasher(_SCRATCH_KEY)
    matrix = np.empty((events.height, len(FEATURE_NAMES)), dtype=np.float64)
    done = 0
    for part in events.iter_slices(_FEATURE_ROWS):
        batch = list(stored_events(part, hasher))
        hashes = zip(*(event.hashes for event in batch), strict=True)
        rows = await connection.fetch(
            _FEATURES_OF,
            [event.account_id for event in batch],
            [event.kind for event in batch],
            [event.card_id for event in batch],
            *hashes,
            [event.amount for event in batch],
            [event.tier for event in batch],
            [event.reason for event in batch],
            [event.signals for event in batch],
            [event.time for event in batch],
            [event.seq for event in batch],
            [False] * len(batch),
        )
        # None becomes NaN, a flag 0 or 1.
        matrix[done : done + len(rows)] = [tuple(row) for row in rows]
        done += len(rows)
        advance(len(rows))
    return matrix


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of a log as `risk_event` holds it."""

    account_id: str
    time: datetime
    seq: int
    kind: str
    card_id: str | None
    hashes: tuple[bytes | None, ...]
    """In the order of `HASHES`."""
    amount: int | None
    tier: str | None
    reason: str | None
    signals: str | None
    outcome: str | None


def stored_events(part: pl.DataFrame, hasher: TraceHasher) -> Iterator[StoredEvent]:
    """The rows of a log (as `read_log` gives it, with `seq`) as events: hashes for values, signals from them."""
    for row in part.iter_rows(named=True):
        traces = hasher.traces(
            device_id=row["device_id"], ip=row["ip"], profile={field: row[field] for field in PROFILE_FIELDS}
        )
        computed = {
            "device_hash": traces.device_hash,
            "address_hash": traces.address_hash,
            "prefix_hash": traces.prefix_hash,
            "profile_hash": traces.profile_hash,
            "serial_block": serial_block(row["platform"], row["serial"]),
        }
        signals = derived_signals(
            fingerprint={field: row[field] for field in FINGERPRINT_FIELDS},
            emulator=row["emulator"],
            ip=row["ip"],
            timezone=row["timezone"],
            language=row["language"],
            country=row["country"],
        ) | {name: row[name] for name in SIGNALS if row[name] is not None}
        yield StoredEvent(
            row["account_id"],
            row["event_time"],
            row["seq"],
            row["event_kind"],
            row["card_id"],
            tuple(row[name] or computed[name] for name in HASHES),
            row["amount_minor"],
            _known_word(row["tier"], TIERS),
            _known_word(row["reason"], REASONS),
            json.dumps(signals) if signals else None,
            row["outcome"],
        )


def _known_word(text: str | None, words: Sequence[str]) -> str | None:
    """Other sellers have other tiers and reasons: unknown to us."""
    word = (text or "").upper()
    return word if word in words else None


def progress_bars() -> Progress:
    """Bars on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
