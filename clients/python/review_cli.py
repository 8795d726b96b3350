"""The commands `recycling review ...`: what a reviewer does. Knows how arguments become requests; must not know the
service's rules, nor how answers look."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from clients.python.options import Command, Connection, command_of

if TYPE_CHECKING:
    from card_recycling.v1.review_service_pb2 import Review

app = typer.Typer(no_args_is_help=True, help="Decide what was too suspicious to approve, and not enough to refuse.")

State: TypeAlias = Literal["OPEN", "CLAIMED", "APPROVED", "DENIED", "EXPIRED", "CLOSED"]
ReviewId = Annotated[str, typer.Argument(metavar="REVIEW", help="The review's id.", show_default=False)]
Reviewer = Annotated[
    str, typer.Option("--as", metavar="NAME", envvar="RECYCLING_REVIEWER", help="Who you are.", show_default=False)
]
Note = Annotated[str, typer.Option(help="Why; it is kept, so name nobody.")]
Etag = Annotated[str, typer.Option(help="The review's etag as you saw it; any when left out.")]
RequestId = Annotated[str, typer.Option(help="UUID of the request, to repeat it safely; a new one when left out.")]


def _command(function: Command) -> Command:
    return command_of(app, function)


@_command
async def list_(
    connection: Connection,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    platform: Annotated[str, typer.Option(help="Only those of this platform.")] = "",
) -> None:
    """List reviews, the oldest and so most pressing first."""
    from card_recycling.v1.review_service_pb2 import ReviewState

    wanted = ReviewState.Value(f"REVIEW_STATE_{state or 'UNSPECIFIED'}")
    async with connection.open() as client:
        connection.show(reviews=[review async for review in client.reviews(wanted, platform)])


@_command
async def show(review_id: ReviewId, connection: Connection) -> None:
    """Show a review with all that is known about its request."""
    from card_recycling.v1.review_service_pb2 import REVIEW_VIEW_FULL, ListReviewsRequest

    async with connection.open() as client:
        (review,) = (await client.list_reviews(ListReviewsRequest(review_id=review_id, view=REVIEW_VIEW_FULL))).reviews
    _show_in_full(connection, review)


@_command
async def claim(
    connection: Connection,
    reviewer: Reviewer,
    review_id: Annotated[
        str, typer.Option("--review", metavar="REVIEW", help="This one; else the most pressing unclaimed one.")
    ] = "",
    platform: Annotated[str, typer.Option(help="Only one of this platform.")] = "",
) -> None:
    """Take a review for 15 minutes, in which nobody else can, and show it in full."""
    from card_recycling.v1.review_service_pb2 import ClaimReviewRequest

    request = ClaimReviewRequest(review_id=review_id, reviewer=reviewer, platform=platform)
    async with connection.open() as client:
        _show_in_full(connection, (await client.claim_review(request)).review)


@_command
async def approve(
    review_id: ReviewId,
    connection: Connection,
    reviewer: Reviewer,
    note: Note = "",
    etag: Etag = "",
    request_id: RequestId = "",
) -> None:
    """Do what the request asked for."""
    await _resolve("APPROVE", review_id, connection, reviewer, note, etag, request_id)


@_command
async def deny(
    review_id: ReviewId,
    connection: Connection,
    reviewer: Reviewer,
    note: Note = "",
    etag: Etag = "",
    request_id: RequestId = "",
) -> None:
    """Refuse what the request asked for."""
    await _resolve("DENY", review_id, connection, reviewer, note, etag, request_id)


async def _resolve(
    verdict: Literal["APPROVE", "DENY"],
    review_id: str,
    connection: Connection,
    reviewer: str,
    note: str,
    etag: str,
    request_id: str,
) -> None:
    from card_recycling.v1.review_service_pb2 import ResolveReviewRequest, ReviewVerdict

    request = ResolveReviewRequest(
        request_id=request_id,
        review_id=review_id,
        verdict=ReviewVerdict.Value(f"REVIEW_VERDICT_{verdict}"),
        reviewer=reviewer,
        note=note,
        etag=etag,
    )
    async with connection.open() as client:
        connection.show(await client.resolve_review(request))


def _show_in_full(connection: Connection, review: "Review") -> None:
    """As JSON the message as it is; for people the record, and each kind of evidence as a list of its own."""
    if connection.as_json:
        connection.show(review)
        return
    from card_recycling.v1.review_service_pb2 import Review

    record = Review()
    record.CopyFrom(review)
    record.ClearField("evidence")
    evidence = review.evidence
    connection.show(
        review=record,
        signals=list(evidence.signals),
        similar=list(evidence.similar),
        cards=list(evidence.cards),
        recyclings=list(evidence.recyclings),
        reviews=list(evidence.reviews),
        requests=list(evidence.requests),
    )
