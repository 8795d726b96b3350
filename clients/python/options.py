"""What the commands of `recycling` have in common: groups of options, how errors are told, and tracing.

Knows how options become a client, a device and a session; must not know any command.
"""

import asyncio
import contextlib
import dataclasses
import inspect
import os
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer

from clients.python.client import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, RecyclingClient
from clients.python.errors import RecyclingError

if TYPE_CHECKING:
    from google.protobuf.message import Message

Command: TypeAlias = Callable[..., Coroutine[Any, Any, None]]
_Message = TypeVar("_Message", bound="Message")


def instant(text: str) -> datetime:
    """A time of ISO 8601; without a zone, UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _option(*names: str, help: str, **settings: Any) -> Any:  # noqa: A002 - typer's own word
    return typer.Option(*names, help=help, show_default=bool(settings.pop("show_default", False)), **settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach the service, and how to print what it says."""

    address: Annotated[
        str, _option("--address", metavar="HOST:PORT", help="Where the service listens.", show_default=True)
    ] = DEFAULT_ADDRESS
    timeout_s: Annotated[
        float, _option("--timeout", metavar="SECONDS", min=0.001, help="For each call.", show_default=True)
    ] = DEFAULT_TIMEOUT_S
    backtest_time: Annotated[
        datetime | None,
        _option(
            "--backtest-time", metavar="TIME", parser=instant, help="Move a back-test database's clock here first."
        ),
    ] = None
    as_json: Annotated[bool, _option("--json", help="Print JSON: protobuf's mapping, with the contract's names.")] = (
        False
    )

    def open(self, *, support_key: str = "") -> RecyclingClient:
        """A client of the service."""
        return RecyclingClient(
            self.address, timeout_s=self.timeout_s, backtest_time=self.backtest_time, support_key=support_key
        )

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


def command_of(app: typer.Typer, function: Command) -> Command:
    """Makes an async function a command of `app`, a trailing underscore of its name aside. A parameter whose type is a
    dataclass becomes one option a field."""
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
    app.command(function.__name__.rstrip("_").replace("_", "-"), help=function.__doc__)(run)
    return function


def _parsed(option: str, text: str, message: _Message) -> _Message:
    from google.protobuf import json_format

    try:
        return json_format.Parse(text, message) if text else message
    except json_format.ParseError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


async def _reporting_errors(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except RecyclingError as error:
        _print_error(error)
        raise typer.Exit(1) from error


def _print_error(error: RecyclingError) -> None:
    typer.echo(f"{error.reason or error.code.name}: {error.message}", err=True)
    for violation in error.field_violations:
        typer.echo(f"  {violation.field}: {violation.description}", err=True)
    if len(error.steps) > 1:
        for number, step in enumerate(error.steps, 1):
            typer.echo(f"  {number}. {step}", err=True)
    if error.trace_id:
        typer.echo(f"  trace {error.trace_id}", err=True)


@contextlib.contextmanager
def _traced() -> Iterator[None]:
    """Exports spans while it lasts, if the environment names an exporter as OpenTelemetry's SDKs have it."""
    if not any(name.startswith("OTEL_") for name in os.environ):
        yield  # the SDK takes a while to import
        return
    from process.telemetry import set_up_tracing

    provider = set_up_tracing("recycling-cli")
    try:
        yield
    finally:
        provider.shutdown()
