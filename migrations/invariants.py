"""Checks what must always hold in the database, on a live one too.

Knows how to read and run the queries of invariants.pgsql, each of which returns the rows that break one rule; must not
know what the rules are, nor repair anything. (That file is not named *.sql, since those of this folder are migrations.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

QUERIES = Path(__file__).with_suffix(".pgsql")
SAMPLES_MAX = 5
CONNECT_TIMEOUT_S = 10.0

_BLOCK = re.compile(
    r"^-- name: (?P<name>\w+) \((?P<number>\d+)\)\n-- (?P<meaning>.+)\n(?P<query>(?s:.+?));\n*(?=^-- name: |\Z)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """One rule: its name, its number in the design, the rule in one sentence, and the query for what breaks it."""

    name: str
    number: int
    meaning: str
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InvariantResult:
    """How one rule fared: how many rows break it, and up to five of those, as column -> text."""

    name: str
    number: int
    meaning: str
    violations: int
    samples: tuple[dict[str, str], ...]

    @property
    def holds(self) -> bool:
        """Whether nothing breaks the rule."""
        return self.violations == 0


def invariants() -> list[Invariant]:
    """All rules, in the order of their file."""
    return list(_read(QUERIES.read_text(encoding="utf-8")))


async def check_invariants(url: str, *, timeout_s: float = 600.0) -> list[InvariantResult]:
    """Checks every rule on the database at `url` (the owner's or the server's), all in one read-only snapshot.

    `timeout_s` bounds each single query. Raises `asyncpg.PostgresError`, `OSError` or `TimeoutError` when the database
    cannot be read.
    """
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, command_timeout=timeout_s)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return [await _check(connection, invariant) for invariant in invariants()]
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)


async def _check(connection: asyncpg.Connection[asyncpg.Record], invariant: Invariant) -> InvariantResult:
    rows = await connection.fetch(
        f"SELECT count(*) OVER () AS violations, violation.* FROM ({invariant.query}) AS violation LIMIT {SAMPLES_MAX}"  # noqa: S608
    )
    return InvariantResult(
        name=invariant.name,
        number=invariant.number,
        meaning=invariant.meaning,
        violations=rows[0]["violations"] if rows else 0,
        samples=tuple({column: str(value) for column, value in list(row.items())[1:]} for row in rows),
    )


def _read(text: str) -> Iterator[Invariant]:
    for block in _BLOCK.finditer(text):
        yield Invariant(
            name=block["name"], number=int(block["number"]), meaning=block["meaning"], query=block["query"].strip()
        )
