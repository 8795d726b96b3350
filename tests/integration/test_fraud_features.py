"""The one SQL function: a batch equals its requests one by one, the past stays as it was, training equals serving."""

from __future__ import annotations

import heapq
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_worker.event_log import LABEL_DELAY, SIGNALS, feature_matrix, load, read_log
from fraud_worker.registry import FEATURE_NAMES
from fraud_worker.simulator import simulate, write_log
from migrations.risk_log import PROFILE_FIELDS, TraceHasher, serial_block
from migrations.risk_signals import derived_signals
from tests.conftest import FreshDatabase

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NEVER = 2**62
"""A sequence number after all others: the request sees every event of its own moment."""
HASHER = TraceHasher(b"another key than the loader's")

JUDGED = ("RECYCLE", "REACTIVATE")

Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as a test draws it."""

    account_id: str
    kind: str = "RECYCLE"
    card: int = 0
    device: str | None = None
    ip: str | None = None
    model: str | None = None
    serial: str | None = None
    amount_minor: int | None = None
    tier: str | None = None
    reason: str | None = None
    signals: str | None = None
    event_time: datetime = NOW
    outcome: str | None = None
    """Of the event that it becomes; the request itself has none yet."""

    def columns(self) -> tuple[Any, ...]:
        """account, kind, card, the five hashes, amount, tier, reason, signals, time."""
        profile = {"model": self.model, "os": "android", "screen": "1080x2400"} if self.model else {}
        traces = HASHER.traces(device_id=self.device, ip=self.ip, profile=profile)
        hashes = (traces.device_hash, traces.address_hash, traces.prefix_hash, traces.profile_hash)
        card_id = f"{self.account_id}-{self.card}"
        said = (self.amount_minor, self.tier, self.reason, self.signals, self.event_time)
        return (self.account_id, self.kind, card_id, *hashes, serial_block("iqiyi", self.serial), *said)


requests = st.builds(
    Request,
    account_id=st.sampled_from([f"a{number}" for number in range(12)]),
    kind=st.sampled_from(["ISSUE", "ACTIVATE", "RECYCLE", "RECYCLE", "RECYCLE", "REACTIVATE"]),
    card=st.integers(0, 1),
    device=st.sampled_from([None, "d1", "d1", "d2", "d3"]),
    ip=st.sampled_from([None, "203.0.113.1", "203.0.113.2", "198.51.100.1", "2001:db8::1", "2001:db8::2"]),
    model=st.sampled_from([None, "m1", "m1", "m2"]),
    serial=st.sampled_from([None, "S1201", "S1202", "S1302"]),
    amount_minor=st.sampled_from([None, 2999, 2999, 1990]),
)
past_requests = st.builds(
    lambda request, age_s: replace(request, event_time=NOW - timedelta(seconds=age_s)),
    requests.flatmap(
        lambda request: st.sampled_from([None, "APPROVED", "REJECTED"]).map(
            lambda outcome: replace(request, outcome=outcome if request.kind in JUDGED else None)
        )
    ),
    st.one_of(st.integers(0, 3_700), st.integers(0, 90_000), st.integers(0, 3_000_000)),
)


@pytest.fixture(scope="session")
async def connection(fresh_database: FreshDatabase) -> AsyncIterator[asyncpg.Connection[Any]]:
    """The owner's connection to an empty database."""
    owner_url, _ = await fresh_database()
    connection = await asyncpg.connect(owner_url)
    yield connection
    await connection.close()


async def features(
    connection: asyncpg.Connection[Any], batch: Sequence[Request], *, as_of_seq: int = NEVER, leaves: bool = True
) -> list[Row]:
    """The feature rows of `batch`."""
    return [row[:-1] for row in await judged(connection, batch, as_of_seq=as_of_seq, leaves=leaves)]


async def judged(
    connection: asyncpg.Connection[Any], batch: Sequence[Request], *, as_of_seq: int = NEVER, leaves: bool = True
) -> list[Row]:
    """The feature rows of `batch`, each with what was assumed of its outcome."""
    columns = list(zip(*(request.columns() for request in batch), strict=True))
    rows = await connection.fetch(
        f"SELECT {', '.join(FEATURE_NAMES)}, assumed_rejected"
        " FROM risk_features($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,"
        " $13, $14, $15)",
        *columns,
        [as_of_seq] * len(batch),
        [leaves] * len(batch),
    )
    return [tuple(row) for row in rows]


async def insert(connection: asyncpg.Connection[Any], *events: Request) -> int:
    """Appends `events` in order; returns the sequence number of the last one."""
    seq = 0
    for event in events:
        seq = await connection.fetchval(
            "INSERT INTO risk_event (account_id, kind, card_id, device_hash, address_hash, prefix_hash, profile_hash,"
            " serial_block, amount_minor, tier, reason, signals, event_time, outcome)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING seq",
            *event.columns(),
            event.outcome,
        )
    return seq


async def confirm(connection: asyncpg.Connection[Any], account_id: str, label_time: datetime, label: int = 1) -> None:
    """Labels an account."""
    await connection.execute(
        "INSERT INTO risk_label (account_id, label, source, label_time) VALUES ($1, $2, 'review', $3)",
        account_id,
        label,
        label_time,
    )


async def test_columns_are_the_registry(connection: asyncpg.Connection[Any]) -> None:
    """After the position, the function's columns are the registry's features in its order."""
    names = await connection.fetchval("SELECT proargnames[16:] FROM pg_proc WHERE proname = 'risk_features'")
    assert names == ["feature_position", *FEATURE_NAMES, "assumed_rejected"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    past=st.lists(past_requests, max_size=25),
    batch=st.lists(requests, min_size=2, max_size=10, unique_by=lambda request: request.account_id),
    labels=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 3_000_000)), max_size=4),
)
async def test_batch_equals_its_requests_one_by_one(
    connection: asyncpg.Connection[Any], past: list[Request], batch: list[Request], labels: list[tuple[int, int]]
) -> None:
    """Requests of different accounts in one batch get what they would get one after the other, if outcomes are as
    assumed."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await insert(connection, *sorted(past, key=lambda event: event.event_time))
        for number, age_s in labels:
            await confirm(connection, f"a{number}", NOW - timedelta(seconds=age_s))
        together = await judged(connection, batch)
        one_by_one = []
        for request, row in zip(batch, together, strict=True):
            one_by_one += await features(connection, [request])
            outcome = ("REJECTED" if row[-1] else "APPROVED") if request.kind in JUDGED else None
            await insert(connection, replace(request, outcome=outcome))
        assert [row[:-1] for row in together] == one_by_one
    finally:
        await transaction.rollback()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(past=st.lists(past_requests, min_size=2, max_size=25), place=st.floats(0, 1, exclude_max=True))
async def test_later_events_never_change_an_earlier_row(
    connection: asyncpg.Connection[Any], past: list[Request], place: float
) -> None:
    """A row as of an event's place in the log is the same before and after more is logged, of that moment too."""
    past = sorted(past, key=lambda event: event.event_time)
    cut = int(place * len(past))
    asked, later = past[cut], past[cut + 1 :]
    same_moment = [replace(event, event_time=asked.event_time) for event in later]
    transaction = connection.transaction()
    await transaction.start()
    try:
        seq = await insert(connection, *past[: cut + 1])
        before = await features(connection, [asked], as_of_seq=seq, leaves=False)
        await insert(connection, *same_moment, *later)
        await confirm(connection, "a1", asked.event_time)
        assert await features(connection, [asked], as_of_seq=seq, leaves=False) == before
    finally:
        await transaction.rollback()


async def test_counts_saturate(connection: asyncpg.Connection[Any]) -> None:
    """A farm of more accounts than the cap counts as the cap, and says that it reached it."""
    async with connection.transaction():
        farm = [Request(account_id=f"f{number}", device="farm", ip="203.0.113.9") for number in range(230)]
        await insert(connection, *farm)
        row = dict(
            zip(FEATURE_NAMES, (await features(connection, [replace(farm[0], account_id="new")]))[0], strict=True)
        )
        await connection.execute("DELETE FROM risk_event; DELETE FROM risk_pair; DELETE FROM risk_link")
    assert row["device_accounts_1h"] == row["device_recycles_24h"] == row["address_accounts_1h"] == 200
    assert row["device_capped"] is True


async def test_crowd_hides_no_account_from_its_device(connection: asyncpg.Connection[Any]) -> None:
    """On a device of more accounts than are counted, its first account is still known there, and a stranger is new;
    what the stranger is told of the device's age is of the accounts that are counted."""
    crowd = [
        Request(account_id=f"f{number}", device="farm", event_time=NOW - timedelta(hours=300 - number))
        for number in range(250)
    ]
    async with connection.transaction():
        await insert(connection, *crowd)
        asked = [replace(crowd[0], account_id=name, event_time=NOW) for name in ("f0", "stranger")]
        known, stranger = (
            dict(zip(FEATURE_NAMES, row, strict=True)) for row in await features(connection, asked, leaves=False)
        )
        await connection.execute("DELETE FROM risk_event; DELETE FROM risk_pair; DELETE FROM risk_link")
    told = [(row["account_device_is_new"], row["device_age_seconds"]) for row in (known, stranger)]
    assert told == [(False, 300 * 3600), (True, 250 * 3600)]


async def test_training_rows_equal_serving_rows(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    """What the loader computes for a log is what serving computed when those events came in one after the other."""
    write_log(tmp_path / "log.csv", simulate(seed=8, accounts=120, days=40, abuse_share=0.4))
    log = read_log(tmp_path / "log.csv").with_columns(seq=pl.int_range(1, pl.len() + 1))
    asked = log.filter(pl.col("label").is_not_null())
    trained = await asyncpg.connect((await fresh_database())[0])
    served = await asyncpg.connect((await fresh_database())[0])
    try:
        await load(trained, log)
        expected = await feature_matrix(trained, asked)
        found = []
        to_come: list[tuple[datetime, str]] = []
        for event in log.iter_rows(named=True):
            request = Logged(event)
            while to_come and to_come[0][0] <= event["event_time"]:
                known_since, account_id = heapq.heappop(to_come)
                await confirm(served, account_id, known_since)
            if event["label"] is not None:
                found += await features(served, [request])
            await insert(served, request)
            if event["label"]:
                known_since = event["label_time"] or event["event_time"] + LABEL_DELAY
                heapq.heappush(to_come, (known_since, event["account_id"]))
    finally:
        await trained.close()
        await served.close()
    unknown = [[value is None for value in row] for row in found]
    assert len(found) > 50
    assert [[value != value for value in row] for row in expected.tolist()] == unknown
    known = [[0.0 if value is None else float(value) for value in row] for row in found]
    assert [[0.0 if value != value else value for value in row] for row in expected.tolist()] == known


class Logged(Request):
    """An event of a log, as the server would hash it."""

    def __init__(self, event: dict[str, Any]) -> None:
        object.__setattr__(self, "event", event)
        object.__setattr__(self, "outcome", event["outcome"])

    def columns(self) -> tuple[Any, ...]:
        event = self.__dict__["event"]
        traces = HASHER.traces(
            device_id=event["device_id"], ip=event["ip"], profile={field: event[field] for field in PROFILE_FIELDS}
        )
        signals = derived_signals(
            fingerprint=event,
            emulator=event["emulator"],
            ip=event["ip"],
            timezone=event["timezone"],
            language=event["language"],
        ) | {name: event[name] for name in SIGNALS if event[name] is not None}
        hashes = (traces.device_hash, traces.address_hash, traces.prefix_hash, traces.profile_hash)
        identity = (event["account_id"], event["event_kind"], event["card_id"])
        return (
            *identity,
            *hashes,
            serial_block(event["platform"], event["serial"]),
            event["amount_minor"],
            event["tier"],
            event["reason"],
            json.dumps(signals) if signals else None,
            event["event_time"],
        )
