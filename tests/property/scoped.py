"""The invariants of a few accounts: the checker's own queries, over no other account's rows.

Knows that in a statement a name that WITH gives hides the table of that name; must not know what the queries say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg

from migrations.invariants import Invariant, invariants

ABOUT_THE_CATALOG = {"unique_keys_stand", "records_are_append_only"}
"""They name tables, and no rows."""

SESSION = {
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "enable_memoize": "off",
    "enable_material": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "from_collapse_limit": "8",
}
"""The tables grow, and the plans are made while they are empty."""


_TOUCHED = """
touched AS MATERIALIZED (
  SELECT account_id FROM unnest($1::text[]) AS a (account_id)
  WHERE account_id = ANY ($2::text[])
     OR EXISTS (SELECT FROM public.command AS c WHERE c.account_id = a.account_id AND c.xmin::text::bigint >= $3)
)"""
_ROWS = """
{table} AS MATERIALIZED (
  SELECT * FROM public.{table} WHERE account_id = ANY (ARRAY(SELECT account_id FROM touched))
)"""


class ScopedInvariants:
    """A connection that checks. Build it with `open`."""

    def __init__(self, connection: asyncpg.Connection[Any], of_touched: Any, of_all: Any) -> None:
        self._connection = connection
        self._of_touched = of_touched
        self._of_all = of_all
        self._rules = invariants()
        self._checked_until = 0

    @classmethod
    async def open(cls, url: str) -> ScopedInvariants:
        """Over the database at `url`, its owner's."""
        connection = await asyncpg.connect(url, server_settings=SESSION)
        tables = await connection.fetch(
            "SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            " AND a.attname = 'account_id'"
        )
        hiding = [
            _TOUCHED,
            *(_ROWS.format(table=row["relname"]) for row in tables),
        ]
        # Each table is read once, whatever the number of rules. And each statement is planned once: planning takes far
        # longer than running it.
        rules = invariants()
        found = _found([rule for rule in rules if rule.name not in ABOUT_THE_CATALOG])
        seen = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
        of_touched = await connection.prepare(f"WITH {', '.join(hiding)} {seen} UNION ALL {found}")
        return cls(connection, of_touched, await connection.prepare(_found(rules)))

    async def broken(self, account_ids: Iterable[str], sure: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The rules that the accounts' rows break, with what in the database breaks them: of those of `account_ids` for
        which a command was recorded since the last check, and of those that are `sure` to have changed."""
        seen, *found = await self._of_touched.fetch([*account_ids], [*sure], self._checked_until)
        self._checked_until = int(seen[0])
        return await self._samples(found)

    async def broken_anywhere(self) -> dict[str, list[dict[str, Any]]]:
        """The rules that any rows break."""
        return await self._samples(await self._of_all.fetch())

    async def _samples(self, found: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
        names = {row[0] for row in found}
        return {
            rule.name: [dict(row) for row in await self._connection.fetch(rule.query)]
            for rule in self._rules
            if rule.name in names
        }

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()


def _found(rules: Iterable[Invariant]) -> str:
    every = (f"SELECT '{rule.name}' AS name WHERE EXISTS ({rule.query})" for rule in rules)
    return " UNION ALL ".join(every)
