"""The ops tool `recycling`: one command an RPC, the replay of event logs, and the check of a database's invariants.

Knows how to turn options into requests, and errors into exit codes: 0 done (a refusal for risk is an answer, too), 1
failed or violated, 2 used wrongly. How answers look is for `views`; must not know the service's rules. Heavy imports
happen in the command that needs them.
"""

import asyncio
import contextlib
import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import typer

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from clients.python.client import RecyclingClient, RecyclingError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Reason: TypeAlias = Literal["EXPIRED", "VOLUNTARY", "SYSTEM_ANOMALY"]
UnitName: TypeAlias = Literal["COIN", "GROWTH_POINT", "COUPON"]
AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.", show_default=False)]
CardId = Annotated[str, typer.Argument(metavar="CARD", help="The card's id.", show_default=False)]
RecyclingId = Annotated[str, typer.Argument(metavar="RECYCLING", help="The recycling's id.", show_default=False)]
RequestId = Annotated[str, typer.Option(help="UUID of the request, to repeat it safely; a new one when left out.")]
ValidateOnly = Annotated[bool, typer.Option("--validate-only", help="Do everything but the transfer.")]
Wanted = Annotated[UnitName | None, typer.Option(help="The unit wanted, where the policy leaves a choice.")]

_Message = TypeVar("_Message", bound="Message")


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _option(*names: str, help: str, **settings: Any) -> Any:  # noqa: A002 - typer's own word
    return typer.Option(*names, help=help, show_default=bool(settings.pop("show_default", False)), **settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach the service, and how to print what it says."""

    address: Annotated[
        str, _option("--address", metavar="HOST:PORT", help="Where the service listens.", show_default=True)
    ] = "127.0.0.1:50051"
    timeout_s: Annotated[
        float, _option("--timeout", metavar="SECONDS", min=0.001, help="For each call.", show_default=True)
    ] = 5.0
    backtest_time: Annotated[
        datetime | None,
        _option(
            "--backtest-time", metavar="TIME", parser=_instant, help="Move a back-test database's clock here first."
        ),
    ] = None
    as_json: Annotated[bool, _option("--json", help="Print JSON: protobuf's mapping, with the contract's names.")] = (
        False
    )

    def open(self) -> "RecyclingClient":
        """A client of the service."""
        from clients.python.client import RecyclingClient

        return RecyclingClient(self.address, timeout_s=self.timeout_s, backtest_time=self.backtest_time)

    def show(self, *messages: "Message", **named: "Message | list[Message]") -> None:
        """Prints one message, or several under names."""
        from clients.python import views

        views.show(messages[0] if messages else named, as_json=self.as_json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Circumstances:
    """The device and the session a request comes from, as options."""

    device_id: Annotated[str, _option(help="Device: the fingerprint's identifier.")] = ""
    ip: Annotated[str, _option(help="Device: its address.")] = ""
    os: Annotated[str, _option(help="Device: operating system.")] = ""
    model: Annotated[str, _option(help="Device: hardware model.")] = ""
    screen: Annotated[str, _option(help="Device: screen size, e.g. 1080x2400.")] = ""
    timezone: Annotated[str, _option(help="Device: IANA time zone.")] = ""
    language: Annotated[str, _option(help="Device: BCP 47 language.")] = ""
    user_agent: Annotated[str, _option(help="Device: user agent.")] = ""
    emulator: Annotated[bool | None, _option("--emulator/--no-emulator", help="Device: whether emulated.")] = None
    rooted: Annotated[bool | None, _option("--rooted/--not-rooted", help="Device: whether rooted.")] = None
    vpn: Annotated[bool | None, _option("--vpn/--no-vpn", help="Device: whether behind a VPN.")] = None
    device_json: Annotated[str, _option(metavar="JSON", help="Device: the message, under the options above.")] = ""
    behavior_json: Annotated[str, _option(metavar="JSON", help="Session: the message Behavior.")] = ""

    def messages(self) -> dict[str, Any]:
        """The two fields that requests have for them."""
        from card_recycling.v1.types_pb2 import Behavior, Device

        device = _parsed("--device-json", self.device_json, Device())
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if value not in (None, "") and not option.name.endswith("_json"):
                setattr(device, option.name, value)
        return {"device": device, "behavior": _parsed("--behavior-json", self.behavior_json, Behavior())}


def main() -> None:
    """The program `recycling`."""
    app()


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
    context.default_map = {str(command.name): defaults for command in app.registered_commands}


def _command(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Makes an async function a command; its parameters of dataclass types become the options that are their fields."""
    signature = inspect.signature(function, eval_str=True)
    groups: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if dataclasses.is_dataclass(parameter.annotation)
    }
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    options = [p.replace(kind=keyword_only) for name, p in signature.parameters.items() if name not in groups]
    options += [
        inspect.Parameter(each.name, keyword_only, default=each.default, annotation=each.type)
        for group in groups.values()
        for each in dataclasses.fields(group)
    ]

    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{each.name: values.pop(each.name) for each in dataclasses.fields(group)})
        with _traced():
            asyncio.run(_reporting_errors(function(**values)))

    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {}
    app.command(function.__name__, help=function.__doc__)(run)
    return function


@_command
async def issue(
    account_id: AccountId,
    connection: Connection,
    platform: Annotated[str, typer.Option(help="The platform, whose policy holds.")] = "iqiyi",
    tier: Annotated[Literal["BASIC", "PREMIUM"], typer.Option(help="The membership's tier.")] = "BASIC",
    segment: Annotated[
        Literal["YOUNG", "MIDDLE", "SENIOR"] | None,
        typer.Option(help="The account's segment; it keeps the one it has."),
    ] = None,
    paid_minor: Annotated[int, typer.Option(help="What was paid, minor units.")] = 2999,
    face_value_minor: Annotated[
        int | None, typer.Option(help="Price on the card; what was paid when left out.")
    ] = None,
    currency: Annotated[str, typer.Option(help="ISO 4217 code; the platform's.")] = "CNY",
    duration_days: Annotated[int, typer.Option(help="Days of service.")] = 30,
    serial: Annotated[str | None, typer.Option(help="The seller's serial number, once per platform.")] = None,
    activate_by: Annotated[
        datetime | None, typer.Option(metavar="TIME", parser=_instant, help="Until when it may be activated.")
    ] = None,
    request_id: RequestId = "",
) -> None:
    """Issue a card to an account."""
    from card_recycling.v1.card_service_pb2 import IssueCardsRequest
    from card_recycling.v1.types_pb2 import Segment, Tier

    from clients.python.client import RecyclingError

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
async def quote(
    account_id: AccountId,
    card_id: CardId,
    connection: Connection,
    circumstances: Circumstances,
    reason: Annotated[Reason, typer.Option(help="Why the card comes back.")] = "VOLUNTARY",
    unit: Wanted = None,
) -> None:
    """Ask what taking a card back would give, and hold the terms for up to five minutes."""
    from card_recycling.v1.recycling_service_pb2 import QuoteRecycleRequest
    from card_recycling.v1.types_pb2 import RecycleReason, Unit

    request = QuoteRecycleRequest(
        account_id=account_id,
        card_id=card_id,
        reason=RecycleReason.Value(f"RECYCLE_REASON_{reason}"),
        compensation_unit=Unit.Value(f"UNIT_{unit or 'UNSPECIFIED'}"),
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
    request_id: RequestId = "",
) -> None:
    """Give the card of a recycling back."""
    from card_recycling.v1.recycling_service_pb2 import ReactivateRequest

    request = ReactivateRequest(
        request_id=request_id,
        account_id=account_id,
        recycling_id=recycling_id,
        validate_only=validate_only,
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
    request_id: RequestId = "",
) -> None:
    """Settle what a recycling owes into the wallet."""
    from card_recycling.v1.recycling_service_pb2 import CompensateRequest

    request = CompensateRequest(
        request_id=request_id, account_id=account_id, recycling_id=recycling_id, validate_only=validate_only
    )
    async with connection.open() as client:
        connection.show(await client.compensate(request))


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
async def replay(
    connection: Connection,
    events: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, metavar="LOG", help="The event log: CSV, CSV.gz or Parquet.")
    ],
    platform: Annotated[str, typer.Option(help="Of cards whose platform the log does not say.")] = "iqiyi",
    currency: Annotated[str, typer.Option(help="Of cards whose currency the log does not say.")] = "CNY",
    duration_days: Annotated[int, typer.Option(help="Of cards whose duration the log does not say.")] = 30,
    paid_minor: Annotated[int, typer.Option(help="Of cards whose price the log does not say, minor units.")] = 2999,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows, from the log's beginning.")] = None,
) -> None:
    """Drive a service over a back-test database with an event log, and compare its decisions with the log's labels."""
    from clients.python import views
    from clients.python.event_log import LogError, read_events
    from clients.python.replay import CardTerms
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
        raise typer.Exit(2) from error
    views.show_results(results, as_json=as_json)
    if not all(result.holds for result in results):
        raise typer.Exit(1)


def _parsed(option: str, text: str, message: _Message) -> _Message:
    from google.protobuf import json_format

    try:
        return json_format.Parse(text, message) if text else message
    except json_format.ParseError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


async def _reporting_errors(work: Coroutine[Any, Any, None]) -> None:
    from clients.python.client import RecyclingError

    try:
        await work
    except RecyclingError as error:
        _print_error(error)
        raise typer.Exit(1) from error


def _print_error(error: "RecyclingError") -> None:
    typer.echo(f"{error.reason or error.code.name}: {error.message}", err=True)
    for violation in error.field_violations:
        typer.echo(f"  {violation.field}: {violation.description}", err=True)
    if error.trace_id:
        typer.echo(f"  trace {error.trace_id}", err=True)


@contextlib.contextmanager
def _traced() -> Iterator[None]:
    """Exports spans while it lasts, if the environment names an exporter as OpenTelemetry's SDKs have it."""
    exporter_name = os.environ.get(
        "OTEL_TRACES_EXPORTER", "otlp" if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ else "none"
    )
    if exporter_name == "none":
        yield
        return
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if exporter_name == "console":
        exporter = ConsoleSpanExporter(out=sys.stderr)
    elif os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        exporter = GrpcExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        exporter = HttpExporter()
    name = os.environ.get("OTEL_SERVICE_NAME", "recycling-cli")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


if __name__ == "__main__":
    main()
