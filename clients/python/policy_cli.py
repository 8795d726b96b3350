"""`recycling policy ...`: the platforms' rules, made, tried and activated. Knows how arguments become requests; must
not know what is in a policy, nor how answers look."""

import getpass
import json
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from clients.python.client import DEFAULT_TIMEOUT_S, RecyclingClient
from clients.python.options import Command, Connection, command_of, instant

if TYPE_CHECKING:
    from card_recycling.v1.policy_service_pb2 import GetPolicyRequest

app = typer.Typer(no_args_is_help=True, help="Make, try and activate the platforms' rules.")

Platform = Annotated[str, typer.Argument(metavar="PLATFORM", help="The platform.", show_default=False)]
Revision = Annotated[int, typer.Argument(metavar="REVISION", min=1, help="Its number.", show_default=False)]
Document = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The rules, JSON.", show_default=False)
]
Rules: TypeAlias = str
RULES_HELP = "A file; a revision such as iqiyi@3; or a platform, for its revision in force."
Actor = Annotated[str, typer.Option(help="Who does it; your login when left out.", default_factory=getpass.getuser)]
Note = Annotated[str, typer.Option(help="Why.")]
Etag = Annotated[str, typer.Option(help="The platform's etag as you saw it; any when left out.")]

BACKTEST_TIMEOUT_S = 60.0
"""A back-test's, where no other is given."""


def _command(function: Command) -> Command:
    return command_of(app, function)


@_command
async def list_(
    connection: Connection,
    platform: Annotated[str | None, typer.Argument(metavar="PLATFORM", help="Only of this platform.")] = None,
) -> None:
    """List revisions, newest first."""
    async with connection.open() as client:
        connection.show(policies=[policy async for policy in client.policies(platform)])


@_command
async def show(
    rules: Annotated[Rules, typer.Argument(metavar="REVISION", help=RULES_HELP, show_default=False)],
    connection: Connection,
) -> None:
    """Show a revision in full: the one in force, or the one named."""
    async with connection.open() as client:
        connection.show((await client.get_policy(_named(rules))).policy)


@_command
async def create(file: Document, connection: Connection, actor: Actor, note: Note = "", etag: Etag = "") -> None:
    """Keep a file as its platform's next revision, which governs nothing yet."""
    from card_recycling.v1.policy_service_pb2 import CreatePolicyRevisionRequest

    request = CreatePolicyRevisionRequest(document=file.read_text("utf-8"), actor=actor, note=note, etag=etag)
    async with connection.open() as client:
        connection.show((await client.create_policy_revision(request)).policy)


@_command
async def activate(
    platform: Platform,
    revision: Revision,
    connection: Connection,
    actor: Actor,
    at: Annotated[
        datetime | None, typer.Option(metavar="TIME", parser=instant, help="From when on; in 10 seconds if left out.")
    ] = None,
    note: Note = "",
    etag: Etag = "",
) -> None:
    """Let a revision govern from a moment on, a former one too. A money pump is refused, step by step."""
    from card_recycling.v1.policy_service_pb2 import ActivatePolicyRevisionRequest

    request = ActivatePolicyRevisionRequest(platform=platform, revision=revision, actor=actor, note=note, etag=etag)
    if at:
        request.effective_time.FromDatetime(at)
    async with connection.open() as client:
        connection.show((await client.activate_policy_revision(request)).policy)


@_command
async def backtest(
    rules: Annotated[Rules, typer.Argument(metavar="CANDIDATE", help=RULES_HELP, show_default=False)],
    connection: Connection,
    from_time: Annotated[
        datetime | None,
        typer.Option("--from", metavar="TIME", parser=instant, help="Since when; 30 days before --to if left out."),
    ] = None,
    to_time: Annotated[
        datetime | None,
        typer.Option("--to", metavar="TIME", parser=instant, help="Until when, exclusive; now when left out."),
    ] = None,
    rows_max: Annotated[int, typer.Option("--rows", min=1, max=100_000, help="The newest so many decisions.")] = 10_000,
    complaint_days: Annotated[
        int, typer.Option(min=1, max=366, help="Complaints within so many days of a decision count.")
    ] = 14,
    examples: Annotated[int, typer.Option(min=0, max=200, help="Show so many changed decisions.")] = 10,
) -> None:
    """Try a candidate on what was decided before: what would have changed, in decisions, money and complaints."""
    from card_recycling.v1.policy_service_pb2 import BacktestPolicyRequest, PolicyName

    from clients.python import policy_view, views

    request = BacktestPolicyRequest(rows_max=rows_max, complaint_days=complaint_days, examples_max=examples)
    if from_time:
        request.from_time.FromDatetime(from_time)
    if to_time:
        request.to_time.FromDatetime(to_time)
    timeout_s = BACKTEST_TIMEOUT_S if connection.timeout_s == DEFAULT_TIMEOUT_S else connection.timeout_s
    document = _in_file(rules)
    async with connection.open() as client:
        if document is not None:
            request.document = document
        else:
            found = (await client.get_policy(_named(rules))).policy
            request.revision.CopyFrom(PolicyName(platform=found.platform, revision=found.revision))
        report = await client.backtest_policy(request, timeout_s=timeout_s)
    if connection.as_json:
        connection.show(report)
    else:
        views.show_tables(policy_view.report(report))


@_command
async def diff(
    old: Annotated[Rules, typer.Argument(metavar="OLD", help=RULES_HELP, show_default=False)],
    new: Annotated[Rules, typer.Argument(metavar="NEW", help="Likewise.", show_default=False)],
    connection: Connection,
) -> None:
    """Show in what two sets of rules differ, field by field."""
    from clients.python import policy_view, views

    async with connection.open() as client:
        before, after = [json.loads(await _document(client, rules)) for rules in (old, new)]
    changed = policy_view.differences(before, after)
    if connection.as_json:
        typer.echo(json.dumps({path: list(values) for path, values in changed.items()}, ensure_ascii=False))
    else:
        views.show_tables([policy_view.differences_table(old, new, changed)])


async def _document(client: RecyclingClient, rules: Rules) -> str:
    document = _in_file(rules)
    return (await client.get_policy(_named(rules))).policy.document if document is None else document


def _in_file(rules: Rules) -> str | None:
    return Path(rules).read_text("utf-8") if Path(rules).is_file() else None


def _named(rules: Rules) -> "GetPolicyRequest":
    from card_recycling.v1.policy_service_pb2 import GetPolicyRequest

    if (found := re.fullmatch(r"([a-z][a-z0-9_-]{0,31})(?:@([1-9][0-9]{0,8}))?", rules)) is None:
        raise typer.BadParameter(f"{rules} is no file, and names no revision")
    return GetPolicyRequest(platform=found[1], revision=int(found[2]) if found[2] else None)
