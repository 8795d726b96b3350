"""Reading an event log: a file becomes typed columns, or the first thing wrong with it is named.

Knows the columns of a log, what their cells may hold, and the formats: CSV (UTF-8; gzipped, too) and Parquet. Must not
know what becomes of events, databases or models.

What is refused: a file that is no such table; a column of ours named twice, or nearly named (another case, spaces); a
row with more or fewer cells than the head; a cell that is not what its column holds; a time before 1970 or after 2199;
a label that was known before its event. What is taken, and how: columns that are not ours are ignored; an empty cell is
unknown; a time without an offset is UTC, and any offset becomes UTC; rows come in any order.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TextIO, TypeAlias

import polars as pl

from fraud_worker.conversion_inputs import DISPOSITIONS, SEGMENTS
from fraud_worker.registry import FEATURES
from migrations.risk_log import HASH_BYTES

EVENT_KINDS: Final = ("ISSUE", "ACTIVATE", "RECYCLE", "AUTO_RECYCLE", "REACTIVATE", "COMPENSATE", "COMPLAINT")

OUTCOMES: Final = ("APPROVED", "REJECTED", "IN_REVIEW")
TIERS: Final = ("BASIC", "PREMIUM")
REASONS: Final = ("EXPIRED", "VOLUNTARY", "SYSTEM_ANOMALY")

SIGNALS: Final = (
    "session_seconds",
    "page_views",
    "seconds_since_login",
    "failed_logins_24h",
    "captcha_failures",
    "copy_paste_used",
    "form_fill_ms",
    "failed_card_entries_24h",
    "emulator",
    "rooted",
    "vpn",
    "clock_skew_seconds",
    "inconsistencies",
    "hosting",
    "timezone_mismatch",
)
"""What a request itself says, or what follows from it alone; kept in `risk_event.signals`."""

HASHES: Final = ("device_hash", "address_hash", "prefix_hash", "profile_hash", "serial_block")
_NUMBERS: Final = ("session_seconds", "seconds_since_login", "clock_skew_seconds")
_COUNTS: Final = (
    *("amount_minor", "page_views", "failed_logins_24h", "captcha_failures", "form_fill_ms"),
    *("failed_card_entries_24h", "inconsistencies"),
)
_FLAGS: Final = ("copy_paste_used", "emulator", "rooted", "vpn", "hosting", "timezone_mismatch", "label", "converted")
_WORDS: Final = {"event_kind": EVENT_KINDS, "outcome": OUTCOMES, "disposition": DISPOSITIONS, "segment": SEGMENTS}
_TIMES: Final = ("event_time", "label_time", "abuse_time", "converted_time")
LABEL_DELAY: Final = timedelta(days=30)
"""When a label counts as confirmed that does not say since when it is known."""

_REQUIRED: Final = ("event_time", "event_kind", "account_id")

COLUMNS: Final = (
    *("event_time", "event_kind", "account_id", "card_id", "platform", "tier", "reason", "amount_minor", "device_id"),
    *("ip", "os", "model", "screen", "timezone", "language", "channel", "user_agent", "age", "serial", "country"),
    *SIGNALS,
    *("outcome", "label", "label_time", "abuse_time"),
    *HASHES,
    *("recycling_id", "policy_revision", "model_version", "weight"),
    *("disposition", "segment", "converted", "converted_time"),
)
"""The columns of a log, in the order in which the simulator writes them. Features ignore the last eight: what an event
belonged to, and how many like it its label stands for in training (1 where nothing is said); what became of the card of
a recycle that was approved, the segment of its account, whether the owner has paid again since, and when."""

_RANGES: Final = {feature.name: (feature.lowest, feature.highest) for feature in FEATURES}
_FLAG_WORDS: Final = {
    "1": True,
    "true": True,
    "t": True,
    "yes": True,
    "0": False,
    "false": False,
    "f": False,
    "no": False,
}

WEIGHT_MAX: Final = 10_000.0
"""Of a share of one basis point, the least that a policy can let through."""

SUFFIXES: Final = (".parquet", ".csv", ".csv.gz")
"""What logs that we write are called."""
ID_CHARACTERS_MAX: Final = 256
TEXT_CHARACTERS_MAX: Final = 4_096
"""Of one cell; no user agent is longer."""
TIME_MIN: Final = datetime(1970, 1, 1, tzinfo=UTC)
TIME_MAX: Final = datetime(2200, 1, 1, tzinfo=UTC)

_IDS: Final = ("account_id", "card_id")
_PART_ROWS: Final = 20_000
_SHOWN_MAX: Final = 80
_GZIP: Final = b"\x1f\x8b"

Part: TypeAlias = tuple[Sequence[int], Mapping[str, Sequence[Any]]]
"""Some rows: the number of each one's line, and the cells of each of our columns that the file has."""


class EventLogError(ValueError):
    """A log cannot be read as one; the message names the file and, where it can, line, column and value."""


def read_log(path: Path) -> pl.DataFrame:
    """The log at `path` with all of `COLUMNS`, typed (times aware UTC), and `row`, from 0. Without any `abuse_time`
    each event's follows from its label. Raises `EventLogError`."""
    columns = {name: _Column(path, name) for name in COLUMNS}
    rows = 0
    try:
        for lines, cells in _parts(path):
            for name, column in columns.items():
                column.add(lines, cells.get(name))
            for name in ("label_time", "converted_time"):
                _check_later(path, lines, columns["event_time"].last, columns[name].last)
            rows += len(lines)
    except FileNotFoundError:
        raise EventLogError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise EventLogError(f"{path}: not a readable event log: it is not UTF-8 ({error.reason})") from error
    except (pl.exceptions.PolarsError, OSError, EOFError, csv.Error, zlib.error) as error:
        raise EventLogError(f"{path}: not a readable event log: {error}") from error
    log = pl.DataFrame(
        [pl.int_range(rows, dtype=pl.Int64, eager=True).alias("row"), *(each.series() for each in columns.values())]
    )
    if log["abuse_time"].null_count() < log.height:
        return log
    known_time = pl.max_horizontal("event_time", pl.coalesce("label_time", pl.col("event_time") + LABEL_DELAY))
    return log.with_columns(abuse_time=pl.when("label").then(known_time))


def _parts(path: Path) -> Iterator[Part]:
    if path.is_dir():
        raise EventLogError(f"{path}: not a readable event log: it is a folder")
    return _parquet_parts(path) if path.suffix == ".parquet" else _csv_parts(path)


def _parquet_parts(path: Path) -> Iterator[Part]:
    with path.open("rb") as file:
        frame = pl.read_parquet(file).fill_nan(None)
    ours = _ours(path, frame.columns)
    first = 1
    for part in frame.select(ours.keys()).iter_slices(_PART_ROWS):
        yield range(first, first + part.height), {name: part[name].to_list() for name in ours}
        first += part.height
    if not frame.height:
        yield (), dict.fromkeys(ours, ())


def _csv_parts(path: Path) -> Iterator[Part]:
    with _opened(path) as file:
        reader = csv.reader(file, strict=True)
        head = next(reader, None)
        if head is None:
            raise EventLogError(f"{path}: not a readable event log: it is empty")
        ours = _ours(path, head)
        yield (), dict.fromkeys(ours, ())  # a head is a log, if a short one
        rows = _rows(path, reader, len(head))
        while part := list(itertools.islice(rows, _PART_ROWS)):
            by_column = list(zip(*(row for _, row in part), strict=True))
            yield [line for line, _ in part], {name: by_column[place] for name, place in ours.items()}


def _opened(path: Path) -> TextIO:
    with path.open("rb") as file:
        is_gzip = file.read(len(_GZIP)) == _GZIP
    # What a spreadsheet writes before the first byte is no part of it.
    if is_gzip:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _rows(path: Path, reader: Any, cells: int) -> Iterator[tuple[int, list[str]]]:
    """Each row with the number of its (last) line; blank lines are none."""
    try:
        for row in reader:
            if len(row) != cells:
                if not row:
                    continue
                raise EventLogError(
                    f"{path}: line {reader.line_num}: it has {len(row):,} cells, and the head has {cells:,}"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise EventLogError(f"{path}: line {reader.line_num}: {error}") from error


def _ours(path: Path, head: Sequence[str]) -> dict[str, int]:
    """Where our columns stand in `head`. Raises `EventLogError`."""
    ours: dict[str, int] = {}
    for place, name in enumerate(head):
        meant = name.strip().lower()
        if meant not in COLUMNS:
            continue
        if name != meant:
            raise EventLogError(f"{path}: the column {name!r} must be called {meant!r}, or something else altogether")
        if name in ours:
            raise EventLogError(f"{path}: the column {name} is there twice")
        ours[name] = place
    if missing := [name for name in _REQUIRED if name not in ours]:
        raise EventLogError(f"{path}: the column {missing[0]} is missing")
    return ours


class _Column:
    """Column `name`, part by part, in its own type; null where the log lacks it."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._type, self._parse, self._what = _parser(name)
        # Values repeat a lot; what was parsed once is looked up.
        self._known: dict[Any, Any] = {None: None, "": None}
        self._parts: list[pl.Series] = []

    @property
    def last(self) -> pl.Series:
        """The part added last."""
        return self._parts[-1]

    def add(self, lines: Sequence[int], cells: Sequence[Any] | None) -> None:
        """`cells`: None where the file has no such column. Raises `EventLogError`."""
        self._parts.append(pl.Series(self._name, self._values(lines, cells), dtype=self._type))

    def series(self) -> pl.Series:
        """All parts."""
        return pl.concat(self._parts)

    def _values(self, lines: Sequence[int], cells: Sequence[Any] | None) -> list[Any]:
        if cells is None:
            return [None] * len(lines)
        known, values = self._known, []
        for line, cell in zip(lines, cells, strict=True):
            try:
                values.append(known[cell])
            except (KeyError, TypeError):  # a list, of all things, cannot be looked up, nor parsed
                values.append(self._parsed(line, cell))
        if self._name in _REQUIRED and None in values:
            line = lines[values.index(None)]
            raise EventLogError(f"{self._path}: line {line}, column {self._name}: a value is required")
        return values

    def _parsed(self, line: int, cell: Any) -> Any:
        try:
            self._known[cell] = parsed = self._parse(cell)
        except (ValueError, TypeError, OverflowError):
            shown = repr(cell)
            shown = shown if len(shown) <= _SHOWN_MAX else f"{shown[:_SHOWN_MAX]}..."
            raise EventLogError(
                f"{self._path}: line {line}, column {self._name}: {shown} is not {self._what}"
            ) from None
        return parsed


def _check_later(path: Path, lines: Sequence[int], times: pl.Series, later: pl.Series) -> None:
    """What became of an event did so after it."""
    early = (later < times).fill_null(value=False)
    if early.any():
        at = int(early.arg_true()[0])
        raise EventLogError(
            f"{path}: line {lines[at]}, column {later.name}: {later[at].isoformat()} is before the event"
        )


def column_type(name: str) -> pl.DataType | type[pl.DataType]:
    """The type of a log's column; text where the log does not know it."""
    return _parser(name)[0]


def _parser(name: str) -> tuple[pl.DataType | type[pl.DataType], Callable[[Any], Any], str]:
    """The type of column `name`, what makes a value of a cell, and what the cell should have been."""
    if name in _TIMES:
        return pl.Datetime("us", "UTC"), _time, f"a time in ISO 8601 from {TIME_MIN.year} to {TIME_MAX.year - 1}"
    if name in _FLAGS:
        return pl.Boolean, _flag, "0 or 1"
    if name in _WORDS:
        words = _WORDS[name]
        return pl.String, lambda value: _word(value, words), f"one of {', '.join(words)}"
    if name in HASHES:
        return pl.Binary, _hash, f"a hash of {HASH_BYTES} bytes, hexadecimal"
    if name in _NUMBERS or name in _COUNTS:
        low, high = _RANGES[name]
        whole = name in _COUNTS
        what = f"a {'whole ' if whole else ''}number from {low:,.0f} to {high:,.0f}"
        return (pl.Int64 if whole else pl.Float64), lambda value: _number(value, low, high, whole=whole), what
    if name == "weight":
        return pl.Float64, _weight, f"a number above 0, at most {WEIGHT_MAX:,.0f}"
    most = ID_CHARACTERS_MAX if name in _IDS else TEXT_CHARACTERS_MAX
    return pl.String, lambda value: _text(value, most), f"text of at most {most:,} characters, without a NUL among them"


def _time(value: str | date) -> datetime:
    if isinstance(value, date):
        time = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    else:
        time = datetime.fromisoformat(value.strip())
    # A time without an offset is UTC.
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    if not TIME_MIN <= time < TIME_MAX:
        raise ValueError(time)
    return time


def _flag(value: object) -> bool:
    word = str(value).strip().lower().removesuffix(".0")
    if word not in _FLAG_WORDS:
        raise ValueError(word)
    return _FLAG_WORDS[word]


def _word(value: object, words: Sequence[str]) -> str:
    if value not in words:
        raise ValueError(value)
    return str(value)


def _hash(value: str | bytes) -> bytes:
    digest = value if isinstance(value, bytes) else bytes.fromhex(value)
    if len(digest) != HASH_BYTES:
        raise ValueError(value)
    return digest


def _number(value: Any, low: float, high: float, *, whole: bool) -> float | int:
    number = float(value)
    if not (math.isfinite(number) and low <= number <= high) or (whole and not number.is_integer()):
        raise ValueError(number)
    return int(number) if whole else number


def _weight(value: Any) -> float:
    weight = float(value)
    if not 0 < weight <= WEIGHT_MAX:
        raise ValueError(weight)
    return weight


def _text(value: object, most: int) -> str:
    # A writer with missing cells turns an age of 38 into 38.0.
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if "\x00" in text or len(text) > most:
        raise ValueError(text)
    return text
