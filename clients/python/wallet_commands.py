"""`recycling offers`, `redeem`, `exchange`, `postings`, `goodwill`: what wallets are used for. Knows how arguments
become requests; must not know what anything costs."""

from typing import Annotated, Literal, TypeAlias

import typer

from clients.python.options import Connection, command_of

UnitName: TypeAlias = Literal["COIN", "GROWTH_POINT"]
KindName: TypeAlias = Literal["SETTLEMENT", "CLAWBACK", "EXPIRY", "REDEMPTION", "EXCHANGE", "GOODWILL"]
AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.", show_default=False)]
Platform = Annotated[str, typer.Argument(metavar="PLATFORM", help="Whose offers and units.", show_default=False)]
RequestId = Annotated[str, typer.Option(help="UUID of the request, to repeat it safely; a new one when left out.")]
ValidateOnly = Annotated[bool, typer.Option("--validate-only", help="Do everything but the transfer.")]


async def offers(
    connection: Connection,
    platform: Annotated[str, typer.Option(help="Only of this platform.")] = "",
    account_id: Annotated[str, typer.Option("--account", help="Tell what this account can afford.")] = "",
) -> None:
    """Show what the policies in force offer for their units, and their rates of exchange."""
    from card_recycling.v1.wallet_service_pb2 import ListOffersRequest

    async with connection.open() as client:
        found = await client.list_offers(ListOffersRequest(platform=platform, account_id=account_id))
        connection.show(offers=list(found.offers), rates=list(found.rates))


async def redeem(
    account_id: AccountId,
    platform: Platform,
    offer_id: Annotated[str, typer.Argument(metavar="OFFER", help="The offer's name.", show_default=False)],
    connection: Connection,
    validate_only: ValidateOnly = False,
    payout_id: Annotated[str, typer.Option("--payout", help="Where the benefit goes: a phone number, ...")] = "",
    request_id: RequestId = "",
) -> None:
    """Take an offer; its partner is told."""
    from card_recycling.v1.wallet_service_pb2 import RedeemRequest

    request = RedeemRequest(
        request_id=request_id,
        account_id=account_id,
        platform=platform,
        offer_id=offer_id,
        validate_only=validate_only,
        payout_id=payout_id or None,
    )
    async with connection.open() as client:
        connection.show(await client.redeem(request))


async def exchange(
    account_id: AccountId,
    platform: Platform,
    unit: Annotated[UnitName, typer.Argument(metavar="UNIT", help="COIN or GROWTH_POINT.", show_default=False)],
    amount: Annotated[int, typer.Argument(metavar="AMOUNT", min=1, help="How many are given.", show_default=False)],
    to_platform: Annotated[str, typer.Argument(metavar="TO_PLATFORM", help="Whose unit is got.", show_default=False)],
    to_unit: Annotated[UnitName, typer.Argument(metavar="TO_UNIT", help="The unit got.", show_default=False)],
    connection: Connection,
    min_amount: Annotated[int, typer.Option("--min", min=0, help="Rather nothing than less than so many.")] = 0,
    validate_only: ValidateOnly = False,
    request_id: RequestId = "",
) -> None:
    """Change one unit into another, at the rate of the policy in force."""
    from card_recycling.v1.types_pb2 import Unit
    from card_recycling.v1.wallet_service_pb2 import ExchangeRequest

    request = ExchangeRequest(
        request_id=request_id,
        account_id=account_id,
        platform=platform,
        unit=Unit.Value(f"UNIT_{unit}"),
        amount=amount,
        to_platform=to_platform,
        to_unit=Unit.Value(f"UNIT_{to_unit}"),
        min_amount=min_amount,
        validate_only=validate_only,
    )
    async with connection.open() as client:
        connection.show(await client.exchange(request))


async def postings(
    account_id: AccountId,
    connection: Connection,
    platform: Annotated[str, typer.Option(help="Only of this platform's units.")] = "",
    unit: Annotated[Literal["COIN", "GROWTH_POINT", "COUPON"] | None, typer.Option(help="Only of this unit.")] = None,
    kind: Annotated[KindName | None, typer.Option(help="Only of this kind.")] = None,
) -> None:
    """Show what went into an account's wallet and out of it, newest first."""
    from card_recycling.v1.types_pb2 import Unit
    from card_recycling.v1.wallet_service_pb2 import ListPostingsRequest, PostingKind

    request = ListPostingsRequest(
        account_id=account_id,
        platform=platform,
        unit=Unit.Value(f"UNIT_{unit or 'UNSPECIFIED'}"),
        kind=PostingKind.Value(f"POSTING_KIND_{kind or 'UNSPECIFIED'}"),
    )
    async with connection.open() as client:
        connection.show(postings=[posting async for posting in client.postings(request)])


async def goodwill(
    account_id: AccountId,
    recycling_id: Annotated[str, typer.Argument(metavar="RECYCLING", help="What it is about.", show_default=False)],
    unit: Annotated[UnitName, typer.Argument(metavar="UNIT", help="COIN or GROWTH_POINT.", show_default=False)],
    amount: Annotated[int, typer.Argument(metavar="AMOUNT", min=1, help="How many.", show_default=False)],
    note: Annotated[str, typer.Argument(metavar="NOTE", help="Why. No personal data.", show_default=False)],
    connection: Connection,
    support_key: Annotated[
        str,
        typer.Option(envvar="RECYCLING_SUPPORT_KEY", help="Customer care's key; better not on the command line."),
    ] = "",
    validate_only: ValidateOnly = False,
    request_id: RequestId = "",
) -> None:
    """Grant goodwill, beyond what the recycling pays and within the policy's caps."""
    from card_recycling.v1.recycling_service_pb2 import CompensateRequest, Goodwill
    from card_recycling.v1.types_pb2 import Unit

    request = CompensateRequest(
        request_id=request_id,
        account_id=account_id,
        recycling_id=recycling_id,
        goodwill=Goodwill(unit=Unit.Value(f"UNIT_{unit}"), amount=amount, note=note),
        validate_only=validate_only,
    )
    async with connection.open(support_key=support_key) as client:
        connection.show(await client.compensate(request))


def add_to(app: typer.Typer) -> None:
    """Makes them commands of `app`."""
    for function in (offers, redeem, exchange, postings, goodwill):
        command_of(app, function)
