"""The event log: files of past events, and the feature rows of those that carry a label.

Knows the log's columns (CSV, gzipped CSV or Parquet) and how events become `risk_event` rows in a scratch Postgres,
where `risk_features` computes the very rows that serving computes. Must not know models, scores or gRPC.

A log has one row an event. Only `event_time`, `event_kind` and `account_id` are required; any other column, and any
cell, may be missing (unknown), and columns that are not listed in `COLUMNS` are ignored. Rows need not be sorted:
events of the same moment keep the order of the log.

A log holds raw values, or, where it was exported from production, the keyed hashes of them (hexadecimal) and the
signals that followed from them. Where both are given, hash and signal win.

A label of abuse is known to later events from `label_time` on, or, where the log has none, from `LABEL_DELAY` after its
event: so long a chargeback takes, and a feature must not know more than serving will. A log that tells any
`abuse_time`, as an export does, tells all: abuse became known at those times, once each, whatever its labels say.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fraud_worker.registry import FEATURE_NAMES, FEATURES
from migrations.postgres import EmbeddedPostgres
from migrations.risk_log import HASH_BYTES, PROFILE_FIELDS, TraceHasher, serial_block
from migrations.risk_signals import FINGERPRINT_FIELDS, derived_signals
from migrations.runner import migrate

EVENT_KINDS: Final = ("ISSUE", "ACTIVATE", "RECYCLE", "REACTIVATE", "COMPENSATE", "COMPLAINT")

OUTCOMES: Final = ("APPROVED", "REJECTED", "IN_REVIEW")
TIERS: Final = ("BASIC", "PREMIUM")
REASONS: Final = ("EXPIRED", "VOLUNTARY", "SYSTEM_ANOMALY")

LABEL_DELAY: Final = timedelta(days=30)
"""When a label counts as confirmed that does not say since when it is known."""
JUDGED_KINDS: Final = ("RECYCLE", "REACTIVATE")
"""What the server asks a score for."""

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

_HASHES: Final = ("device_hash", "address_hash", "prefix_hash", "profile_hash", "serial_block")
_NUMBERS: Final = ("session_seconds", "seconds_since_login", "clock_skew_seconds")
_COUNTS: Final = (
    *("amount_minor", "page_views", "failed_logins_24h", "captcha_failures", "form_fill_ms"),
    *("failed_card_entries_24h", "inconsistencies"),
)
_FLAGS: Final = ("copy_paste_used", "emulator", "rooted", "vpn", "hosting", "timezone_mismatch", "label")
_WORDS: Final = {"event_kind": EVENT_KINDS, "outcome": OUTCOMES}
_TIMES: Final = ("event_time", "label_time", "abuse_time")
_REQUIRED: Final = ("event_time", "event_kind", "account_id")

COLUMNS: Final = (
    *("event_time", "event_kind", "account_id", "card_id", "platform", "tier", "reason", "amount_minor", "device_id"),
    *("ip", "os", "model", "screen", "timezone", "language", "channel", "user_agent", "age", "serial", "country"),
    *SIGNALS,
    *("outcome", "label", "label_time", "abuse_time"),
    *_HASHES,
    *("recycling_id", "policy_revision", "model_version", "weight"),
)
"""The columns of a log, in the order in which the simulator writes them. Features ignore the last four: what an event
belonged to, and how many like it its label stands for in training (1 where nothing is said)."""

_OF_EVENTS: Final = tuple(name for name in COLUMNS if name != "abuse_time")

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

_COPY_ROWS: Final = 20_000
_FEATURE_ROWS: Final = 512

# Any key will do: within one scratch database it only matters that the same value gets the same hash.
_SCRATCH_KEY: Final = b"fraud-worker scratch database"

_FEATURES_OF: Final = (
    f"SELECT {', '.join(FEATURE_NAMES)} FROM risk_features("  # noqa: S608 - the names are constants
    "$1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bigint[],"
    " $10::text[], $11::text[], $12::json[], $13::timestamptz[], $14::bigint[], $15::boolean[])"
)

Matrix = npt.NDArray[np.float64]


class EventLogError(ValueError):
    """A log cannot be read as one; the message names the file and, where it can, line, column and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRows:
    """The labelled events of some logs in the order of time, with the features that serving would have computed."""

    features: Matrix
    """One row an event, one column a feature of the registry; NaN is unknown."""
    labels: npt.NDArray[np.int8]
    """1 abuse, 0 honest."""
    events: pl.DataFrame
    """The events themselves: `COLUMNS`, and `row`, the event's number in its own file, counted from 0."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """How many rows like it each one stands for: what was let through at random stands for those that were not."""
        if "weight" not in self.events.columns:
            return np.ones(len(self))
        return self.events["weight"].fill_null(1.0).to_numpy()

    def where(self, mask: npt.NDArray[np.bool_]) -> JudgedRows:
        """The rows for which `mask` holds."""
        return JudgedRows(
            features=self.features[mask], labels=self.labels[mask], events=self.events.filter(pl.Series(mask))
        )


def judged_rows(events: Sequence[Path], history: Sequence[Path] = ()) -> JudgedRows:
    """The labelled events of the logs `events`, with features from all earlier events of `events` and `history`.

    Runs a scratch Postgres, so call it from the main thread and outside any event loop. Raises `EventLogError`.
    """
    log = merged_logs(events, history)
    wanted = log.filter(pl.col("judged") & pl.col("label").is_not_null())
    if wanted.is_empty():
        raise EventLogError(f"{', '.join(map(str, events))}: no event has a label, so there is nothing to judge")
    features = _features_in_scratch(log, wanted)
    labels = wanted["label"].to_numpy().astype(np.int8)
    return JudgedRows(features=features, labels=labels, events=wanted.select("row", *COLUMNS))


def row_to_judge(events: Path, row: int, history: Sequence[Path] = ()) -> tuple[dict[str, Any], Matrix]:
    """The event with number `row` in the log `events` (from 0), and its features as a matrix of one row.

    It need not have a label, if it is of a kind that is judged in service. Scratch Postgres and errors are those of
    `judged_rows`.
    """
    log = merged_logs([events], history)
    wanted = log.filter(pl.col("judged") & (pl.col("row") == row))
    if wanted.is_empty():
        raise EventLogError(f"{events}: there is no row {row}; rows go from 0 to {log['judged'].sum() - 1}")
    event = wanted.row(0, named=True)
    if event["label"] is None and event["event_kind"] not in JUDGED_KINDS:
        kinds = " and ".join(JUDGED_KINDS)
        raise EventLogError(
            f"{events}: row {row} is of kind {event['event_kind']} and has no label; judged are {kinds}"
        )
    earlier = log.filter(pl.col("seq") <= event["seq"])  # what came later counts for nothing
    return event, _features_in_scratch(earlier, wanted)


def merged_logs(events: Sequence[Path], history: Sequence[Path]) -> pl.DataFrame:
    """All events in the order of time, with `seq`; `judged` tells those of `events`.

    What is to be judged is no history of its own: a history that holds the same events again gives up those.
    """
    judged_files = {path.resolve() for path in events}
    judged = pl.concat([read_log(path).with_columns(judged=pl.lit(True)) for path in events])
    past = [
        read_log(path)
        # Of when abuse became known logs of the same events may tell more and less.
        .join(judged, on=_OF_EVENTS, how="anti", nulls_equal=True, maintain_order="left")
        .with_columns(judged=pl.lit(False))
        for path in history
        if path.resolve() not in judged_files
    ]
    log = pl.concat([*past, judged]).sort("event_time", maintain_order=True)
    return log.with_columns(seq=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))


def _features_in_scratch(log: pl.DataFrame, wanted: pl.DataFrame) -> Matrix:
    with (
        tempfile.TemporaryDirectory(prefix="fraud-worker-") as folder,
        EmbeddedPostgres(Path(folder), durable=False) as postgres,
    ):
        postgres.create_database("event_log")
        return asyncio.run(_features(postgres.owner_url("event_log"), log, wanted))


async def _features(url: str, log: pl.DataFrame, wanted: pl.DataFrame) -> Matrix:
    await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        with progress_bars() as progress:
            bar = progress.add_task("loading events", total=log.height)
            await load(connection, log, lambda rows: progress.advance(bar, rows))
            bar = progress.add_task("computing features", total=wanted.height)
            return await feature_matrix(connection, wanted, lambda rows: progress.advance(bar, rows))
    finally:
        await connection.close()


async def load(
    connection: asyncpg.Connection[Any], log: pl.DataFrame, advance: Callable[[int], object] = lambda rows: None
) -> None:
    """Copies the events of `log` (as `read_log` gives it, with `seq`) into `risk_event`, and its labels of abuse into
    `risk_label`."""
    hasher = TraceHasher(_SCRATCH_KEY)
    columns = ["account_id", "event_time", "seq", "kind", "card_id", *_HASHES]
    columns += ["amount_minor", "tier", "reason", "signals", "outcome"]
    for part in log.iter_slices(_COPY_ROWS):
        records = [
            (
                event.account_id,
                event.time,
                event.seq,
                event.kind,
                event.card_id,
                *event.hashes,
                event.amount,
                event.tier,
                event.reason,
                event.signals,
                event.outcome,
            )
            for event in stored_events(part, hasher)
        ]
        await connection.copy_records_to_table("risk_event", records=records, columns=columns)
        advance(part.height)
    abuse = log.filter(pl.col("abuse_time").is_not_null()).select(
        "account_id", label=pl.lit(1, dtype=pl.Int16), source=pl.lit("log"), label_time="abuse_time"
    )
    await connection.copy_records_to_table("risk_label", records=abuse.iter_rows(), columns=abuse.columns)
    await connection.execute("ANALYZE risk_event, risk_pair, risk_link, risk_label")


async def feature_matrix(
    connection: asyncpg.Connection[Any], events: pl.DataFrame, advance: Callable[[int], object] = lambda rows: None
) -> Matrix:
    """The feature rows of loaded `events`, each as of its own place in the log."""
    hasher = TraceHasher(_SCRATCH_KEY)
    matrix = np.empty((events.height, len(FEATURE_NAMES)), dtype=np.float64)
    done = 0
    for part in events.iter_slices(_FEATURE_ROWS):
        batch = list(stored_events(part, hasher))
        hashes = zip(*(event.hashes for event in batch), strict=True)
        rows = await connection.fetch(
            _FEATURES_OF,
            [event.account_id for event in batch],
            [event.kind for event in batch],
            [event.card_id for event in batch],
            *hashes,
            [event.amount for event in batch],
            [event.tier for event in batch],
            [event.reason for event in batch],
            [event.signals for event in batch],
            [event.time for event in batch],
            [event.seq for event in batch],
            [False] * len(batch),
        )
        # None becomes NaN, a flag 0 or 1.
        matrix[done : done + len(rows)] = [tuple(row) for row in rows]
        done += len(rows)
        advance(len(rows))
    return matrix


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of a log as `risk_event` holds it."""

    account_id: str
    time: datetime
    seq: int
    kind: str
    card_id: str | None
    hashes: tuple[bytes | None, ...]
    """In the order of `_HASHES`."""
    amount: int | None
    tier: str | None
    reason: str | None
    signals: str | None
    outcome: str | None


def stored_events(part: pl.DataFrame, hasher: TraceHasher) -> Iterator[StoredEvent]:
    """The rows of a log (as `read_log` gives it, with `seq`) as events: hashes for values, signals from them."""
    for row in part.iter_rows(named=True):
        traces = hasher.traces(
            device_id=row["device_id"], ip=row["ip"], profile={field: row[field] for field in PROFILE_FIELDS}
        )
        computed = {
            "device_hash": traces.device_hash,
            "address_hash": traces.address_hash,
            "prefix_hash": traces.prefix_hash,
            "profile_hash": traces.profile_hash,
            "serial_block": serial_block(row["platform"], row["serial"]),
        }
        signals = derived_signals(
            fingerprint={field: row[field] for field in FINGERPRINT_FIELDS},
            emulator=row["emulator"],
            ip=row["ip"],
            timezone=row["timezone"],
            language=row["language"],
            country=row["country"],
        ) | {name: row[name] for name in SIGNALS if row[name] is not None}
        yield StoredEvent(
            row["account_id"],
            row["event_time"],
            row["seq"],
            row["event_kind"],
            row["card_id"],
            tuple(row[name] or computed[name] for name in _HASHES),
            row["amount_minor"],
            _known_word(row["tier"], TIERS),
            _known_word(row["reason"], REASONS),
            json.dumps(signals) if signals else None,
            row["outcome"],
        )


def _known_word(text: str | None, words: Sequence[str]) -> str | None:
    """Other sellers have other tiers and reasons: unknown to us."""
    word = (text or "").upper()
    return word if word in words else None


def progress_bars() -> Progress:
    """Bars on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


# --- reading and validating --------------------------------------------------------------------------------------


def read_log(path: Path) -> pl.DataFrame:
    """The log at `path` with all of `COLUMNS`, typed (times aware UTC), and `row`, from 0. Without any `abuse_time`
    each event's follows from its label. Raises `EventLogError`."""
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path).fill_nan(None)
        else:
            frame = pl.read_csv(path, infer_schema=False, null_values=[""])
    except FileNotFoundError:
        raise EventLogError(f"{path}: no such file") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise EventLogError(f"{path}: not a readable event log: {error}") from error
    missing = [name for name in _REQUIRED if name not in frame.columns]
    if missing:
        raise EventLogError(f"{path}: the column {missing[0]} is missing")
    first_line = 1 if path.suffix == ".parquet" else 2
    log = pl.DataFrame(
        {"row": np.arange(frame.height, dtype=np.int64)}
        | {name: _column(path, first_line, name, frame) for name in COLUMNS}
    )
    if log["abuse_time"].null_count() < log.height:
        return log
    known_time = pl.max_horizontal("event_time", pl.coalesce("label_time", pl.col("event_time") + LABEL_DELAY))
    return log.with_columns(abuse_time=pl.when("label").then(known_time))


def _column(path: Path, first_line: int, name: str, frame: pl.DataFrame) -> pl.Series:
    """Column `name` in its own type, or all null where the log lacks it."""
    parsed_type, parse, what = _parser(name)
    if name not in frame.columns:
        return pl.Series(name, [None] * frame.height, dtype=parsed_type)
    given = frame[name].to_list()
    # Values repeat a lot; what was parsed once is looked up.
    known: dict[Any, Any] = {None: None, "": None}
    for line, value in enumerate(given, first_line):
        if value not in known:
            try:
                known[value] = parse(value)
            except (ValueError, TypeError, OverflowError):
                raise EventLogError(f"{path}: line {line}, column {name}: {value!r} is not {what}") from None
        if known[value] is None and name in _REQUIRED:
            raise EventLogError(f"{path}: line {line}, column {name}: a value is required")
    return pl.Series(name, [known[value] for value in given], dtype=parsed_type)


def column_type(name: str) -> pl.DataType | type[pl.DataType]:
    """The type of a log's column; text where the log does not know it."""
    return _parser(name)[0]


def _parser(name: str) -> tuple[pl.DataType | type[pl.DataType], Callable[[Any], Any], str]:
    """The type of column `name`, what makes a value of a cell, and what the cell should have been."""
    if name in _TIMES:
        return pl.Datetime("us", "UTC"), _time, "a time in ISO 8601"
    if name in _FLAGS:
        return pl.Boolean, _flag, "0 or 1"
    if name in _WORDS:
        words = _WORDS[name]
        return pl.String, lambda value: _word(value, words), f"one of {', '.join(words)}"
    if name in _HASHES:
        return pl.Binary, _hash, f"a hash of {HASH_BYTES} bytes, hexadecimal"
    if name in _NUMBERS or name in _COUNTS:
        low, high = _RANGES[name]
        whole = name in _COUNTS
        what = f"a {'whole ' if whole else ''}number from {low:,.0f} to {high:,.0f}"
        return (pl.Int64 if whole else pl.Float64), lambda value: _number(value, low, high, whole=whole), what
    if name == "weight":
        return pl.Float64, _weight, f"a number above 0, at most {WEIGHT_MAX:,.0f}"
    return pl.String, _text, "text without a NUL character"


def _time(value: str | datetime) -> datetime:
    time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    # A time without an offset is UTC.
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


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


def _text(value: object) -> str:
    # A writer with missing cells turns an age of 38 into 38.0.
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if "\x00" in text:
        raise ValueError(text)
    return text
