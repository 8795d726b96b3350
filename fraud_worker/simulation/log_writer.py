"""Writes simulated events as an event log: CSV, gzipped CSV or Parquet, a batch of rows at a time.

Knows files and columns; must not know who did what.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Final, cast

import polars as pl
from polars.io.plugins import register_io_source

from fraud_worker.simulation.conversion import Fate, fate
from fraud_worker.simulation.events import Behavior, Device, SimulatedEvent

_TIME: Final = pl.Datetime("us", "UTC")
LOG_SCHEMA: Final[dict[str, Any]] = {
    "event_time": _TIME,
    "event_kind": pl.String,
    "account_id": pl.String,
    "card_id": pl.String,
    "platform": pl.String,
    "tier": pl.String,
    "reason": pl.String,
    "amount_minor": pl.Int64,
    "serial": pl.String,
    "device_id": pl.String,
    "ip": pl.String,
    "country": pl.String,
    "os": pl.String,
    "model": pl.String,
    "screen": pl.String,
    "timezone": pl.String,
    "language": pl.String,
    "channel": pl.String,
    "user_agent": pl.String,
    "age": pl.String,
    "session_seconds": pl.Float64,
    "page_views": pl.Int64,
    "seconds_since_login": pl.Float64,
    "failed_logins_24h": pl.Int64,
    "captcha_failures": pl.Int64,
    "copy_paste_used": pl.Int8,
    "emulator": pl.Int8,
    "rooted": pl.Int8,
    "vpn": pl.Int8,
    "form_fill_ms": pl.Int64,
    "failed_card_entries_24h": pl.Int64,
    "clock_skew_seconds": pl.Float64,
    "outcome": pl.String,
    "label": pl.Int8,
    "label_time": _TIME,
    "disposition": pl.String,
    "segment": pl.String,
    "converted": pl.Int8,
    "converted_time": _TIME,
    "family": pl.String,
}
"""What a simulated log holds: columns of an event log, and the scenario, which readers of event logs ignore."""

_BATCH_ROWS: Final = 50_000
_TIME_TEXT: Final = "%Y-%m-%dT%H:%M:%S%.6f+00:00"
# Above this gzip takes longer than the simulation, for a few per cent.
_GZIP_LEVEL: Final = 4


def write_log(path: Path, events: Iterable[SimulatedEvent]) -> int:
    """Writes `events` by the suffix of `path` (.csv, .csv.gz, .parquet), streaming; returns how many.

    The same events give the same bytes.
    """
    if path.suffix == ".parquet":
        return _write_parquet(path, events)
    with path.open("wb") as file:
        if path.suffix != ".gz":
            return _write_csv(file, events)
        # Neither name nor time in the gzip header.
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=_GZIP_LEVEL) as packed:
            return _write_csv(cast(IO[bytes], packed), events)


def _write_csv(file: IO[bytes], events: Iterable[SimulatedEvent]) -> int:
    file.write((",".join(LOG_SCHEMA) + "\n").encode())
    count = 0
    for frame in _frames(events):
        file.write(frame.write_csv(include_header=False, datetime_format=_TIME_TEXT).encode())
        count += frame.height
    return count


def _write_parquet(path: Path, events: Iterable[SimulatedEvent]) -> int:
    count = 0

    def frames(columns: list[str] | None, *_: object) -> Iterator[pl.DataFrame]:
        nonlocal count
        for frame in _frames(events):
            count += frame.height
            yield frame if columns is None else frame.select(columns)

    register_io_source(frames, schema=LOG_SCHEMA).sink_parquet(path, row_group_size=_BATCH_ROWS, maintain_order=True)
    return count


def _frames(events: Iterable[SimulatedEvent]) -> Iterator[pl.DataFrame]:
    events = iter(events)
    while batch := list(islice(events, _BATCH_ROWS)):
        columns = _columns(SimulatedEvent._fields, batch)
        columns |= _columns(Device._fields, [event.device or _NO_DEVICE for event in batch])
        columns |= _columns(Behavior._fields, [event.behavior or _NO_BEHAVIOR for event in batch])
        columns |= _columns(Fate._fields, [fate(event) for event in batch])
        columns["converted_time"] = columns["converted_time_us"]
        columns["event_time"], columns["label_time"] = columns["time_us"], columns["label_time_us"]
        columns["age"] = [None] * len(batch)
        yield pl.DataFrame(
            [pl.Series(name, columns[name], _GIVEN.get(name, kind)).cast(kind) for name, kind in LOG_SCHEMA.items()]
        )


def _columns(names: tuple[str, ...], rows: list[Any]) -> dict[str, Any]:
    return {name: list(map(itemgetter(place), rows)) for place, name in enumerate(names)}


# What a column comes as, where that is not what it is written as.
_GIVEN: Final[dict[str, Any]] = {
    **dict.fromkeys(("event_time", "label_time", "converted_time"), pl.Int64),
    **dict.fromkeys(("copy_paste_used", "emulator", "rooted", "vpn"), pl.Boolean),
}
_NO_DEVICE: Final = Device(None)
_NO_BEHAVIOR: Final = Behavior()
