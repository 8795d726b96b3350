"""Back-tests and differences of policies as tables. Knows reports and documents; must not make calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from card_recycling.v1 import policy_service_pb2 as pb
    from rich.console import RenderableType

_MISSING = object()

_NAMING = ("disposition", "offer_id", "counter", "action", "unit", "to_platform", "to_unit")
"""What tells one entry of a list from the others, where it has any: so that a new one moves no other."""


def report(found: pb.BacktestPolicyResponse) -> Iterator[RenderableType]:
    """What there is to print of a back-test, from top to bottom."""
    yield _summary(found)
    if found.pumpable:
        yield _pump(found)
    if found.moves:
        yield _moves(found)
        yield _money(found)
        yield _complaints(found)
        yield _rates(found)
    if found.examples:
        yield _examples(found)


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """The fields in which two documents differ, by their path, with both values; None where one has none."""
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    paths = {**before, **after}
    return {
        path: (before.get(path), after.get(path))
        for path in paths
        if before.get(path, _MISSING) != after.get(path, _MISSING)
    }


def differences_table(old: str, new: str, changed: Mapping[str, tuple[Any, Any]]) -> Table:
    """The same as a table."""
    table = _table("no difference" if not changed else "differences", "field", old, new)
    for path, (before, after) in changed.items():
        _add(
            table, path, *("-" if value is None else json.dumps(value, ensure_ascii=False) for value in (before, after))
        )
    return table


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case dict() if value:
            for key, part in value.items():
                yield from _leaves(f"{path}.{key}" if path else key, part)
        case list() if any(isinstance(part, dict) for part in value):
            for position, part in enumerate(value):
                known = [key for key in _NAMING if key in part] if isinstance(part, dict) else []
                name = " ".join(str(part[key]) for key in known) or str(position)
                rest = {key: left for key, left in part.items() if key not in known} if known else part
                yield from _leaves(f"{path}[{name}]", rest)
        case _:
            yield path, value


def _summary(found: pb.BacktestPolicyResponse) -> Table:
    from card_recycling.v1.policy_service_pb2 import BacktestChange, BacktestEnd, BacktestSkip

    ends = {
        "WINDOW": "the whole window",
        "ROWS": "as many as asked for",
        "DEADLINE": "as many as the time was enough for",
    }
    end = _name(BacktestEnd, found.end, "BACKTEST_END_")
    name = f"{found.platform}@{found.revision}" if found.revision else f"a document for {found.platform}"
    table = _table(f"Back-test of {name}", "figure", "value")
    _add(table, "from", found.from_time.ToJsonString())
    _add(table, "to", found.to_time.ToJsonString())
    _add(table, "decided again", f"{found.replayed}: {ends.get(end, end)}")
    if found.HasField("oldest_time"):
        _add(table, "the oldest", found.oldest_time.ToJsonString())
    for skipped in found.skipped:
        _add(
            table, "left out", Text(f"{skipped.decisions} {_name(BacktestSkip, skipped.why, 'BACKTEST_SKIP_')}", "red")
        )
    share = f" ({found.changed / found.replayed:.1%})" if found.replayed else ""
    _add(table, "changed", Text(f"{found.changed}{share}", "yellow" if found.changed else "green"))
    for changed in found.changes:
        _add(table, f"  {_name(BacktestChange, changed.change, 'BACKTEST_CHANGE_').lower()}", str(changed.decisions))
    for refusal in found.refusals:
        _add(table, "refused by a rule", f"{refusal.decisions} {refusal.reason}")
    verdict = Text("POLICY_PUMPABLE", "bold red") if found.pumpable else Text("no money pump", "green")
    _add(table, "activation", Text.assemble(verdict, f", with {', '.join(found.checked_with)}"))
    return table


def _pump(found: pb.BacktestPolicyResponse) -> Table:
    """Step by step."""
    gain = f"1 becomes {found.pump_yield:.6g}" if found.HasField("pump_yield") else "without end"
    table = _table(f"There would be a way to gain: {gain}", "step", "what is done")
    for number, step in enumerate(found.pump_steps, 1):
        _add(table, str(number), step)
    return table


def _moves(found: pb.BacktestPolicyResponse) -> Table:
    """Recorded classes down, the candidate's across."""
    across = sorted({move.candidate for move in found.moves})
    table = _table("decisions", "recorded / candidate", *map(_class, across), right=True)
    for down in sorted({move.recorded for move in found.moves}):
        numbers = {move.candidate: move.decisions for move in found.moves if move.recorded == down}
        _add(table, _class(down), *(Text(str(numbers.get(to, "")), "" if to == down else "yellow") for to in across))
    return table


def _money(found: pb.BacktestPolicyResponse) -> Table:
    from card_recycling.v1.types_pb2 import Unit

    table = _table("money by segment and tier", "segment", "tier", "decisions", "changed", "what", "recorded",
                   "candidate", "difference", right=True)  # fmt: skip
    for group in (*found.groups, found.total):
        rows = [("fees", group.recorded.fee_minor, group.candidate.fee_minor)]
        units = {money.unit for side in (group.recorded, group.candidate) for money in side.money}
        for unit in sorted(units):
            old, new = (_amounts(side, unit) for side in (group.recorded, group.candidate))
            name = _name(Unit, unit, "UNIT_")
            rows += [(name, old[0], new[0])] if old[0] or new[0] else []
            rows += [(f"{name}, held", old[1], new[1])] if old[1] or new[1] else []
        head = (*_whose(group), str(group.decisions), str(group.changed))
        for position, (what, before, after) in enumerate(rows):
            moved = Text(f"{after - before:+,}", "yellow") if after != before else Text("0")
            _add(table, *(head if position == 0 else ("", "", "", "")), what, f"{before:,}", f"{after:,}", moved)
        table.add_section()
    return table


def _complaints(found: pb.BacktestPolicyResponse) -> Table:
    table = _table("complaints", "segment", "tier", "on record", "expected", "expected of candidate", "from", "to",
                   "unknown", right=True)  # fmt: skip
    for group in (*found.groups, found.total):
        old, new = group.recorded.complaints, group.candidate.complaints
        _add(table,
            *_whose(group), str(group.complaints), f"{old.value:.1f}", f"{new.value:.1f}", f"{new.low:.1f}",
            f"{new.high:.1f}", f"{new.unknown_decisions} decisions" if new.unknown_decisions else "",
        )  # fmt: skip
    return table


def _rates(found: pb.BacktestPolicyResponse) -> Table:
    table = _table(
        "complaint rates on record", "class", "segment", "decisions", "complaints", "rate", "from", "to", right=True
    )
    for rate in found.complaint_rates:
        told = ("too few", "", "")
        if rate.HasField("rate"):
            told = (f"{rate.rate:.2%}", f"{rate.low:.2%}", f"{rate.high:.2%}")
        _add(
            table,
            _class(rate.decision_class),
            _segment(rate.segment) or "all",
            str(rate.decisions),
            str(rate.complaints),
            *told,
        )
    return table


def _examples(found: pb.BacktestPolicyResponse) -> Table:
    from card_recycling.v1.policy_service_pb2 import BacktestChange

    table = _table("the largest changes", "recycling", "account", "segment", "changed", "recorded", "candidate")
    table.columns[0].no_wrap, table.columns[0].min_width = True, 36
    for example in found.examples:
        changes = [_name(BacktestChange, change, "BACKTEST_CHANGE_").lower() for change in example.changes]
        _add(table,
            example.recycling_id, example.account_id, _segment(example.segment), ", ".join(changes),
            _decision(example.recorded), _decision(example.candidate),
        )  # fmt: skip
    return table


def _decision(decision: pb.BacktestDecision) -> str:
    from card_recycling.v1.types_pb2 import Disposition, Unit

    words = [_class(decision.decision_class)]
    if decision.refusal:
        words.append(decision.refusal)
    elif words == ["HELD"]:
        words.append(_name(Disposition, decision.disposition, "DISPOSITION_"))
    if decision.unit:
        words.append(f"{decision.amount:,} {_name(Unit, decision.unit, 'UNIT_')}")
    if decision.fee_minor:
        words.append(f"fee {decision.fee_minor:,}")
    if decision.settled_at_once:
        words.append("at once")
    return ", ".join(words)


def _amounts(side: pb.BacktestSide, unit: int) -> tuple[int, int]:
    return next(((money.amount, money.held_amount) for money in side.money if money.unit == unit), (0, 0))


def _whose(group: pb.BacktestGroup) -> tuple[str, str]:
    from card_recycling.v1.types_pb2 import Tier

    return (_segment(group.segment) or "none", _name(Tier, group.tier, "TIER_")) if group.tier else ("all", "all")


def _segment(number: int) -> str:
    from card_recycling.v1.types_pb2 import Segment

    return _name(Segment, number, "SEGMENT_") if number else ""


def _class(number: int) -> str:
    from card_recycling.v1.policy_service_pb2 import DecisionClass

    return _name(DecisionClass, number, "DECISION_CLASS_")


def _name(enum: Any, number: int, prefix: str) -> str:
    name: Callable[[int], str] = enum.Name
    return name(number).removeprefix(prefix)


def _add(table: Table, *cells: str | Text) -> None:
    """A row, in which brackets are brackets."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _table(title: str, *columns: str, right: bool = False) -> Table:
    table = Table(title=title, title_justify="left")
    words = ("segment", "tier", "what", "class")
    for position, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if right and position and column not in words else "left")
    return table
