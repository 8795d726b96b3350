"""The store: its statements' plans, what its role may do, what it keeps, and what it does without a database."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from card_recycling.v1 import recycling_service_pb2, types_pb2

from migrations.postgres import EmbeddedPostgres
from migrations.runner import migrate
from server.api.requests import CommandParser
from server.domain.errors import Reason
from server.engine.ports import StoreUnavailable
from server.store import store as store_module
from server.store.database import SESSION, StatementFailed
from server.store.statements import statement
from tests.conftest import FreshDatabase
from tests.integration.conftest import MakeWorld
from tests.integration.world import (
    HASHER,
    PATIENCE_S,
    START,
    World,
    again,
    answers,
    item,
    parsed,
    quote,
    reactivate,
    reason,
    recycle,
)

STATEMENTS = sorted(path.stem for path in (Path(store_module.__file__).parent / "sql").glob("*.sql"))
APPEND_ONLY = (
    "card_event", "card_serial", "command", "coupon", "list_entry", "outcome", "policy_revision", "posting",
    "risk_event", "risk_event_default", "risk_pair",
)  # fmt: skip
NEVER_SCANNED = (
    "account", "card", "card_event", "card_serial", "command", "coupon", "list_entry", "outcome", "posting",
    "goodwill", "recycling", "redemption", "review", "risk_pair", "wallet_balance",
)  # fmt: skip


@pytest.fixture(scope="module")
async def as_server(shared_world: World) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection as the server has them, to the shared world's database."""
    connection = await asyncpg.connect(shared_world.server_url, server_settings=SESSION)
    yield connection
    await connection.close()


# Statements


@pytest.mark.parametrize("name", STATEMENTS)
async def test_statement_prepares(as_server: asyncpg.Connection[Any], name: str) -> None:
    """The server's role can prepare each statement."""
    await as_server.prepare(statement(name).text)


# Who replays decisions takes his time, and may want all of them.
@pytest.mark.parametrize("name", sorted({*STATEMENTS} - {"decisions", "move_clock", "policy", "privileges"}))
async def test_statement_is_planned_by_index(as_server: asyncpg.Connection[Any], name: str) -> None:
    """Each statement's one plan reaches all large tables by index, whatever their size when it was made."""
    plan = await generic_plan(as_server, name)
    scanned = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] in ("Seq Scan", "Tid Scan")}
    assert not scanned & {*NEVER_SCANNED} and not any(name.startswith("risk_event") for name in scanned)


async def test_evidence_finds_who_is_alike_by_key(as_server: asyncpg.Connection[Any]) -> None:
    """Looking for others with the same device, address or profile reads no index of pairs but the one by key."""
    plan = await generic_plan(as_server, "review_evidence")
    reads = [node for node in nodes(plan) if node.get("Relation Name") == "risk_pair"]
    assert [(node["Index Name"], "(kind + 0)" in node["Index Cond"]) for node in reads] == [("risk_pair_key", True)]


async def generic_plan(connection: asyncpg.Connection[Any], name: str) -> dict[str, Any]:
    """The plan of a statement for whatever parameters. Prepared in SQL: `EXPLAIN (GENERIC_PLAN)` plans for those that
    the driver must send with it, and null folds half of a plan away."""
    count = len((await connection.prepare(statement(name).text)).get_parameters())
    await connection.execute(f"PREPARE explained AS {statement(name).text}")
    try:
        parameters = f"({', '.join(['NULL'] * count)})" if count else ""
        (plan,) = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE explained{parameters}"))
    finally:
        await connection.execute("DEALLOCATE explained")
    found: dict[str, Any] = plan["Plan"]
    return found


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def test_whole_life_scans_no_table(new_world: MakeWorld) -> None:
    """From issue to reactivation and every list, on an almost empty database, no large table is read but by index."""
    world = await new_world()
    before = await sequential_scans(world)
    card = await world.issue()
    await world.answer(quote(card))
    recycling = await world.settled(card)
    await world.answer(reactivate(recycling))
    newest = (START + timedelta(days=9), uuid.UUID(int=2**128 - 1))
    assert await world.store.cards(card.account_id, newest, 10)
    assert await world.store.recyclings(card.account_id, newest, 10)
    assert await world.store.card(card.account_id, uuid.UUID(card.card_id))
    assert await world.store.recycling(card.account_id, uuid.UUID(recycling.recycling_id))
    # A connection tells what it did before it ends.
    await world.store.close()
    async with asyncio.timeout(PATIENCE_S):
        while await world.owner.fetchval(  # noqa: ASYNC110 - another process tells no event
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'recycling_login'"
        ):
            await asyncio.sleep(0)
    assert {"recycling_newest", "card_pkey", "wallet_balance_pkey"} <= await indexes_used(world)
    assert await sequential_scans(world) == before


async def sequential_scans(world: World) -> dict[str, int]:
    """How often each large table was read as a whole."""
    rows = await world.owner.fetch("SELECT relname, seq_scan FROM pg_stat_user_tables")
    return {
        row["relname"]: row["seq_scan"]
        for row in rows
        if row["relname"] in NEVER_SCANNED or row["relname"].startswith("risk_event")
    }


async def indexes_used(world: World) -> set[str]:
    """The indexes that were used."""
    rows = await world.owner.fetch("SELECT indexrelname FROM pg_stat_user_indexes WHERE idx_scan > 0")
    return {row["indexrelname"] for row in rows}


# Privileges


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("deed", ["UPDATE {table} SET {column} = {column}", "DELETE FROM {table}", "TRUNCATE {table}"])
async def test_append_only_tables_stay(as_server: asyncpg.Connection[Any], table: str, deed: str) -> None:
    """The server's role can neither change nor remove a row of an append-only table."""
    column = {"policy_revision": "platform", "card_serial": "platform", "list_entry": "reason"}.get(table, "account_id")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_server.execute(deed.format(table=table, column=column))


@pytest.mark.parametrize("table", ["account", "card", "recycling", "review", "wallet_balance", "backtest_clock"])
async def test_rows_are_never_deleted(as_server: asyncpg.Connection[Any], table: str) -> None:
    """The server's role cannot delete what it may change."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_server.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize("column", ["payout_hash", "request_id", "card_id", "reason", "platform", "policy_revision"])
async def test_what_was_asked_of_a_recycle_stays(as_server: asyncpg.Connection[Any], column: str) -> None:
    """The server's role can change what becomes of a recycling, but not what it was recorded for."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_server.execute(f"UPDATE recycling SET {column} = {column}")


@pytest.mark.parametrize("role", ["recycling_owner", "recycling_superuser"])
async def test_server_cannot_become_another(as_server: asyncpg.Connection[Any], role: str) -> None:
    """The server's login cannot take a stronger role, even after dropping its own."""
    await as_server.execute("RESET ROLE")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_server.execute(f"SET ROLE {role}")
    finally:
        await as_server.execute("SET ROLE recycling_server")


async def test_real_clock_cannot_be_moved(fresh_database: FreshDatabase) -> None:
    """Where the clock is real the server's role can neither move it nor make it movable."""
    _, server_url = await fresh_database(backtest=False)
    connection = await asyncpg.connect(server_url, server_settings=SESSION)
    try:
        assert await connection.fetch(statement("move_clock").text, START) == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("INSERT INTO backtest_clock (shifted_time) VALUES (now())")
        off = await connection.fetchval("SELECT abs(extract(epoch FROM service_clock() - clock_timestamp()))")
        assert off < 1
    finally:
        await connection.close()


async def test_clock_never_goes_back(world: World) -> None:
    """A back-test's clock stays where it is when it is told an earlier time."""
    now = await world.move(timedelta(seconds=1))
    await world.store.move_clock(START)
    assert await world.owner.fetchval("SELECT service_clock()") == now


# Single use, whatever the code believes


async def test_second_live_recycling_is_impossible(world: World, as_server: asyncpg.Connection[Any]) -> None:
    """The database itself refuses a second live recycling of a card's generation."""
    recycling = await world.recycled(await world.issue())
    with pytest.raises(asyncpg.UniqueViolationError, match="recycling_live"):
        await copied(as_server, "recycling", recycling.account_id, recycling_id=uuid.uuid4())


@pytest.mark.parametrize("change", [{"request_id": uuid.uuid4()}, {"request_id": uuid.uuid4(), "amount": 1}])
async def test_second_settlement_is_impossible(
    world: World, as_server: asyncpg.Connection[Any], change: dict[str, Any]
) -> None:
    """The database itself refuses a second settlement of a recycling, under another request and amount too."""
    recycling = await world.settled(await world.issue())
    with pytest.raises(asyncpg.UniqueViolationError, match="posting_once"):
        await copied(as_server, "posting", recycling.account_id, **change)


async def test_wallet_below_zero_is_impossible(world: World, as_server: asyncpg.Connection[Any]) -> None:
    """The database itself refuses a negative balance."""
    recycling = await world.settled(await world.issue())
    with pytest.raises(asyncpg.CheckViolationError):
        await as_server.execute(
            "UPDATE wallet_balance SET amount = amount - 2700 WHERE account_id = $1", recycling.account_id
        )


async def copied(connection: asyncpg.Connection[Any], table: str, account_id: str, **changed: Any) -> None:
    """Adds a copy of an account's rows with some columns changed."""
    rows = await connection.fetch(f"SELECT * FROM {table} WHERE account_id = $1", account_id)
    for row in rows:
        values = {**row, **changed}
        places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
        await connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", *values.values())


# Personal data


async def test_no_raw_device_or_address_is_kept(new_world: MakeWorld) -> None:
    """After a run no column of any table holds a device id, an address or a user agent, in text, bytes or JSON."""
    world = await new_world()
    card = await world.issue()
    device = types_pb2.Device(
        device_id="raw-device-4711", ip="203.0.113.99", model="Pixel", os="android", user_agent="raw-agent/1.0"
    )
    request = recycling_service_pb2.RecycleRequest(
        request_id=str(uuid.uuid4()),
        account_id=card.account_id,
        card_id=card.card_id,
        reason=types_pb2.RECYCLE_REASON_VOLUNTARY,
        device=device,
    )
    command = CommandParser(HASHER).recycle(request)
    await world.answer(again(command, dry_run=True))
    recycling = parsed(await world.answer(command))
    await world.answer(reactivate(recycling, circumstances=command.circumstances))
    texts = ["raw-device-4711", "203.0.113.99", "raw-agent/1.0"]
    secrets = [*texts, *(text.encode().hex() for text in texts), ipaddress.ip_address("203.0.113.99").packed.hex()]
    tables = await world.owner.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    assert len(tables) > 12
    found = [
        (table["relname"], secret)
        for table in tables
        for secret in secrets
        if await world.owner.fetchval(
            f"SELECT EXISTS (SELECT FROM {table['relname']} AS t WHERE strpos(t::text, $1) > 0)", secret
        )
    ]
    assert found == []
    assert await world.owner.fetchval("SELECT count(*) FROM risk_event WHERE device_hash IS NOT NULL") == 3


# Failures


async def test_value_that_cannot_be_sent_is_no_outage(world: World) -> None:
    """An item with a number that the database has no room for is INTERNAL alone, and its neighbour is issued."""
    outcomes = await world.issuer.issue(
        [item("iqiyi", f"{uuid.uuid4()}", duration_days=2**40), item("iqiyi", f"{uuid.uuid4()}")]
    )
    assert [reason(outcome) for outcome in outcomes] == [Reason.INTERNAL, None]


async def test_store_survives_its_database(open_folder: Path) -> None:
    """While Postgres is down every call is STORE_UNAVAILABLE; once it is back the same store works, nothing lost."""
    folder = open_folder / f"restarted-{uuid.uuid4().hex[:8]}"
    with EmbeddedPostgres(folder) as postgres:
        postgres.create_database("restarted")
        owner_url, server_url = postgres.owner_url("restarted"), postgres.server_url("restarted")
        await migrate(owner_url, backtest=True)
        world = await World.create((owner_url, server_url))
        card, other = await world.issue(), await world.issue()
        command = recycle(card)
        answer = await world.answer(command)
        await world.owner.close()
    assert reason(await world.run(recycle(other))) is Reason.STORE_UNAVAILABLE
    (issued,) = await world.issuer.issue([item("iqiyi", "nobody")])
    assert reason(issued) is Reason.STORE_UNAVAILABLE
    assert not await answers(world.store)
    with pytest.raises(StoreUnavailable):
        await world.store.wallet(card.account_id)
    with EmbeddedPostgres(folder):
        assert await answers(world.store)
        assert await world.run(command) == answer
        assert parsed(await world.run(recycle(other))).card_id == other.card_id
        world.owner = await asyncpg.connect(owner_url)
        assert not await world.broken()
        await world.close()


_EVERYTHING = ((datetime(9000, 1, 1, tzinfo=UTC), uuid.UUID(int=2**128 - 1)), 10)
"""The first page of anything."""


async def test_store_without_schema_is_not_ready(postgres: EmbeddedPostgres) -> None:
    """A database that was not migrated yet is not ready, and is once it was, under the same store."""
    name = f"bare_{uuid.uuid4().hex[:8]}"
    postgres.create_database(name)
    store = await store_module.connect(postgres.server_url(name), connections=3, connections_for_batches=2)
    try:
        assert not await answers(store)
        await migrate(postgres.owner_url(name))
        assert await answers(store)
    finally:
        await store.close()


async def test_store_of_no_database_is_not_ready(postgres: EmbeddedPostgres) -> None:
    """A database that does not exist is not ready."""
    store = await store_module.connect(
        postgres.server_url(f"no_{uuid.uuid4().hex[:8]}"), connections=3, connections_for_batches=2
    )
    try:
        assert not await answers(store)
    finally:
        await store.close()


async def test_role_with_too_much_power_is_not_used(fresh_database: FreshDatabase) -> None:
    """A role that could change what was recorded for ever is not served with, and the cause says which table it is."""
    owner_url, server_url = await fresh_database()
    owner = await asyncpg.connect(owner_url)
    await owner.execute("GRANT UPDATE (amount) ON posting TO recycling_server")
    store = await store_module.connect(server_url, connections=3, connections_for_batches=2)
    try:
        with pytest.raises(StoreUnavailable, match="posting"):
            await store.database.check()
        await owner.execute("REVOKE UPDATE (amount) ON posting FROM recycling_server")
        assert await answers(store)
    finally:
        await store.close()
        await owner.close()


async def test_added_columns_are_no_matter(new_world: MakeWorld) -> None:
    """A newer migration that adds columns leaves running servers at work."""
    world = await new_world()
    card = await world.issue()
    for table in ("card", "recycling", "account", "command"):
        await world.owner.execute(f"ALTER TABLE {table} ADD COLUMN later text")
    recycling = await world.settled(card)
    assert (await world.store.recyclings(card.account_id, *_EVERYTHING))[0].recycling_id == uuid.UUID(
        recycling.recycling_id
    )
    assert len(await world.store.cards(card.account_id, *_EVERYTHING)) == 1


async def test_failed_statement_tells_no_values(new_world: MakeWorld) -> None:
    """What a refused statement says, which is logged, names the constraint and no value of the row."""
    world = await new_world()
    card = await world.issue()
    command = recycle(card)
    await world.answer(command)
    with pytest.raises(StatementFailed) as failed:
        await world.store.database._run(
            "INSERT INTO command SELECT account_id, request_id, method, input_hash, response, receipt, create_time"
            " FROM command WHERE account_id = $1",
            card.account_id,
        )
    assert "command_pkey" in str(failed.value)
    assert card.account_id not in repr(failed.value) and failed.value.__cause__ is None


async def test_sold_card_cannot_be_dearer_later(new_world: MakeWorld) -> None:
    """What a card that nothing has touched was issued as stands in its receipt, and a change of it is noticed."""
    world = await new_world()
    (card,) = await world.issue_many(1)
    await world.owner.execute("UPDATE card SET duration_days = duration_days + 100")
    assert set(await world.broken()) == {"cards_match_receipts"}
    await world.owner.execute("UPDATE card SET duration_days = duration_days - 100")
    assert card.duration_days == 30
