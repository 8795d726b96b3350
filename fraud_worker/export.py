"""The export: a live database's risk events as an event log, with what became of the requests.

Knows the log's columns and the tables that hold them; reads only. Must not know how features are computed or models
trained. Devices and addresses come as the keyed hashes that the database holds: nobody else's key fits them.

Which request has a label is for the SQL function `request_label` to say. Mind what it cannot give: of a refused request
nobody learns what it would have come to, so the labels are of those that were let through (selection bias). Requests
that were let through at random in spite of the model carry `weight` 1 / propensity to stand for the others.

A log that begins late lacks the history before: give features a month or more of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final, cast

import asyncpg
import polars as pl

from fraud_worker.log_features import progress_bars
from fraud_worker.log_reading import SIGNALS, SUFFIXES, column_type

CHUNK_ROWS: Final = 20_000
CONNECT_TIMEOUT_S: Final = 10.0

_HASHES: Final = ("device_hash", "address_hash", "prefix_hash", "profile_hash", "serial_block")
_BEFORE_SIGNALS: Final = (
    *("event_time", "event_kind", "account_id", "card_id", "platform", "tier", "reason", "amount_minor"),
)
_AFTER_SIGNALS: Final = (
    *("outcome", "label", "label_time", "label_source", "abuse_time"),
    *_HASHES,
    *("recycling_id", "policy_revision", "model_version", "explored", "propensity"),
    *("disposition", "segment", "converted", "converted_time"),
)
COLUMNS: Final = (*_BEFORE_SIGNALS, *SIGNALS, *_AFTER_SIGNALS, "weight")
"""What an export holds, in order. `label_source` says which evidence the label rests on; `abuse_time` since when
features know of the request's abuse, whatever was found out afterwards; or, on one event for each such time, of the
account's. `converted`: on the request that took a card, whether its owner has paid again since: 1 as soon as it is
known, 0 once the time in which it counts is over."""

_OWN_TYPES: Final = {"propensity": pl.Float64, "weight": pl.Float64, "explored": pl.Boolean} | dict.fromkeys(
    _HASHES, pl.String
)

_WITHIN: Final = "($1::timestamptz IS NULL OR e.event_time >= $1) AND ($2::timestamptz IS NULL OR e.event_time < $2)"
# A log has no place for what is known of an account as a whole. Features count how often its abuse became known, so
# each time goes with one event, the first of those whose own request is not known as abuse.
_QUERY: Final = f"""
WITH of_account AS MATERIALIZED (
  SELECT l.account_id, l.label_time, carrier.event_time, carrier.seq
  FROM (
    SELECT account_id, label_time, row_number() OVER (PARTITION BY account_id ORDER BY label_time, seq) AS place
    FROM risk_label WHERE label = 1 AND recycling_id IS NULL
  ) AS l
  CROSS JOIN LATERAL (
    SELECT e.event_time, e.seq FROM risk_event AS e
    WHERE e.account_id = l.account_id AND {_WITHIN}
      AND NOT EXISTS (SELECT FROM risk_label AS own
                      WHERE own.account_id = e.account_id AND own.recycling_id = e.recycling_id AND own.label = 1)
    ORDER BY e.event_time, e.seq OFFSET l.place - 1 LIMIT 1
  ) AS carrier
)
SELECT e.event_time, e.kind AS event_kind, e.account_id, e.card_id, c.platform, e.tier, e.reason, e.amount_minor,
       e.signals, e.outcome, known.label::integer = 1 AS label, known.label_time, known.source AS label_source,
       coalesce(abuse.abuse_time, of_account.label_time) AS abuse_time,
       encode(e.device_hash, 'hex') AS device_hash, encode(e.address_hash, 'hex') AS address_hash,
       encode(e.prefix_hash, 'hex') AS prefix_hash, encode(e.profile_hash, 'hex') AS profile_hash,
       encode(e.serial_block, 'hex') AS serial_block, e.recycling_id::text AS recycling_id,
       d.receipt ->> 'policy_revision' AS policy_revision, d.receipt #>> '{{score,model_version}}' AS model_version,
       (r.decision ->> 'explored')::boolean AS explored, (r.decision ->> 'propensity')::double precision AS propensity,
       taken.disposition, taken.segment, taken.converted, taken.converted_time
FROM risk_event AS e
LEFT JOIN card AS c ON c.account_id = e.account_id AND c.card_id::text = e.card_id
LEFT JOIN command AS d ON d.account_id = e.account_id AND d.request_id = e.request_id AND e.outcome IS NOT NULL
LEFT JOIN recycling AS r
  ON r.account_id = d.account_id AND r.recycling_id = e.recycling_id AND r.request_id = d.request_id
LEFT JOIN LATERAL request_label(
  e.account_id, e.recycling_id, e.request_id, e.outcome = 'APPROVED', e.event_time, $3::interval, $4::timestamptz
) AS known ON d.request_id IS NOT NULL
LEFT JOIN LATERAL (
  SELECT min(l.label_time) AS abuse_time FROM risk_label AS l
  WHERE l.account_id = e.account_id AND l.recycling_id = e.recycling_id AND l.label = 1
    AND coalesce(l.request_id, r.request_id) = d.request_id
) AS abuse ON d.request_id IS NOT NULL
LEFT JOIN LATERAL (
  SELECT r.disposition, d.receipt #>> '{{card,segment}}' AS segment, paid.first_time AS converted_time,
         CASE WHEN paid.first_time IS NOT NULL THEN true
              WHEN e.event_time + $5::interval <= $4 THEN false END AS converted
  FROM (SELECT min(o.outcome_time) AS first_time FROM outcome AS o
        WHERE o.account_id = r.account_id AND o.recycling_id = r.recycling_id AND o.kind = 'CONVERSION'
          AND o.outcome_time <= e.event_time + $5::interval) AS paid
  WHERE r.state IN ('APPROVED', 'REVERSED') AND r.disposition IS NOT NULL
) AS taken ON true
LEFT JOIN of_account
  ON of_account.account_id = e.account_id AND of_account.event_time = e.event_time AND of_account.seq = e.seq
WHERE {_WITHIN}
ORDER BY e.event_time, e.seq
"""  # noqa: S608 - its parts are constants


class ExportError(Exception):
    """The export cannot be made; the message says why, and no file is left half written."""


def export(
    database_url: str,
    out: Path,
    *,
    from_time: datetime | None = None,
    to_time: datetime | None = None,
    mature: timedelta = timedelta(days=30),
    conversion_mature: timedelta = timedelta(days=90),
) -> int:
    """Writes the events of [`from_time`, `to_time`), in the order of time, as the log `out` (.parquet, .csv, .csv.gz);
    returns how many. Approved requests of which nothing was said for `mature` count as honest; who has not paid
    again within `conversion_mature` of a recycle has not converted.

    Reads one snapshot through a cursor, so that memory does not grow with the log. Raises `ExportError`.
    """
    if not out.name.endswith(SUFFIXES):
        raise ExportError(f"{out}: a log ends in {', '.join(SUFFIXES)}")
    try:
        return asyncio.run(_export(database_url, out, from_time, to_time, mature, conversion_mature))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        raise ExportError(f"{type(error).__name__}: {error}") from error


async def _export(
    url: str,
    out: Path,
    from_time: datetime | None,
    to_time: datetime | None,
    mature: timedelta,
    conversion_mature: timedelta,
) -> int:
    connection = await asyncpg.connect(
        url, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": "fraud-worker export", "jit": "off"}
    )
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            now = await connection.fetchval("SELECT service_clock()")
            count = await connection.fetchval(
                f"SELECT count(*) FROM risk_event AS e WHERE {_WITHIN}",  # noqa: S608 - a constant
                from_time,
                to_time,
            )
            with _writing(out) as write, progress_bars() as progress:
                bar = progress.add_task("exporting events", total=count)
                cursor = await connection.cursor(_QUERY, from_time, to_time, mature, now, conversion_mature)
                while rows := await cursor.fetch(CHUNK_ROWS):
                    write(_frame(rows))
                    progress.advance(bar, len(rows))
            return int(count)
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)


def _frame(rows: Sequence[asyncpg.Record]) -> pl.DataFrame:
    """Some events as rows of the log."""
    signals = [json.loads(row["signals"]) if row["signals"] else {} for row in rows]
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in _BEFORE_SIGNALS}
    columns |= {name: [each.get(name) for each in signals] for name in SIGNALS}
    columns |= {name: [row[name] for row in rows] for name in _AFTER_SIGNALS}
    columns["weight"] = [1.0 / row["propensity"] if row["explored"] and row["propensity"] else 1.0 for row in rows]
    return pl.DataFrame(
        {name: pl.Series(name, columns[name], dtype=_OWN_TYPES.get(name) or column_type(name)) for name in COLUMNS}
    )


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Gives a function that appends rows; `out` appears when all is written."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as name:
        whole = Path(name) / out.name
        if out.suffix == ".parquet":
            with _writing_parquet(Path(name) / "parts", whole) as write:
                yield write
        else:
            with _writing_csv(whole) as write:
                yield write
        shutil.move(whole, out)


@contextlib.contextmanager
def _writing_parquet(parts: Path, whole: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """polars writes a file at once: so each part is one, and then they are streamed into one."""
    parts.mkdir()
    written: list[Path] = []

    def write(frame: pl.DataFrame) -> None:
        written.append(parts / f"{len(written):08}.parquet")
        frame.write_parquet(written[-1])

    yield write
    if not written:
        write(_frame([]))
    pl.scan_parquet(written).sink_parquet(whole)


@contextlib.contextmanager
def _writing_csv(whole: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    with whole.open("wb") as file:
        binary = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) if whole.suffix == ".gz" else file
        with cast(IO[bytes], binary):
            binary.write((",".join(COLUMNS) + "\n").encode())

            def write(frame: pl.DataFrame) -> None:
                text = frame.with_columns(pl.col("label", "converted").cast(pl.Int8)).write_csv(
                    include_header=False, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ"
                )
                binary.write(text.encode())

            yield write
