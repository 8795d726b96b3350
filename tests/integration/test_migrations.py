"""The launcher of the embedded Postgres and the runner of the migrations, on real servers."""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

import migrations
from migrations.invariants import check_invariants
from migrations.postgres import EmbeddedPostgres, EmbeddedPostgresError
from migrations.runner import MigrationError, migrate
from tests.conftest import FreshDatabase

PROJECT_MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
FIRST = "CREATE TABLE backtest_clock (singleton boolean PRIMARY KEY, shifted_time timestamptz);"
SECOND = "CREATE TABLE note (text text NOT NULL);\nINSERT INTO note VALUES ('second');"

LAUNCHER = """
import sys, time
from pathlib import Path
from migrations.postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as postgres:
    print(postgres.superuser_url, flush=True)
    time.sleep(600)
"""


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        connection.terminate()


async def fetch_value(url: str, query: str) -> object:
    async with connected(url) as connection:
        return await connection.fetchval(query)


async def execute(url: str, statements: str) -> None:
    async with connected(url) as connection:
        await connection.execute(statements)


def postmaster_id(directory: Path) -> int:
    return int((directory / "data" / "postmaster.pid").read_text().splitlines()[0])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


@pytest.fixture
def directory(open_folder: Path, request: pytest.FixtureRequest) -> Path:
    """A folder of its own for a test's server."""
    return open_folder / str(request.node.name)


@pytest.fixture
def sql_folder(tmp_path: Path) -> Path:
    """A folder with two migrations that are a test's to change."""
    (tmp_path / "0001_first.sql").write_text(FIRST)
    (tmp_path / "0002_second.sql").write_text(SECOND)
    return tmp_path


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> str:
    """The owner's URL of a new database without migrations."""
    name = f"empty_{next(EMPTY_NUMBERS)}"
    postgres.create_database(name)
    return postgres.owner_url(name)


EMPTY_NUMBERS = itertools.count(1)


async def test_data_survives_a_killed_postmaster(directory: Path) -> None:
    """A server killed without warning starts again on the same folder with every committed row."""
    with EmbeddedPostgres(directory) as postgres:
        postgres.create_database("kept")
        await execute(postgres.owner_url("kept"), "CREATE TABLE t AS SELECT 42 AS x")
        os.kill(postmaster_id(directory), signal.SIGKILL)
    with EmbeddedPostgres(directory) as postgres:
        assert await fetch_value(postgres.owner_url("kept"), "SELECT x FROM t") == 42


async def test_the_server_ends_with_its_killed_launcher(directory: Path) -> None:
    """After kill -9 of the launching process the folder can be used again at once, busy backends or not."""
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(directory)], stdout=subprocess.PIPE, text=True)
    with launcher:
        assert launcher.stdout is not None
        url = launcher.stdout.readline().strip()
        async with connected(url) as connection:
            busy = asyncio.ensure_future(connection.execute("SELECT pg_sleep(300)"))
            await asyncio.sleep(0)
            launcher.kill()
            with EmbeddedPostgres(directory) as postgres:
                assert await fetch_value(postgres.superuser_url, "SELECT 1") == 1
            with pytest.raises((asyncpg.PostgresError, OSError)):
                await busy


async def test_everything_killed_at_once(directory: Path) -> None:
    """Launcher and postmaster killed together leave a stale pid file, socket and backends; the next start copes."""
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(directory)], stdout=subprocess.PIPE, text=True)
    with launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline()
        postmaster = postmaster_id(directory)
        os.kill(launcher.pid, signal.SIGSTOP)
        os.kill(postmaster, signal.SIGKILL)
        launcher.kill()
    with EmbeddedPostgres(directory) as postgres:
        assert await fetch_value(postgres.superuser_url, "SELECT 1") == 1


async def test_a_pid_file_that_names_a_stranger(directory: Path) -> None:
    """A stale pid file whose number another program has by now does not keep the server from starting."""
    with EmbeddedPostgres(directory):
        pid_file = (directory / "data" / "postmaster.pid").read_text().splitlines()
    owner = (directory / "data").stat()
    # On a sleeping program of the same account: of another one's, Postgres would know that it is no server of its own.
    as_account = [f"--reuid={owner.st_uid}", "--clear-groups", f"--regid={owner.st_gid}"] if os.geteuid() == 0 else []
    with subprocess.Popen(["setpriv", *as_account, "sleep", "600"]) as stranger:
        stale = directory / "data" / "postmaster.pid"
        stale.write_text("\n".join([str(stranger.pid), *pid_file[1:]]) + "\n")
        os.chown(stale, owner.st_uid, owner.st_gid)
        with EmbeddedPostgres(directory) as postgres:
            assert await fetch_value(postgres.superuser_url, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


async def test_two_servers_side_by_side(directory: Path) -> None:
    """Two folders are two servers, and neither's password opens the other."""
    with EmbeddedPostgres(directory / "a") as first, EmbeddedPostgres(directory / "b", durable=False) as second:
        assert await fetch_value(first.superuser_url, "SHOW fsync") == "on"
        assert await fetch_value(second.superuser_url, "SHOW fsync") == "off"
        mixed = first.superuser_url.split("?")[0] + "?" + second.superuser_url.split("?")[1]
        with pytest.raises(asyncpg.InvalidPasswordError):
            await fetch_value(mixed, "SELECT 1")


def test_a_second_start_on_a_folder_is_refused(directory: Path) -> None:
    """A folder in use is left alone, with a message that says so."""
    with EmbeddedPostgres(directory), pytest.raises(EmbeddedPostgresError, match="already running"):
        EmbeddedPostgres(directory).__enter__()


def test_a_scratch_server_leaves_no_data_and_takes_none(directory: Path) -> None:
    """A scratch server deletes its own data at its end, and refuses a folder with durable data."""
    with EmbeddedPostgres(directory / "scratch", durable=False):
        assert (directory / "scratch" / "data").exists()
    assert not (directory / "scratch" / "data").exists()
    with EmbeddedPostgres(directory / "durable"):
        pass
    with pytest.raises(EmbeddedPostgresError, match="durable"):
        EmbeddedPostgres(directory / "durable", durable=False).__enter__()


async def test_a_folder_closed_to_the_server_account(directory: Path) -> None:
    """A folder below one of mode 700 works too, keeps its data, and starts anew when it was removed in between."""
    closed = directory / "closed"
    closed.mkdir(parents=True, mode=0o700)
    for durable_run in (1, 2):
        with EmbeddedPostgres(closed / "p") as postgres:
            await execute(postgres.superuser_url, f"CREATE TABLE run_{durable_run} ()")
            assert (
                await fetch_value(postgres.superuser_url, "SELECT count(*) FROM pg_tables WHERE tablename ~ '^run_'")
                == durable_run
            )
    for leftover in (closed / "p").iterdir():
        leftover.rename(directory / leftover.name)
    with EmbeddedPostgres(closed / "p", durable=False) as postgres:
        assert (
            await fetch_value(postgres.superuser_url, "SELECT count(*) FROM pg_tables WHERE tablename ~ '^run_'") == 0
        )


async def test_roles_and_secrets(postgres: EmbeddedPostgres, directory: Path) -> None:
    """The server's login acts as the least-privileged role, and nobody but the caller can read the passwords."""
    postgres.create_database("roles")
    server = postgres.server_url("roles")
    assert await fetch_value(server, "SELECT current_user") == "recycling_server"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(server, "CREATE TABLE t ()")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(postgres.owner_url("roles"), "CREATE ROLE another")
    with EmbeddedPostgres(directory):
        assert stat.S_IMODE((directory / "credentials.json").stat().st_mode) == 0o600
        assert "trust" not in (directory / "data" / "pg_hba.conf").read_text()


async def test_migrating_twice(empty_database: str, sql_folder: Path) -> None:
    """The second run finds nothing to do, and a file added later is applied alone."""
    assert await migrate(empty_database, directory=sql_folder) == ["0001_first", "0002_second"]
    assert await migrate(empty_database, directory=sql_folder) == []
    (sql_folder / "0003_third.sql").write_text("DROP TABLE note;")
    assert await migrate(empty_database, directory=sql_folder) == ["0003_third"]


async def test_an_edited_migration_is_refused(empty_database: str, sql_folder: Path) -> None:
    """A file that changed after it was applied stops the run and is named."""
    await migrate(empty_database, directory=sql_folder)
    (sql_folder / "0002_second.sql").write_text(SECOND + "\n")
    (sql_folder / "0003_third.sql").write_text("DROP TABLE note;")
    with pytest.raises(MigrationError, match="0002_second: edited"):
        await migrate(empty_database, directory=sql_folder)
    assert await fetch_value(empty_database, "SELECT count(*) FROM note") == 1


async def test_a_late_number_is_refused(empty_database: str, sql_folder: Path) -> None:
    """A new file numbered below an applied one is not slipped in."""
    (sql_folder / "0002_second.sql").rename(sql_folder / "0004_second.sql")
    await migrate(empty_database, directory=sql_folder)
    (sql_folder / "0003_late.sql").write_text("DROP TABLE note;")
    with pytest.raises(MigrationError, match="0003_late"):
        await migrate(empty_database, directory=sql_folder)


async def test_a_failing_migration_changes_nothing(empty_database: str, sql_folder: Path) -> None:
    """Each file is one transaction: what stands before the error is undone, earlier files stay."""
    (sql_folder / "0003_broken.sql").write_text("DROP TABLE note; SELECT no_such_function();")
    with pytest.raises(MigrationError, match="0003_broken: function no_such_function"):
        await migrate(empty_database, directory=sql_folder)
    assert await fetch_value(empty_database, "SELECT text FROM note") == "second"
    (sql_folder / "0003_broken.sql").write_text("DROP TABLE note;")
    assert await migrate(empty_database, directory=sql_folder) == ["0003_broken"]


async def test_concurrent_runners(empty_database: str, sql_folder: Path) -> None:
    """Of several runners at once exactly one applies each file, and all end well."""
    applied = await asyncio.gather(*(migrate(empty_database, directory=sql_folder) for _ in range(5)))
    assert sorted(itertools.chain(*applied)) == ["0001_first", "0002_second"]


async def test_a_runner_does_not_wait_for_ever(empty_database: str, sql_folder: Path) -> None:
    """While another one holds the lock a runner gives up at its time limit."""
    async with connected(empty_database) as other:
        await other.execute("SELECT pg_advisory_lock(7204051337)")
        with pytest.raises(MigrationError, match="another migration"):
            await migrate(empty_database, directory=sql_folder, lock_timeout_s=0.2)


async def test_backtest_is_for_new_databases(empty_database: str, postgres: EmbeddedPostgres, sql_folder: Path) -> None:
    """The mark of a back-test database is set with its first migration or never."""
    await migrate(empty_database, directory=sql_folder)
    with pytest.raises(MigrationError, match="new database"):
        await migrate(empty_database, directory=sql_folder, backtest=True)
    assert await fetch_value(empty_database, "SELECT count(*) FROM backtest_clock") == 0
    postgres.create_database("marked")
    await migrate(postgres.owner_url("marked"), directory=sql_folder, backtest=True)
    assert await fetch_value(postgres.owner_url("marked"), "SELECT count(*) FROM backtest_clock") == 1


async def test_the_projects_own_migrations(fresh_database: FreshDatabase) -> None:
    """The migrations of this project apply to a new database, which then counts as one for back-tests."""
    owner, server = await fresh_database()
    assert await fetch_value(owner, "SELECT singleton FROM backtest_clock") is True
    assert await fetch_value(server, "SELECT current_user") == "recycling_server"


async def test_late_partition_warns(fresh_database: FreshDatabase, capsys: pytest.CaptureFixture[str]) -> None:
    """Events that came before their partition keep it from being made, and each run of the migrations says so."""
    owner_url, _ = await fresh_database()
    connection = await asyncpg.connect(owner_url)
    await connection.execute(
        "DO $$ DECLARE name text; BEGIN FOR name IN SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'risk_event'::regclass AND inhrelid <> 'risk_event_default'::regclass"
        " LOOP EXECUTE 'DROP TABLE ' || name; END LOOP; END $$"
    )
    await connection.execute("INSERT INTO risk_event (account_id, event_time, kind) VALUES ('a', now(), 'ISSUE')")
    await connection.close()
    assert await migrate(owner_url) == []
    assert "risk_event_default holds events" in capsys.readouterr().err


async def test_settlement_held_before_there_were_reviews_gets_one(empty_database: str, tmp_path: Path) -> None:
    """What was held back until a review that nobody could give is there to be reviewed after the migration."""
    for file in sorted(PROJECT_MIGRATIONS.glob("000[12]_*.sql")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    await migrate(empty_database, directory=tmp_path)
    await execute(
        empty_database,
        """INSERT INTO account (account_id, version, create_time) VALUES ('a', 1, now());
           INSERT INTO card (account_id, card_id, platform, tier, state, face_value_minor, paid_minor, currency,
                             duration_days, issue_time, generation, renewals_used, live_recycling_id, version)
           SELECT 'a', id, 'tencent', 'BASIC', 'RECYCLED', 1, 1, 'CNY', 1, now(), 1, 0, id, 2
           FROM (SELECT md5(n::text)::uuid AS id FROM generate_series(1, 2) AS n) AS c;
           INSERT INTO recycling (account_id, recycling_id, request_id, card_id, generation, reason, priority, state,
                                  disposition, fee_minor, prior_state, unused_us, unit, amount, compensation_state,
                                  settlement_held, platform, policy_revision, decision, create_time, version)
           SELECT 'a', card_id, card_id, card_id, 1, 'SYSTEM_ANOMALY', 'ANOMALY', 'APPROVED', 'RESET_VALIDITY', 0,
                  'ISSUED', 0, 'GROWTH_POINT', 10, 'PENDING', card_id = md5('1')::uuid, 'tencent', 1,
                  '{"risk_score": 0.7, "risk_band": "MEDIUM", "reason_codes": ["RISK_MEDIUM"],
                    "policy_revision": "tencent@1", "model_version": "m"}', now(), 1
           FROM card""",
    )
    await migrate(empty_database)
    async with connected(empty_database) as connection:
        (review,) = await connection.fetch("SELECT * FROM review JOIN recycling USING (account_id, recycling_id)")
    assert (review["kind"], review["settlement_held"], review["risk_score"]) == ("SETTLEMENT", True, 0.7)


async def test_events_of_before_are_projected(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """A database that has risk events already gets the pairs and links that later migrations brought."""
    folder = Path(migrations.__file__).parent
    for name in ("0001_core.sql", "0002_risk.sql"):
        shutil.copy(folder / name, tmp_path)
    database = f"upgraded_{os.getpid()}"
    postgres.create_database(database)
    url = postgres.owner_url(database)
    await migrate(url, directory=tmp_path)
    await execute(
        url,
        "INSERT INTO risk_event (account_id, event_time, kind, card_id, device_hash, address_hash, profile_hash)"
        " SELECT 'a' || number % 2, timestamptz '2026-01-01' + number * interval '1 hour', 'RECYCLE', 'c', h, h, h"
        " FROM generate_series(1, 4) AS number, (SELECT decode(repeat('01', 16), 'hex') AS h) AS hash",
    )
    await migrate(url)
    assert await fetch_value(url, "SELECT count(*) FROM risk_link") == 3
    assert await fetch_value(url, "SELECT count(*) FROM risk_pair WHERE kind = 6") == 2
    assert [result.name for result in await check_invariants(url) if not result.holds] == []


async def test_index_made_beforehand_is_taken(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """The indexes that docs/operations.md has made without blocking writers are those that a migration would make."""
    for path in PROJECT_MIGRATIONS.glob("000[1-6]_*.sql"):
        shutil.copy(path, tmp_path)
    database = f"prepared_{os.getpid()}"
    postgres.create_database(database)
    url = postgres.owner_url(database)
    await migrate(url, directory=tmp_path)
    page = (PROJECT_MIGRATIONS.parent / "docs" / "operations.md").read_text()
    prepared = re.findall(r"^CREATE INDEX CONCURRENTLY[^;]*", page, re.MULTILINE)
    for statement in prepared:
        await execute(url, statement.replace("risk_event_2026q4", "risk_event_default"))
    made = (
        "SELECT array_agg(indexrelid::bigint ORDER BY indexrelid) FROM pg_index"
        " WHERE indrelid IN ('risk_event_default'::regclass, 'risk_pair'::regclass)"
    )
    before = await fetch_value(url, made)
    await migrate(url)
    after = await fetch_value(url, made)
    assert isinstance(before, list) and isinstance(after, list)
    assert (len(prepared), [index for index in after if index not in before]) == (2, [])
