"""`recycling list ...`: keeping the lists beside the model. Knows how arguments become requests; must not know what the
lists do."""

import getpass
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

import typer

from clients.python.options import Command, Connection, command_of, instant

app = typer.Typer(no_args_is_help=True, help="Keep the lists beside the model: ALLOW, DENY and WATCH.")

ListName: TypeAlias = Literal["ALLOW", "DENY", "WATCH"]
SubjectName: TypeAlias = Literal["ACCOUNT", "DEVICE", "ADDRESS", "PAYOUT"]
Actor = Annotated[str, typer.Option(help="Who does it; your login when left out.", default_factory=getpass.getuser)]
Why = Annotated[str, typer.Option("--reason", help="Why. Must hold no personal data.", show_default=False)]


def _command(function: Command) -> Command:
    return command_of(app, function)


@_command
async def put(
    list_name: Annotated[ListName, typer.Argument(metavar="LIST", help="ALLOW, DENY or WATCH.", show_default=False)],
    subject_kind: Annotated[
        SubjectName, typer.Argument(metavar="KIND", help="ACCOUNT, DEVICE, ADDRESS or PAYOUT.", show_default=False)
    ],
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="An account's, device's or payout's id; an IP address, or a range of /24 (IPv6: /48).",
            show_default=False,
        ),
    ],
    connection: Connection,
    reason: Why,
    actor: Actor,
    expire: Annotated[
        datetime | None, typer.Option(metavar="TIME", parser=instant, help="When it ends by itself; never if left out.")
    ] = None,
    etag: Annotated[str, typer.Option(help="Etag that the entry in force must still have.")] = "",
) -> None:
    """Put a subject on a list; what the list said of it before ends."""
    from card_recycling.v1.review_service_pb2 import PutListEntryRequest
    from card_recycling.v1.types_pb2 import ListKind, SubjectKind

    request = PutListEntryRequest(
        list=ListKind.Value(f"LIST_KIND_{list_name}"),
        subject_kind=SubjectKind.Value(f"SUBJECT_KIND_{subject_kind}"),
        subject=subject,
        actor=actor,
        reason=reason,
        etag=etag,
    )
    if expire:
        request.expire_time.FromDatetime(expire)
    async with connection.open() as client:
        connection.show((await client.put_list_entry(request)).entry)


@_command
async def delete(
    entry_id: Annotated[str, typer.Argument(metavar="ENTRY", help="The id of the entry in force.", show_default=False)],
    connection: Connection,
    reason: Why,
    actor: Actor,
) -> None:
    """Take a subject off a list; the entry is kept, with who ended it and why."""
    from card_recycling.v1.review_service_pb2 import DeleteListEntryRequest

    request = DeleteListEntryRequest(entry_id=entry_id, actor=actor, reason=reason)
    async with connection.open() as client:
        connection.show((await client.delete_list_entry(request)).entry)


@_command
async def show(
    connection: Connection,
    list_name: Annotated[ListName | None, typer.Option("--list", help="Only of this list.")] = None,
    subject_kind: Annotated[SubjectName | None, typer.Option("--kind", help="Only about this kind.")] = None,
    subject: Annotated[str, typer.Option(help="Only about this subject; needs --kind.")] = "",
    history: Annotated[bool, typer.Option("--history", help="Also what is no longer in force.")] = False,
) -> None:
    """Show the entries in force, or all that ever were, newest first."""
    from card_recycling.v1.review_service_pb2 import ListEntriesRequest
    from card_recycling.v1.types_pb2 import ListKind, SubjectKind

    request = ListEntriesRequest(
        list=ListKind.Value(f"LIST_KIND_{list_name or 'UNSPECIFIED'}"),
        subject_kind=SubjectKind.Value(f"SUBJECT_KIND_{subject_kind or 'UNSPECIFIED'}"),
        subject=subject,
        active_only=not history,
    )
    async with connection.open() as client:
        connection.show(entries=[entry async for entry in client.entries(request)])
