"""Reads an event log (CSV, CSV.gz or Parquet) into typed events.

Knows the log's columns and how their values are written; must not know what an event makes anybody do. Of the columns
that it reads it takes and refuses the same values as training does (a test compares them); it leaves alone what no
request can tell: hashes, derived signals, when a label became known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl
from buf.validate import validate_pb2
from card_recycling.v1.card_service_pb2 import IssueCardsRequest
from card_recycling.v1.types_pb2 import Behavior, Device, RecycleReason, Tier
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

KINDS = ("ISSUE", "ACTIVATE", "RECYCLE", "AUTO_RECYCLE", "REACTIVATE", "COMPENSATE", "COMPLAINT")

CardKey: TypeAlias = tuple[str, str]
"""The log's card id; where there is none, an empty one and the account."""


class LogError(Exception):
    """The log cannot be read; the message says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of the log, `row` counting from 0. `cells` has the row's known values, parsed, by column.

    `label` is 1 for abuse, 0 for none, None where nobody knows.
    """

    row: int
    time: datetime
    kind: str
    account_id: str
    card: CardKey
    label: int | None
    cells: Mapping[str, Any]

    def device(self) -> Device:
        """What the row says about the device. Of its clock a log tells how far it is off, not which way."""
        device = Device(**{name: self.cells[name] for name in _DEVICE if name in self.cells})
        if "clock_skew_seconds" in self.cells:
            device.clock_time.FromDatetime(self.time + timedelta(seconds=self.cells["clock_skew_seconds"]))
        return device

    def behavior(self) -> Behavior:
        """What the row says about the session."""
        return Behavior(**{name: self.cells[name] for name in _BEHAVIOR if name in self.cells})


def read_events(path: Path, *, limit: int | None = None) -> list[Event]:
    """The events of a log in time order, those of one time in the order of their rows.

    `limit` takes so many rows from the log's beginning. Required columns are event_time (without a zone: UTC),
    event_kind and account_id. Raises LogError.
    """
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise LogError(f"{path}: {error}") from error
    missing = [name for name in ("event_time", "event_kind", "account_id") if name not in frame.columns]
    if missing:
        raise LogError(f"{path}: no column {', '.join(missing)}")
    known = [name for name in COLUMNS if name in frame.columns]
    rows = frame.select(known).head(frame.height if limit is None else limit)
    events = []
    for row, cells in enumerate(rows.iter_rows(named=True)):
        try:
            events.append(_event(row, {name: _parsed(name, cell) for name, cell in cells.items() if _is_known(cell)}))
        except (ValueError, OverflowError) as error:
            raise LogError(f"{path}: row {row}: {error}") from error
    return sorted(events, key=lambda event: event.time)


def _event(row: int, cells: dict[str, Any]) -> Event:
    for required in ("event_time", "event_kind", "account_id"):
        if required not in cells:
            raise ValueError(f"no {required}")
    if cells["event_kind"] not in KINDS:
        raise ValueError(f"the event_kind {cells['event_kind']} is none of {', '.join(KINDS)}")
    account_id, card_id = cells["account_id"], cells.get("card_id", "")
    return Event(
        row=row,
        time=cells["event_time"],
        kind=cells["event_kind"],
        account_id=account_id,
        card=(card_id, "" if card_id else account_id),
        label=cells.get("label"),
        cells=cells,
    )


def _is_known(cell: object) -> bool:
    return cell is not None and cell != "" and cell == cell  # NaN does not equal itself


def _parsed(name: str, cell: object) -> Any:
    try:
        return COLUMNS[name](cell)
    except ValueError as error:
        raise ValueError(f"column {name}: {error}") from error


def _instant(cell: object) -> datetime:
    instant = cell if isinstance(cell, datetime) else datetime.fromisoformat(str(cell))
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _integer(cell: object) -> int:
    number = float(str(cell))
    if not number.is_integer():
        raise ValueError(f"{cell} is not a whole number")
    return int(number)


def _number(cell: object) -> float:
    return float(str(cell))


def _within(lowest: float, highest: float, parse: Callable[[object], float]) -> Callable[[object], float]:
    def parsed(cell: object) -> float:
        number = float(str(cell))
        if not lowest <= number <= highest:  # nor is what is no number
            raise ValueError(f"{cell} is out of range")
        return parse(cell)

    return parsed


def _flag(cell: object) -> bool:
    text = str(cell).strip().lower().removesuffix(".0")
    if text in ("1", "true", "t", "yes"):
        return True
    if text in ("0", "false", "f", "no"):
        return False
    raise ValueError(f"{cell} is neither true nor false")


def _label(cell: object) -> int:
    return int(_flag(cell))


def _address(cell: object) -> str:
    text = _text(cell)
    try:
        return str(ip_address(text))
    except ValueError:  # unreadable is unknown
        return ""


def _tier(cell: object) -> Tier.ValueType:
    return Tier.Value(f"TIER_{_word(cell, Tier.keys(), 'TIER_')}")


def _reason(cell: object) -> RecycleReason.ValueType:
    return RecycleReason.Value(f"RECYCLE_REASON_{_word(cell, RecycleReason.keys(), 'RECYCLE_REASON_')}")


def _word(cell: object, names: Sequence[str], prefix: str) -> str:
    """Other sellers have other tiers and reasons: unknown to us."""
    word = _text(cell).upper()
    return word if prefix + word in names else "UNSPECIFIED"


def _age(cell: object) -> int:
    text = _text(cell)
    try:
        return _integer(text)
    except (ValueError, OverflowError):  # a log may tell it in other ways; only whole years make a segment
        return 0


def _text(cell: object) -> str:
    text = str(cell)
    if "\x00" in text:
        raise ValueError("text must not hold a NUL character")
    return text


def _fields(message: type[Message]) -> dict[str, Callable[[object], Any]]:
    """The columns that are named like a message's fields, within the bounds that the contract gives them."""
    parsers: dict[int, Callable[[object], Any]] = {
        FieldDescriptor.CPPTYPE_STRING: _text,
        FieldDescriptor.CPPTYPE_BOOL: _flag,
        FieldDescriptor.CPPTYPE_INT32: _integer,
        FieldDescriptor.CPPTYPE_INT64: _integer,
        FieldDescriptor.CPPTYPE_DOUBLE: _number,
    }
    found = {}
    for field in message.DESCRIPTOR.fields:
        if field.cpp_type not in parsers:
            continue
        parse = parsers[field.cpp_type]
        if field.cpp_type in _RULES:
            rules = getattr(field.GetOptions().Extensions[validate_pb2.field], _RULES[field.cpp_type])
            parse = _within(rules.gte, rules.lte, parse)
        found[field.name] = parse
    return found


_RULES = {
    FieldDescriptor.CPPTYPE_INT32: "int32",
    FieldDescriptor.CPPTYPE_INT64: "int64",
    FieldDescriptor.CPPTYPE_DOUBLE: "double",
}
"""Where the contract keeps the bounds of a number's type."""

CLOCK_SKEW_SECONDS_MAX = 3_153_600_000.0

_ITEM = _fields(IssueCardsRequest.Item)
_DEVICE = {**_fields(Device), "ip": _address}
_BEHAVIOR = _fields(Behavior)
COLUMNS: dict[str, Callable[[object], Any]] = {
    "event_time": _instant,
    "event_kind": str,
    "account_id": _text,
    "card_id": _text,
    "platform": _text,
    "tier": _tier,
    "reason": _reason,
    "amount_minor": _ITEM["paid_minor"],
    "currency": _text,
    "duration_days": _ITEM["duration_days"],
    "serial": _text,
    "age": _age,
    "label": _label,
    "clock_skew_seconds": _within(0.0, CLOCK_SKEW_SECONDS_MAX, _number),
    **_DEVICE,
    **_BEHAVIOR,
}
"""How each column's cells are parsed; any other column is passed over."""
