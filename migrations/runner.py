"""Applies the migrations to a database: plain SQL, forward only, each file once.

Knows the names, order and checksums of migrations/NNNN_*.sql, and that `always.pgsql` follows them in every run; must
not know what they do, except that the first one creates `backtest_clock`.
"""

import asyncio
import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import asyncpg

# Any number that no other advisory lock of this database uses.
ADVISORY_LOCK = 7_204_051_337
LOCK_POLL_S = 0.05
LOCK_TIMEOUT_S = 120.0


class MigrationError(Exception):
    """The migrations do not fit the database, or cannot be applied now; nothing of the failing one was changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    name: str
    sha256: str
    sql: str

    @classmethod
    def read(cls, path: Path) -> Self:
        content = path.read_bytes()
        return cls(name=path.stem, sha256=hashlib.sha256(content).hexdigest(), sql=content.decode())


async def migrate(
    url: str, *, backtest: bool = False, directory: Path = Path(__file__).parent, lock_timeout_s: float = LOCK_TIMEOUT_S
) -> list[str]:
    """Brings the database at `url` up to date and returns the names of the migrations applied now, in order.

    `url` is the owner's. Several runners may start at once: one works, the others wait up to `lock_timeout_s` and then
    find nothing to do.
    `backtest=True` marks a database without migrations yet as one whose clock may be shifted, for ever; on a database
    so marked it changes nothing.
    Raises `MigrationError` when an applied file was edited or a new one is numbered below an applied one.
    """
    migrations = read_migrations(directory)
    # A statement that waits long for a table lock would make every later query on that table wait behind it.
    connection = await asyncpg.connect(url, timeout=30, server_settings={"lock_timeout": "10s"})
    connection.add_log_listener(_show_notice)
    try:
        await _take_advisory_lock(connection, lock_timeout_s)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migration ("
            " name text PRIMARY KEY,"
            " sha256 text NOT NULL,"
            " applied_time timestamptz NOT NULL DEFAULT statement_timestamp())"
        )
        rows = await connection.fetch("SELECT name, sha256 FROM schema_migration")
        applied = {row["name"]: row["sha256"] for row in rows}
        if backtest and applied and not await connection.fetchval("SELECT EXISTS (SELECT FROM backtest_clock)"):
            raise MigrationError("only a new database can become one for back-tests; this one has migrations already")
        pending = pending_migrations(migrations, applied)
        for migration in pending:
            await _apply(connection, migration, marks_backtest=backtest and not applied and migration is pending[0])
        always = directory / "always.pgsql"
        if always.exists():
            await connection.execute(always.read_text())
    finally:
        # Ends the advisory lock too.
        await connection.close()
    return [migration.name for migration in pending]


def read_migrations(directory: Path) -> list[Migration]:
    """The migrations of a folder, in order."""
    paths = sorted(directory.glob("*.sql"))
    numbers = [path.name[:4] for path in paths]
    for path in paths:
        if not re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", path.name):
            raise MigrationError(f"{path.name} is not named like 0001_what_it_does.sql")
        if numbers.count(path.name[:4]) > 1:
            raise MigrationError(f"two migrations have the number {path.name[:4]}")
    if not paths:
        raise MigrationError(f"no migrations in {directory}")
    return [Migration.read(path) for path in paths]


def pending_migrations(migrations: Sequence[Migration], applied: dict[str, str]) -> list[Migration]:
    """Those not yet applied (`applied` has the checksums by name), provided that history is as the files tell it.

    An applied migration without a file is no error: older code may run against a newer, compatible database.
    """
    edited = [
        migration.name for migration in migrations if applied.get(migration.name, migration.sha256) != migration.sha256
    ]
    if edited:
        raise MigrationError(
            f"{', '.join(edited)}: edited after it was applied; restore it and put the change into a new migration"
        )
    pending = [migration for migration in migrations if migration.name not in applied]
    late = [migration.name for migration in pending if applied and migration.name < max(applied)]
    if late:
        raise MigrationError(f"{', '.join(late)}: numbered below {max(applied)}, which is applied already; renumber it")
    return pending


def _show_notice(_: object, message: asyncpg.PostgresLogMessage) -> None:
    """What a migration has to say; not the notices of statements that found nothing to do."""
    if message.severity_en == "WARNING":
        print(f"migrations: warning: {message}", file=sys.stderr)


async def _take_advisory_lock(connection: "asyncpg.Connection[asyncpg.Record]", timeout_s: float) -> None:
    # Polled: a runner inside the blocking form would be a transaction that CREATE INDEX CONCURRENTLY waits for.
    async def poll() -> None:
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK):  # noqa: ASYNC110
            await asyncio.sleep(LOCK_POLL_S)

    try:
        await asyncio.wait_for(poll(), timeout_s)
    except TimeoutError:
        raise MigrationError(f"another migration has been running for {timeout_s:g} s") from None


async def _apply(
    connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration, *, marks_backtest: bool
) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql)
            if marks_backtest:
                await connection.execute("INSERT INTO backtest_clock (singleton, shifted_time) VALUES (true, NULL)")
            await connection.execute(
                "INSERT INTO schema_migration (name, sha256) VALUES ($1, $2)", migration.name, migration.sha256
            )
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration.name}: {error}") from error
