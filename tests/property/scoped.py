"""The invariants of a few accounts: the checker's own queries, over temporary views that show no other account's rows.

Knows that Postgres looks into the session's own schema before any other; must not know what the queries say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import asyncpg

from migrations.invariants import invariants

ABOUT_THE_CATALOG = {"unique_keys_stand", "records_are_append_only"}
"""Of no account: they name tables, which the views would hide."""

SESSION = {
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "from_collapse_limit": "8",
}
"""As the server's own: the tables grow, and the plans are made while they are empty."""

_SHADOW = """
CREATE TEMPORARY VIEW {table} AS
SELECT * FROM public.{table} WHERE account_id = ANY (string_to_array(current_setting('lives.accounts'), ','))
"""


class ScopedInvariants:
    """A connection that sees a few accounts. Build it with `open`."""

    def __init__(self, connection: asyncpg.Connection[Any], statement: Any) -> None:
        self._connection = connection
        self._statement = statement

    @classmethod
    async def open(cls, url: str) -> ScopedInvariants:
        """Over the database at `url`, its owner's."""
        connection = await asyncpg.connect(url, server_settings=SESSION)
        tables = await connection.fetch(
            "SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            " AND a.attname = 'account_id'"
        )
        for row in tables:
            await connection.execute(_SHADOW.format(table=row["relname"]))
        counts = [
            f"SELECT '{rule.name}' AS name, count(*) AS violations FROM ({rule.query}) AS violation"
            for rule in invariants()
            if rule.name not in ABOUT_THE_CATALOG
        ]
        # One statement, planned once: planning them costs far more than running them over a few accounts.
        found = f"SELECT name FROM ({' UNION ALL '.join(counts)}) AS found WHERE violations > 0"
        return cls(connection, await connection.prepare(found))

    async def broken(self, account_ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The rules that the accounts' rows break, with what breaks them."""
        await self._connection.execute("SELECT set_config('lives.accounts', $1, false)", ",".join(account_ids))
        names = {row["name"] for row in await self._statement.fetch()}
        return {
            rule.name: [dict(row) for row in await self._connection.fetch(rule.query)]
            for rule in invariants()
            if rule.name in names
        }

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()
