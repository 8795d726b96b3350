"""Statements over one asyncpg pool. Knows how the database is reached and what its failures mean; not what is asked.

Every statement is one round trip and its own transaction. The pool connects as, or steps down to, the least-privilege
role `recycling_server`; statements are planned once for index access, since all of them touch few rows of large tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from server.engine.ports import StoreUnavailable
from server.store.rows import Row
from server.store.statements import statement

ROLE = "recycling_server"
STATEMENT_TIMEOUT_S = 10.0
ACQUIRE_TIMEOUT_S = 2.0
CHECK_TIMEOUT_S = 2.0

SESSION = {
    "role": ROLE,
    "application_name": "card-recycling",
    "timezone": "UTC",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "random_page_cost": "1.0",
    "jit": "off",
    "statement_timeout": "15s",
    "idle_in_transaction_session_timeout": "15s",
}

_CANNOT_REACH = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
)
"""It is down, going down, starting, full, only a standby, does not let us in, or has not been migrated."""


class StatementFailed(Exception):
    """The database refused a statement. Tells where, and no value of any row: what it says may be logged."""

    def __init__(self, error: asyncpg.PostgresError) -> None:
        place = error.constraint_name or error.table_name or "no constraint"
        super().__init__(f"{type(error).__name__} ({error.sqlstate}) at {place}")


class Database:
    """A pool, shared by the engine's batches and everyone else. Its methods run a statement of `sql/` by its name and
    raise StoreUnavailable when the database cannot be reached, StatementFailed when it refuses.
    """

    def __init__(self, pool: asyncpg.Pool, *, other_connections: int) -> None:
        self._pool = pool
        self._others = asyncio.Semaphore(other_connections)

    async def fetch(self, name: str, **row_sets: Sequence[Row]) -> list[asyncpg.Record]:
        """A batch's statement over sets of rows. Raises asyncpg.DeadlockDetectedError when it lost a race."""
        wanted = statement(name)
        return await self._run(wanted.text, *wanted.arguments(**row_sets))

    async def fetch_beside(self, name: str, **row_sets: Sequence[Row]) -> list[asyncpg.Record]:
        """As `fetch`, of someone who must not starve the batches of connections."""
        wanted = statement(name)
        return await self._run_beside(wanted.text, *wanted.arguments(**row_sets))

    async def query(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of a statement that neither loads nor records a batch."""
        return await self._run_beside(statement(name).text, *arguments)

    async def query_alone(self, what: str, name: str, *arguments: Any) -> list[asyncpg.Record]:
        """As `query`, but on all servers only one at a time of those that name the same `what`: each sees what the one
        before it did. Two round trips."""
        return await self._run_beside(statement(name).text, *arguments, alone=what)

    async def query_at_once(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        """As `query`, without waiting for those who share what the batches leave."""
        return await self._run(statement(name).text, *arguments)

    async def check(self) -> None:
        """Returns when the database answers, with our tables and role."""
        try:
            await asyncio.wait_for(self.query_at_once("wallet", ""), CHECK_TIMEOUT_S)
        except TimeoutError:
            raise StoreUnavailable("it takes too long") from None

    async def close(self) -> None:
        """Closes the pool, when its work is done."""
        try:
            await asyncio.wait_for(self._pool.close(), STATEMENT_TIMEOUT_S)
        except TimeoutError:
            self._pool.terminate()

    async def _run_beside(self, text: str, *arguments: Any, alone: str | None = None) -> list[asyncpg.Record]:
        """Readers and issuers share what the engine's batches leave: they cannot starve them of connections."""
        try:
            # Not wait_for: in Python 3.11 that may swallow a cancellation, and then a background task never ends.
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                await self._others.acquire()
        except TimeoutError:
            raise StoreUnavailable("all connections are busy") from None
        try:
            return await self._run(text, *arguments, alone=alone)
        finally:
            self._others.release()

    async def _run(self, text: str, *arguments: Any, alone: str | None = None) -> list[asyncpg.Record]:
        try:
            try:
                return await self._run_once(text, *arguments, alone=alone)
            except asyncpg.OutdatedSchemaCacheError:  # a migration has added a column
                return await self._run_once(text, *arguments, alone=alone)
        except asyncpg.DeadlockDetectedError:
            raise
        except _CANNOT_REACH as error:
            if isinstance(error, ValueError):  # an InterfaceError too: an argument that cannot be encoded
                raise
            raise StoreUnavailable(type(error).__name__) from error
        except asyncpg.PostgresError as error:
            raise StatementFailed(error) from None

    async def _run_once(self, text: str, *arguments: Any, alone: str | None) -> list[asyncpg.Record]:
        fetched: list[asyncpg.Record]
        async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            if alone is None:
                fetched = await connection.fetch(text, *arguments, timeout=STATEMENT_TIMEOUT_S)
                return fetched
            async with connection.transaction():
                # A statement of its own: the next one then sees what whoever held the lock has committed.
                await connection.execute(statement("lock").text, alone, timeout=STATEMENT_TIMEOUT_S)
                fetched = await connection.fetch(text, *arguments, timeout=STATEMENT_TIMEOUT_S)
                return fetched


async def open_database(url: str, *, connections: int, connections_for_batches: int) -> Database:
    """A new pool of at most `connections`, of which some are kept for the engine's batches.

    Connections are made when first needed, so the database may come up later. Raises ValueError for a URL that is none.
    """
    pool = await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=connections,
        server_settings=SESSION,
        statement_cache_size=100,
        max_cached_statement_lifetime=0,
        max_cacheable_statement_size=0,
        init=_refuse_power,
        reset=_keep_session,
        timeout=ACQUIRE_TIMEOUT_S,
    )
    return Database(pool, other_connections=connections - connections_for_batches)


async def _refuse_power(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """A role that could change append-only tables must not serve."""
    if too_open := [row["name"] for row in await connection.fetch(statement("privileges").text)]:
        raise StoreUnavailable(f"its role may change append-only tables: {', '.join(too_open)}")


async def _keep_session(connection: asyncpg.Connection) -> None:
    """Nothing to reset: no statement changes its session. Saves a round trip on every release."""
