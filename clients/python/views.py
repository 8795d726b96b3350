"""How the ops tool prints: JSON for programs, tables for people. Knows messages and reports; must not make calls."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from card_recycling.v1.card_service_pb2 import Event

    from migrations.invariants import InvariantResult

WIDTH_WITHOUT_TERMINAL = 240  # unless COLUMNS says another

# What a list shows of each record; one record alone is shown in full.
COLUMNS = {
    "Card": ("card_id", "platform", "tier", "state", "paid_minor", "currency", "expire_time", "generation"),
    "Posting": ("create_time", "kind", "platform", "unit", "amount", "request_id"),
    "Offer": (
        "platform",
        "offer_id",
        "partner",
        "title",
        "unit",
        "price",
        "benefit.kind",
        "benefit.value_minor",
        "affordable",
    ),
    "ExchangeRate": ("platform", "unit", "to_platform", "to_unit", "give", "get", "spread_basis_points", "amount_max"),
    "Recycling": (
        "recycling_id",
        "card_id",
        "reason",
        "state",
        "disposition",
        "fee_minor",
        "compensation.amount",
        "compensation.unit",
        "compensation.state",
        "decision.risk_score",
        "create_time",
    ),
    "ListEntry": (
        "entry_id",
        "list",
        "subject_kind",
        "subject",
        "actor",
        "reason",
        "create_time",
        "end_time",
        "ended_by",
        "end_reason",
    ),
    "PolicyRevision": ("platform", "revision", "state", "effective_time", "create_time", "actor", "note", "etag"),
    "Review": (
        "review_id",
        "kind",
        "state",
        "account_id",
        "platform",
        "risk_score",
        "risk_band",
        "create_time",
        "hold_until",
        "claimed_by",
    ),
    "Signal": ("feature", "value", "contribution", "sentence"),
    "SimilarCase": ("shared", "recycling.account_id", "recycling.state", "recycling.create_time"),
    "AccountRequest": ("event_time", "kind", "outcome", "same_device", "card_id"),
}


def show(what: Message | Mapping[str, Message | Sequence[Message]], *, as_json: bool) -> None:
    """Prints one message, or several under names."""
    named = {what.DESCRIPTOR.name: what} if isinstance(what, Message) else what
    if as_json:
        _print_json(_plain(what) if isinstance(what, Message) else {name: _plain(part) for name, part in named.items()})
        return
    for name, part in named.items():
        if isinstance(part, Message):
            _console().print(_record(name, part))
        else:
            console = _console()
            console.print(_records(name, part, console) if part else f"{name}: none")


def show_tables(tables: Iterable[RenderableType]) -> None:
    """Prints what is laid out already."""
    console = _console()
    for table in tables:
        console.print(table)


def show_report(report: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints the report of a replay."""
    if as_json:
        _print_json(report)
        return
    console = _console()
    console.print(_rows("outcomes", report["outcomes"]))
    console.print(_rows("judged upon risk, by label", report["by_label"]))
    quality = ("labelled", "positives", "refused", "precision", "recall", "false_positive_rate", "roc_auc", "pr_auc")
    overall = {"month": "all", **{name: report[name] for name in quality}}
    console.print(_rows("refusals against labels", [*report["by_month"], overall]))
    console.print(f"{report['events']} events in {report['seconds']:.1f} s, {report['events_per_second']} a second")
    if report["not_driven"]:
        console.print(f"{report['not_driven']} events were not answered; the last: {report['last_failure']}")


def show_results(results: Sequence[InvariantResult], *, as_json: bool) -> None:
    """Prints how each invariant fared, one line each, with sample rows of those violated."""
    if as_json:
        _print_json(
            [
                {
                    "number": result.number,
                    "name": result.name,
                    "meaning": result.meaning,
                    "violations": result.violations,
                    "samples": result.samples,
                }
                for result in results
            ]
        )
        return
    for result in results:
        verdict = "OK" if result.holds else f"VIOLATED {result.violations}"
        sys.stdout.write(f"{result.number:>2}  {result.name:<28} {verdict:<12} {result.meaning}\n")
        for sample in result.samples:
            sys.stdout.write(f"      {' '.join(f'{column}={value}' for column, value in sample.items())}\n")


_EVENT_LINE = "{time:<27} {kind:<12} {platform:<10} {account_id:<24} {card_id:<36} {change}"


def event_lines(*, as_json: bool) -> Callable[[Event], None]:
    """Gives a function that prints an event at once: as a line of JSON, or of a table, whose head is printed now."""

    def show_json(event: Event) -> None:
        sys.stdout.write(json.dumps(_plain(event), ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def show_line(event: Event) -> None:
        texts = {"card_id": "", "platform": ""} | dict(_flat(event))
        changed = (texts.get(f"card.{name}") or texts.get(f"value.{name}") for name in ("state", "amount", "unit"))
        line = _EVENT_LINE.format(**texts, change=" ".join(text for text in changed if text))
        sys.stdout.write(line.rstrip() + "\n")
        sys.stdout.flush()

    if as_json:
        return show_json
    head = {name: name for name in ("time", "kind", "platform", "account_id", "card_id", "change")}
    sys.stdout.write(_EVENT_LINE.format(**head) + "\n")
    sys.stdout.flush()
    return show_line


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """Progress on standard error while it lasts: a bar on a terminal, elsewhere a line each tenth. Gives a function to
    call with the number of events done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _tenths(total)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}/s"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("replay", total=total, rate="-")

        def on_progress(done: int) -> None:
            elapsed_s = bar.tasks[task].elapsed or 0.0
            bar.update(task, completed=done, rate=f"{done / elapsed_s:.0f}" if elapsed_s else "-")

        yield on_progress


def _tenths(total: int) -> Callable[[int], None]:
    told = 0

    def on_progress(done: int) -> None:
        nonlocal told
        if (tenths := done * 10 // total) > told:
            told = tenths
            sys.stderr.write(f"{done} of {total} events\n")
            sys.stderr.flush()

    return on_progress


def _console() -> Console:
    is_told = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(width=None if is_told else WIDTH_WITHOUT_TERMINAL, highlight=False)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _plain(part: Message | Sequence[Message]) -> object:
    if isinstance(part, Message):
        return MessageToDict(part, preserving_proto_field_name=True)
    return [_plain(each) for each in part]


def _record(name: str, message: Message) -> Table:
    """One message in full, a line for each field that is set."""
    table = Table("field", "value", title=name, title_justify="left")
    for path, text in _flat(message):
        table.add_row(path, text)
    return table


def _records(name: str, messages: Sequence[Message], console: Console) -> Table:
    """Some columns of messages of one kind; where a row would not fit, a block of lines for each."""
    title = f"{name} ({len(messages)})"
    table = Table(title=title, title_justify="left")
    columns = COLUMNS[messages[0].DESCRIPTOR.name]
    for column in columns:
        table.add_column(column.replace(".", "\n"), no_wrap=column.endswith("_id"), overflow="fold")
    for message in messages:
        texts = dict(_flat(message))
        table.add_row(*(texts.get(column, "") for column in columns))
    # The least width in which no word is broken.
    if console.measure(table, options=console.options.update(max_width=1000)).minimum <= console.width:
        return table
    blocks = Table("field", "value", title=title, title_justify="left")
    for message in messages:
        texts = dict(_flat(message))
        for column in columns:
            if column in texts:
                blocks.add_row(column, texts[column])
        blocks.add_section()
    return blocks


def _rows(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in rows[0] if rows else ():
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            *(f"{cell:.4f}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row.values())
        )
    return table


def _flat(message: Message, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The set fields of a message as (dotted path, text)."""
    for field, value in message.ListFields():
        path = prefix + field.name
        if not field.is_repeated and isinstance(value, Message) and not isinstance(value, Timestamp):
            yield from _flat(value, f"{path}.")
        elif field.is_repeated:
            yield path, "\n".join(_text(field, each) for each in value)
        else:
            yield path, _text(field, value)


def _text(field: FieldDescriptor, value: Any) -> str:
    if field.enum_type is not None:
        name = field.enum_type.values_by_number[value].name
        return str(name).removeprefix(field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED"))
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return "  ".join(f"{path}={text}" for path, text in _flat(value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)
