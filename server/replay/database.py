"""Recorded decisions from a database, in one read-only snapshot of it. Must not know what a decision means."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from server.replay.case import Case
from server.store.statements import statement

CONNECT_TIMEOUT_S = 10.0
ROWS_AT_ONCE = 200
EVER = datetime(1970, 1, 1, tzinfo=UTC)


class RecordedDecisions:
    """The decisions on record at one moment. Build it with `recorded_decisions`."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection
        self._policies: dict[str, str | None] = {}

    async def count(self, since: datetime = EVER) -> int:
        """How many there are since then."""
        found: int = await self._connection.fetchval("SELECT count(*) FROM command WHERE create_time >= $1", since)
        return found

    async def cases(
        self, named: UUID | None = None, *, account_id: str | None = None, since: datetime = EVER
    ) -> AsyncIterator[Case]:
        """The decisions of that request, recycling or review, or all of them, in no order."""
        if named is not None and account_id is None:
            account_id = await self._connection.fetchval(statement("decision_account").text, named)
        cursor = self._connection.cursor(statement("decisions").text, named, account_id, since, prefetch=ROWS_AT_ONCE)
        async for row in cursor:
            yield Case.of_row(dict(row), await self._policy(row["policy_revision"] or ""))

    async def _policy(self, name: str) -> str | None:
        """The document of a revision like "iqiyi@1"; None where there is no such."""
        if name not in self._policies:
            platform, _, revision = name.rpartition("@")
            wanted = int(revision) if revision.isdecimal() else 0
            found = await self._connection.fetchrow(statement("policy").text, platform, wanted)
            self._policies[name] = None if found is None else found["document"]
        return self._policies[name]


@contextlib.asynccontextmanager
async def recorded_decisions(url: str) -> AsyncIterator[RecordedDecisions]:
    """The decisions of the database at `url`, the owner's or the server's, which may be in use. Raises OSError,
    asyncpg.PostgresError or ValueError when it cannot be read."""
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield RecordedDecisions(connection)
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)
