"""The program behind `recycling replay-decision`: decides recorded decisions again and shows what came out otherwise.

Exit codes: 0 all came out as recorded, 1 some did not or none was found, 2 used wrongly. Knows options and tables; must
not know how a decision is replayed.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from server.replay.case import Case, CaseInvalid
from server.replay.database import EVER, RecordedDecisions, recorded_decisions
from server.replay.decision import Replay, replay

SHOWN_MAX = 20
"""So many decisions that came out otherwise are shown in full; the rest is counted."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
console, errors = Console(), Console(stderr=True)


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@app.command()
def replay_decision(
    named: Annotated[
        UUID | None,
        typer.Argument(metavar="ID", help="Of a request, a recycling or a review: every decision about it."),
    ] = None,
    database_url: Annotated[
        str, typer.Option("--database-url", metavar="URL", envvar="DATABASE_URL", help="Where it is recorded.")
    ] = "",
    account_id: Annotated[
        str | None, typer.Option("--account", metavar="ACCOUNT", help="Whose it is: then it is found at once.")
    ] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="Every decision on record.")] = False,
    since: Annotated[
        datetime | None, typer.Option(metavar="TIME", parser=_instant, help="With --all: recorded since then.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the decision, with its receipt and policy, instead of replaying it."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, metavar="FILE", help="Replay what --export wrote; needs no database."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a decision.")] = False,
) -> None:
    """Decide recorded decisions again, from their receipts alone, and compare: any difference is an error."""
    if [named is not None, all_of_them, file is not None].count(True) != 1:
        raise typer.BadParameter("exactly one of ID, --all and --file says what to replay")
    if file is not None and export is not None:
        raise typer.BadParameter("a file is exported already", param_hint="--export")
    if all_of_them and export is not None:
        raise typer.BadParameter("name the decision to export by its ID", param_hint="--export")
    try:
        if file is not None:
            good = _show([_outcome(Case.parse(file.read_bytes()))], as_json=as_json)
        elif not database_url:
            raise typer.BadParameter("say where the database is, or replay a --file", param_hint="--database-url")
        elif all_of_them:
            good = asyncio.run(_replay_all(database_url, since or EVER, as_json=as_json))
        elif named is not None:
            cases = asyncio.run(_named_cases(database_url, named, account_id))
            good = _export(cases, export) if export is not None else _show(map(_outcome, cases), as_json=as_json)
            if not cases:
                errors.print(f"no decision of {named} is on record", markup=False)
    except CaseInvalid as error:
        errors.print(f"this is no recorded decision: {error}", markup=False)
        good = False
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        errors.print(f"the decision cannot be read: {error}", markup=False)
        good = False
    raise typer.Exit(0 if good else 1)


async def _named_cases(url: str, named: UUID, account_id: str | None) -> list[Case]:
    async with recorded_decisions(url) as decisions:
        cases = [case async for case in decisions.cases(named, account_id=account_id)]
    return sorted(cases, key=lambda case: (case.create_time, case.request_id))


def _export(cases: list[Case], file: Path) -> bool:
    if len(cases) > 1:
        errors.print("there are several; name the request of one:", markup=False)
        for case in cases:
            errors.print(f"  {case.request_id}  {case.method}  {case.create_time.isoformat()}", markup=False)
    if len(cases) != 1:
        return False
    file.write_bytes(cases[0].document())
    return True


async def _replay_all(url: str, since: datetime, *, as_json: bool) -> bool:
    counts: Counter[str] = Counter()
    bad: list[Replay | tuple[Case, str]] = []
    async with recorded_decisions(url) as decisions:
        async for outcome in _with_progress(decisions, since):
            if isinstance(outcome, Replay):
                counts["replayed"] += 1
                counts["lacking"] += bool(outcome.lacks)
            if not (isinstance(outcome, Replay) and outcome.same):
                counts["different"] += 1
                bad += [outcome] if len(bad) < SHOWN_MAX else []
    _show(bad, as_json=as_json)
    if as_json:
        print(json.dumps(dict(counts) | {"different": counts["different"]}))
    else:
        older = f", {counts['lacking']} with older receipts" if counts["lacking"] else ""
        console.print(f"{counts['replayed']} decisions replayed{older}; {counts['different']} came out otherwise.")
    return not counts["different"]


async def _with_progress(decisions: RecordedDecisions, since: datetime) -> AsyncIterator[Replay | tuple[Case, str]]:
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("", total=await decisions.count(since))
        async for case in decisions.cases(since=since):
            yield _outcome(case)
            progress.advance(task)


def _outcome(case: Case) -> Replay | tuple[Case, str]:
    """The replay, or why there is none."""
    try:
        return replay(case)
    except CaseInvalid as error:
        return case, str(error)


def _show(outcomes: Iterable[Replay | tuple[Case, str]], *, as_json: bool) -> bool:
    """Shows each; says whether there was any, and all came out as recorded."""
    results: list[bool] = []
    for outcome in outcomes:
        if as_json:
            print(json.dumps(_as_json(outcome)))
        elif isinstance(outcome, Replay):
            if results:
                console.print()
            _show_replay(outcome)
        else:
            case, why = outcome
            console.print(f"{case.method} {case.request_id}: cannot be replayed: {why}", markup=False)
        results.append(isinstance(outcome, Replay) and outcome.same)
    return bool(results) and all(results)


def _show_replay(outcome: Replay) -> None:
    case = outcome.case
    verdict = "as recorded" if outcome.same else "NOT AS RECORDED"
    console.print(f"{case.method} {case.request_id} of {case.create_time.isoformat()}: {verdict}", markup=False)
    if outcome.lacks:
        console.print(f"an older receipt, which lacks: {', '.join(outcome.lacks)}", markup=False)
    table = Table("field", "recorded", "recomputed", "")
    for field in outcome.fields:
        table.add_row(
            field.name, _told(field.recorded), _told(field.recomputed), "" if field.same else "differs",
            style="" if field.same else "bold red",
        )  # fmt: skip
    console.print(table, markup=False)


def _told(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def _as_json(outcome: Replay | tuple[Case, str]) -> dict[str, Any]:
    if not isinstance(outcome, Replay):
        return {"request_id": str(outcome[0].request_id), "method": outcome[0].method, "error": outcome[1]}
    fields = {field.name: [field.recorded, field.recomputed] for field in outcome.fields if not field.same}
    return {
        "request_id": str(outcome.case.request_id),
        "method": outcome.case.method,
        "same": outcome.same,
        "lacks": outcome.lacks,
        "different": fields,
    }


def main() -> None:
    """The program. `recycling replay-decision` starts it, and is the name that it goes by."""
    app(prog_name="recycling replay-decision")


if __name__ == "__main__":
    main()
