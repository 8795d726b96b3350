"""The ops tool `recycling`: one command an RPC, the replay of event logs, and the checks of a database: what must
always hold in it, and its decisions by their receipts.

Knows how to turn arguments into requests. Exit codes: 0 done (a refusal for risk is an answer, too), 1 failed or
violated, 2 used wrongly. The lists' commands stand in `list_commands`, how answers look in `views`; must not know the
service's rules. Heavy imports happen in the command that needs them.
"""

import contextlib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from clients.python import list_commands, policy_cli, review_cli, wallet_commands
from clients.python.card_terms import DEFAULT_TERMS, CardTerms
from clients.python.errors import RecyclingError
from clients.python.options import Circumstances, Command, Connection, command_of, instant

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.add_typer(review_cli.app, name="review")

app.add_typer(list_commands.app, name="list")
app.add_typer(policy_cli.app, name="policy")

Reason: TypeAlias = Literal["EXPIRED", "VOLUNTARY", "SYSTEM_ANOMALY"]
UnitName: TypeAlias = Literal["COIN", "GROWTH_POINT", "COUPON"]
AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.", show_default=False)]
CardId = Annotated[str, typer.Argument(metavar="CARD", help="The card's id.", show_default=False)]
RecyclingId = Annotated[str, typer.Argument(metavar="RECYCLING", help="The recycling's id.", show_default=False)]
RequestId = Annotated[str, typer.Option(help="UUID of the request, to repeat it safely; a new one when left out.")]
ValidateOnly = Annotated[bool, typer.Option("--validate-only", help="Do everything but the transfer.")]
PayoutId = Annotated[str, typer.Option("--payout", help="Where value finally goes: an account, a wallet.")]
Wanted = Annotated[UnitName | None, typer.Option(help="The unit wanted, where the policy leaves a choice.")]


wallet_commands.add_to(app)


def main() -> None:
    """The program `recycling`."""
    app()


def _command(function: Command) -> Command:
    return command_of(app, function)


@app.callback()
def _defaults(
    context: typer.Context,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", envvar="RECYCLING_ADDRESS", help="Where the service listens.")
    ] = Connection.address,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="For each call.")
    ] = Connection.timeout_s,
) -> None:
    """Card Recycling: issue cards, take them back, look after them. The options here may also follow the command."""
    defaults = {"address": address, "timeout_s": timeout_s}
    context.default_map = {
        **{str(command.name): defaults for command in app.registered_commands},
        **{
            group: {str(command.name): defaults for command in commands.app.registered_commands}
            for group, commands in (("list", list_commands), ("policy", policy_cli), ("review", review_cli))
        },
    }


@_command
async def issue(
    account_id: AccountId,
    connection: Connection,
    platform: Annotated[str, typer.Option(help="The platform, whose policy holds.")] = DEFAULT_TERMS.platform,
    tier: Annotated[Literal["BASIC", "PREMIUM"], typer.Option(help="The membership's tier.")] = "BASIC",
    segment: Annotated[
        Literal["YOUNG", "MIDDLE", "SENIOR"] | None,
        typer.Option(help="The account's segment; it keeps the one it has."),
    ] = None,
    paid_minor: Annotated[int, typer.Option(help="What was paid, minor units.")] = DEFAULT_TERMS.paid_minor,
    face_value_minor: Annotated[
        int | None, typer.Option(help="Price on the card; what was paid when left out.")
    ] = None,
    currency: Annotated[str, typer.Option(help="ISO 4217 code; the platform's.")] = DEFAULT_TERMS.currency,
    duration_days: Annotated[int, typer.Option(help="Days of service.")] = 30,
    serial: Annotated[str | None, typer.Option(help="The seller's serial number, once per platform.")] = None,
    activate_by: Annotated[
        datetime | None, typer.Option(metavar="TIME", parser=instant, help="Until when it may be activated.")
    ] = None,
    request_id: RequestId = "",
) -> None:
    """Issue a card to an account."""
    from card_recycling.v1.card_service_pb2 import IssueCardsRequest
    from card_recycling.v1.types_pb2 import Segment, Tier

    item = IssueCardsRequest.Item(
        request_id=request_id,
        account_id=account_id,
        platform=platform,
        tier=Tier.Value(f"TIER_{tier}"),
        segment=Segment.Value(f"SEGMENT_{segment or 'UNSPECIFIED'}"),
        face_value_minor=paid_minor if face_value_minor is None else face_value_minor,
        paid_minor=paid_minor,
        currency=currency,
        duration_days=duration_days,
        external_serial=serial,
    )
    if activate_by:
        item.activate_by_time.FromDatetime(activate_by)
    async with connection.open() as client:
        (result,) = (await client.issue_cards(IssueCardsRequest(items=[item]))).results
    if result.HasField("status"):
        raise RecyclingError.from_status(result.status)
    connection.show(result.card)


@_command
async def activate(
    account_id: AccountId,
    card_id: CardId,
    connection: Connection,
    circumstances: Circumstances,
    request_id: RequestId = "",
) -> None:
    """Start a card's validity."""
    from card_recycling.v1.card_service_pb2 import ActivateCardRequest

    request = ActivateCardRequest(
        request_id=request_id, account_id=account_id, card_id=card_id, **circumstances.messages()
    )
    async with connection.open() as client:
        connection.show((await client.activate_card(request)).card)


@_command
async def bind(
    account_id: AccountId,
    card_id: CardId,
    connection: Connection,
    circumstances: Circumstances,
    request_id: RequestId = "",
) -> None:
    """Bind the device to a card."""
    from card_recycling.v1.card_service_pb2 import BindDeviceRequest

    request = BindDeviceRequest(
        request_id=request_id, account_id=account_id, card_id=card_id, **circumstances.messages()
    )
    async with connection.open() as client:
        connection.show((await client.bind_device(request)).card)


@_command
async def quote(
    account_id: AccountId,
    card_id: CardId,
    connection: Connection,
    circumstances: Circumstances,
    reason: Annotated[Reason, typer.Option(help="Why the card comes back.")] = "VOLUNTARY",
    unit: Wanted = None,
    payout_id: PayoutId = "",
) -> None:
    """Ask what taking a card back would give, and hold the terms for up to five minutes."""
    from card_recycling.v1.recycling_service_pb2 import QuoteRecycleRequest
    from card_recycling.v1.types_pb2 import RecycleReason, Unit

    request = QuoteRecycleRequest(
        account_id=account_id,
        card_id=card_id,
        reason=RecycleReason.Value(f"RECYCLE_REASON_{reason}"),
        compensation_unit=Unit.Value(f"UNIT_{unit or 'UNSPECIFIED'}"),
        payout_id=payout_id or None,
        **circumstances.messages(),
    )
    async with connection.open() as client:
        connection.show(await client.quote_recycle(request))


@_command
async def recycle(
    account_id: AccountId,
    card_id: CardId,
    connection: Connection,
    circumstances: Circumstances,
    reason: Annotated[Reason, typer.Option(help="Why the card comes back.")] = "VOLUNTARY",
    unit: Wanted = None,
    quote_token: Annotated[str, typer.Option(help="Token of a quote whose terms must still hold.")] = "",
    validate_only: ValidateOnly = False,
    payout_id: PayoutId = "",
    request_id: RequestId = "",
) -> None:
    """Take a card back."""
    from card_recycling.v1.recycling_service_pb2 import RecycleRequest
    from card_recycling.v1.types_pb2 import RecycleReason, Unit

    request = RecycleRequest(
        request_id=request_id,
        account_id=account_id,
        card_id=card_id,
        reason=RecycleReason.Value(f"RECYCLE_REASON_{reason}"),
        compensation_unit=Unit.Value(f"UNIT_{unit or 'UNSPECIFIED'}"),
        quote_token=quote_token,
        validate_only=validate_only,
        payout_id=payout_id or None,
        **circumstances.messages(),
    )
    async with connection.open() as client:
        connection.show((await client.recycle(request)).recycling)


@_command
async def reactivate(
    account_id: AccountId,
    recycling_id: RecyclingId,
    connection: Connection,
    circumstances: Circumstances,
    validate_only: ValidateOnly = False,
    payout_id: PayoutId = "",
    request_id: RequestId = "",
) -> None:
    """Give the card of a recycling back."""
    from card_recycling.v1.recycling_service_pb2 import ReactivateRequest

    request = ReactivateRequest(
        request_id=request_id,
        account_id=account_id,
        recycling_id=recycling_id,
        validate_only=validate_only,
        payout_id=payout_id or None,
        **circumstances.messages(),
    )
    async with connection.open() as client:
        connection.show(await client.reactivate(request))


@_command
async def compensate(
    account_id: AccountId,
    recycling_id: RecyclingId,
    connection: Connection,
    validate_only: ValidateOnly = False,
    payout_id: PayoutId = "",
    request_id: RequestId = "",
) -> None:
    """Settle what a recycling owes into the wallet."""
    from card_recycling.v1.recycling_service_pb2 import CompensateRequest

    request = CompensateRequest(
        request_id=request_id,
        account_id=account_id,
        recycling_id=recycling_id,
        validate_only=validate_only,
        payout_id=payout_id or None,
    )
    async with connection.open() as client:
        connection.show(await client.compensate(request))


@_command
async def outcome(
    recycling_id: RecyclingId,
    connection: Connection,
    kind: Annotated[
        Literal["COMPLAINT", "CONVERSION", "CHARGEBACK", "CONFIRMED_FRAUD", "CONFIRMED_GENUINE"],
        typer.Option(help="What became of it.", show_default=False),
    ],
    time: Annotated[
        datetime | None,
        typer.Option(
            "--time",
            metavar="TIME",
            parser=instant,
            help="When it happened; now, by the service's clock, when left out.",
        ),
    ] = None,
    account_id: Annotated[str, typer.Option("--account", metavar="ACCOUNT", help="Whose recycling it is.")] = "",
) -> None:
    """Tell what became of a recycling: models are trained and judged upon it. Moves no value."""
    from card_recycling.v1.recycling_service_pb2 import OutcomeKind, RecordOutcomeRequest

    request = RecordOutcomeRequest(
        account_id=account_id or None, recycling_id=recycling_id, kind=OutcomeKind.Value(f"OUTCOME_KIND_{kind}")
    )
    if time:
        request.time.FromDatetime(time)
    async with connection.open() as client:
        connection.show((await client.record_outcome(request)).outcome)


@_command
async def show(
    account_id: AccountId,
    connection: Connection,
    card_id: Annotated[str, typer.Option("--card", metavar="CARD", help="Only this card.")] = "",
    recycling_id: Annotated[str, typer.Option("--recycling", metavar="RECYCLING", help="Only this recycling.")] = "",
) -> None:
    """Show an account's cards, recyclings and wallet, or one card or recycling in full."""
    from card_recycling.v1.card_service_pb2 import GetCardRequest
    from card_recycling.v1.recycling_service_pb2 import GetRecyclingRequest
    from card_recycling.v1.wallet_service_pb2 import GetWalletRequest

    async with connection.open() as client:
        if card_id:
            card = await client.get_card(GetCardRequest(account_id=account_id, card_id=card_id))
            connection.show(card.card)
        if recycling_id:
            found = await client.get_recycling(GetRecyclingRequest(account_id=account_id, recycling_id=recycling_id))
            connection.show(found.recycling)
        if not card_id and not recycling_id:
            connection.show(
                cards=[card async for card in client.cards(account_id)],
                recyclings=[recycling async for recycling in client.recyclings(account_id)],
                wallet=(await client.get_wallet(GetWalletRequest(account_id=account_id))).wallet,
            )


@_command
async def watch(
    connection: Connection,
    platform: Annotated[str, typer.Option(help="Only of this platform.")] = "",
    account_id: Annotated[str, typer.Option("--account", metavar="ACCOUNT", help="Only of this account.")] = "",
    card_id: Annotated[str, typer.Option("--card", metavar="CARD", help="Only of this card of the account.")] = "",
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="Only such events, e.g. RECYCLED; may be repeated."),
    ] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Begin with the first event ever.")] = False,
    resume_token: Annotated[
        str, typer.Option("--resume", metavar="TOKEN", help="Go on after this event's token.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
) -> None:
    """Follow what happens to cards and wallets; with --json a line an event, each with its token. Ends by Ctrl-C."""
    from card_recycling.v1.card_service_pb2 import WATCH_START_BEGINNING, WATCH_START_UNSPECIFIED, WatchEventsRequest

    from clients.python import views

    request = WatchEventsRequest(
        platform=platform,
        account_id=account_id,
        card_id=card_id,
        kinds=kinds,
        resume_token=resume_token,
        start=WATCH_START_BEGINNING if from_beginning else WATCH_START_UNSPECIFIED,
    )
    show_event = views.event_lines(as_json=connection.as_json)
    async with connection.open() as client:
        events = client.watch_events(request, give_up_s=connection.timeout_s, backtest_time=connection.backtest_time)
        async with contextlib.aclosing(events) as following:
            left = limit
            async for event in following:
                show_event(event)
                if left is not None:
                    left -= 1
                    if left == 0:
                        return


@_command
async def model_health(
    connection: Connection,
    from_time: Annotated[
        datetime | None,
        typer.Option(
            "--from", metavar="TIME", parser=instant, help="Since when; seven days before --to when left out."
        ),
    ] = None,
    to_time: Annotated[
        datetime | None,
        typer.Option("--to", metavar="TIME", parser=instant, help="Until when, exclusive; now when left out."),
    ] = None,
    platform: Annotated[str, typer.Option(help="Only this platform's decisions.")] = "",
    mature_days: Annotated[
        int, typer.Option(min=0, max=366, help="After how many days of silence an approved request counts as honest.")
    ] = 30,
) -> None:
    """Show how the fraud models fare: drift, calibration, and challengers beside them."""
    from card_recycling.v1.insights_service_pb2 import GetModelHealthRequest

    from clients.python import health_view, views

    request = GetModelHealthRequest(platform=platform or None, mature_days=mature_days)
    if from_time:
        request.from_time.FromDatetime(from_time)
    if to_time:
        request.to_time.FromDatetime(to_time)
    async with connection.open() as client:
        report = await client.get_model_health(request)
    if connection.as_json:
        connection.show(report)
    else:
        views.show_tables(health_view.tables(report))


@_command
async def replay(
    connection: Connection,
    events: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, metavar="LOG", help="The event log: CSV, CSV.gz or Parquet.")
    ],
    platform: Annotated[
        str, typer.Option(help="Of cards whose platform the log does not say.")
    ] = DEFAULT_TERMS.platform,
    currency: Annotated[
        str, typer.Option(help="Of cards whose currency the log does not say.")
    ] = DEFAULT_TERMS.currency,
    duration_days: Annotated[
        int, typer.Option(help="Of cards whose duration the log does not say.")
    ] = DEFAULT_TERMS.duration_days,
    paid_minor: Annotated[
        int, typer.Option(help="Of cards whose price the log does not say, minor units.")
    ] = DEFAULT_TERMS.paid_minor,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows, from the log's beginning.")] = None,
) -> None:
    """Drive a service over a back-test database with an event log, and compare its decisions with the log's labels."""
    from clients.python import views
    from clients.python.event_log import LogError, read_events
    from clients.python.replay import replay as drive

    try:
        log = read_events(events, limit=limit)
    except LogError as error:
        raise typer.BadParameter(str(error), param_hint="--events") from error
    terms = CardTerms(platform=platform, currency=currency, duration_days=duration_days, paid_minor=paid_minor)
    async with connection.open() as client:
        with views.progress(len(log)) as on_progress:
            report = await drive(client, log, terms, on_progress=on_progress)
    views.show_report(report, as_json=connection.as_json)
    if report["not_driven"]:
        raise typer.Exit(1)


@_command
async def verify(
    database_url: Annotated[
        str, typer.Option(metavar="URL", envvar="DATABASE_URL", help="The database to check.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Check what must always hold in a database, which may be in use."""
    import asyncpg

    from clients.python import views
    from migrations.invariants import check_invariants

    try:
        results = await check_invariants(database_url)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        typer.echo(f"the database cannot be checked: {error}", err=True)
        raise typer.Exit(1) from error
    views.show_results(results, as_json=as_json)
    if not all(result.holds for result in results):
        raise typer.Exit(1)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def replay_decision(context: typer.Context) -> None:
    """Decide a recorded decision again, from its receipt alone, and compare."""
    # The rules are the server's, and so is the program that goes by them; clients import neither.
    import subprocess
    import sys

    program = [sys.executable, "-m", "server.replay", *context.args]
    raise typer.Exit(subprocess.run(program, check=False).returncode)


if __name__ == "__main__":
    main()
