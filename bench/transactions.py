"""Recycles of one transaction each: pgbench with the server's own statements, one row in each of their arrays.

What a caller or the server would choose (ids, hashes) follows from the card's number; what a decision yields (answer,
receipt, amounts) is copied from a recycling that the server has recorded. Must not know gRPC.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import asyncpg

from bench.cards import ACCOUNT_ID_SQL, CARD_ID_SQL, PLATFORM
from bench.measure import BenchError, Run
from migrations.postgres import wheel_binaries
from server.store.database import SESSION
from server.store.statements import Statement, statement

CLIENTS = 16
WARM_UP_EACH = 10
"""Transactions of each client that are not timed: the first one plans the statements."""

_RECYCLING_ID_SQL = "('01910000-0000-7000-8000-' || lpad(to_hex(:number::bigint), 12, '0'))::uuid"
_CHOSEN = {
    "position": "0",
    "account_id": ACCOUNT_ID_SQL,
    "account_version": "1",
    "request_id": "md5('request' || :number)::uuid",
    "card_id": CARD_ID_SQL,
    "now": "now()",
    "create_time": "now()",
    "unclaimed": "false",
} | {f"{name}_hash": f"decode(md5('{name}' || :number), 'hex')" for name in ("device", "address", "prefix", "profile")}

Row = Mapping[str, str | None]
"""SQL expressions by column; None stands for NULL."""


async def make_script(connection: asyncpg.Connection) -> str:
    """pgbench's script: one transaction on one card. `base` and `each` say which cards; `done` begins at 0."""
    account = await connection.fetchval("SELECT account_id FROM recycling WHERE state = 'APPROVED' LIMIT 1")

    async def recorded(columns: str, source: str) -> dict[str, str | None]:
        row = await connection.fetchrow(
            f"SELECT {', '.join(f'{column}::text' for column in columns.split())} FROM {source} AND account_id = $1",  # noqa: S608
            account,
        )
        if row is None:
            raise BenchError(f"no recycling to copy from in {source}")
        return {column: value if value is None else _literal(value) for column, value in row.items()}

    load, record = statement("load"), statement("record")
    event = await recorded("kind tier reason amount_minor signals outcome", "risk_event WHERE kind = 'RECYCLE'")
    decisions = set(record.inputs["recycling"]) - set(_CHOSEN) - {"recycling_id"}
    decided = await recorded(" ".join(decisions), "recycling WHERE true")
    told = await recorded("kind state generation renewals_used version", "card_event WHERE kind = 'RECYCLED'")
    answered = await recorded("method input_hash response receipt", "command WHERE method = 'Recycle'")
    card: Row = {
        **_CHOSEN,
        **told,
        "event": told["kind"],
        "event_state": told["state"],
        "live_recycling_id": _RECYCLING_ID_SQL,
    }
    loads: Row = {
        **_CHOSEN,
        "risk_kind": event["kind"],
        "reason": event["reason"],
        "signals": event["signals"],
        "wants_wallet": "false",
        "wants_lists": "true",
    }
    event |= {"platform": f"'{PLATFORM}'", "external_serial": None, "recycling_id": _RECYCLING_ID_SQL}
    return "\n".join(
        (
            "\\set number :base + :client_id * :each + :done",
            "\\set done :done + 1",
            "BEGIN;",
            _filled(load, command=loads),
            _filled(
                record,
                command={**_CHOSEN, **answered},
                card=card,
                recycling={**_CHOSEN, **decided, "recycling_id": _RECYCLING_ID_SQL},
                risk_event={**_CHOSEN, **event},
            ),
            "COMMIT;",
            "",
        )
    )


def _literal(value: str) -> str:
    """An SQL literal without a colon, which pgbench would take for a variable."""
    quoted = value.replace("\\", "\\\\").replace("'", "''").replace(":", "\\x3a")
    return f"E'{quoted}'"


def _filled(source: Statement, **rows: Row) -> str:
    """The statement with one row in the arrays of the inputs given, and none in the others'. Other columns are NULL."""
    values = iter(
        f"ARRAY[{rows[name].get(column) or 'NULL'}]" if name in rows else "ARRAY[]"
        for name, columns in source.inputs.items()
        for column in columns
    )
    text = re.sub(r"\$\d+(?=::)", lambda _: next(values), source.text)
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")) + ";"


async def transact(script: str, numbers: range, url: str, folder: Path) -> Run:
    """Takes back the cards `numbers`, one transaction each. The run is what lay between the time when all clients were
    warm and the time when the first was done. Raises BenchError unless every transaction was committed."""
    each = len(numbers) // CLIENTS
    file = folder / "recycle.sql"
    file.write_text(script)
    with TemporaryDirectory(dir=folder) as logs:
        process = await asyncio.create_subprocess_exec(
            wheel_binaries() / "pgbench",
            *("--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}", "--jobs=2", f"--transactions={each}"),
            *("--log", f"--log-prefix={logs}/log", f"--file={file}"),
            *(f"--define={name}={value}" for name, value in (("base", numbers.start), ("each", each), ("done", 0))),
            env=_environment(url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode or f"{each * CLIENTS}/{each * CLIENTS}" not in output.decode():
            raise BenchError(f"pgbench failed: {output.decode()[-2000:]}")
        return _timed(Path(logs))


def _environment(url: str) -> dict[str, str]:
    """The connection and the session's settings, as the server has them."""
    parts = urlsplit(url)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PGHOST": parse_qs(parts.query)["host"][0],
        "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "",
        "PGDATABASE": parts.path.removeprefix("/"),
        "PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in SESSION.items()),
    }


def _timed(logs: Path) -> Run:
    """From pgbench's logs: client, transaction, latency in us, script, end in s and us."""
    ends: dict[int, list[tuple[float, float]]] = {}
    for line in (line for log in logs.iterdir() for line in log.read_text().splitlines()):
        client, _, latency_us, _, second, microsecond = map(int, line.split()[:6])
        ends.setdefault(client, []).append((second + microsecond / 1e6, latency_us / 1000))
    begin = max(sorted(of_client)[WARM_UP_EACH - 1][0] for of_client in ends.values())
    end = min(max(of_client)[0] for of_client in ends.values())
    latencies_ms = [
        latency_ms for of_client in ends.values() for moment, latency_ms in of_client if begin < moment <= end
    ]
    if end <= begin:
        raise BenchError("pgbench's clients did not run side by side")
    return Run(count=len(latencies_ms), seconds=end - begin, latencies_ms=latencies_ms)
