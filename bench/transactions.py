"""The same work as one transaction a recycle: pgbench with the server's own statements, one row in each of their arrays.

What a caller or the server would choose (ids, hashes) follows from the card's number; what a decision yields (answer,
receipt, amounts) is copied from a recycling that the server has recorded.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from bench.cards import ACCOUNT_ID_SQL, CARD_ID_SQL
from bench.measure import BenchError, Run
from migrations.postgres import wheel_binaries
from server.store.statements import Statement, statement
from server.store.store import SESSION

CLIENTS = 16
WARM_UP_EACH = 10
"""Transactions of each client that are not timed: the first plans the statements."""

_REQUEST_ID = "md5('request' || :number)::uuid"
_RECYCLING_ID = "('01910000-0000-7000-8000-' || lpad(to_hex(:number::bigint), 12, '0'))::uuid"
_HASHES = {name: f"decode(md5('{name}' || :number), 'hex')" for name in ("device", "address", "prefix", "profile")}
_CHOSEN = {
    "position": "0",
    "account_id": ACCOUNT_ID_SQL,
    "card_id": CARD_ID_SQL,
    "request_id": _REQUEST_ID,
    "now": "now()",
    "create_time": "now()",
    **{f"{name}_hash": text for name, text in _HASHES.items()},
}

Values = Mapping[str, Mapping[str, str]]
"""SQL expressions by input and column; an input left out has no rows."""


async def script(connection: asyncpg.Connection) -> str:
    """pgbench's script, after any one recycling of the database. Its variables: base, each (cards of a client), done."""
    like = await connection.fetchrow("SELECT account_id, request_id FROM recycling WHERE state = 'APPROVED' LIMIT 1")
    if like is None:
        raise BenchError("no recycling to copy from")

    async def recorded(table: str, name: str = "") -> dict[str, str]:
        row = await connection.fetchrow(
            f"SELECT * FROM {table} WHERE account_id = $1 ORDER BY {name or 'request_id'} DESC LIMIT 1",  # noqa: S608
            like["account_id"],
        )
        return row
    return ""
