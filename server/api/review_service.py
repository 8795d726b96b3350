"""ReviewService: messages to commands, outcomes to messages."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from card_recycling.v1 import review_service_pb2 as pb
from card_recycling.v1 import review_service_pb2_grpc

from server.api import answers, names, paging
from server.api.evidence import evidence_message
from server.api.guard import Context, Served
from server.api.list_service import ListEntries
from server.api.messages import review_message
from server.api.ports import Reviews
from server.api.requests import CommandParser
from server.domain.errors import Reason, Refusal
from server.domain.evidence import ENTRIES_MAX
from server.domain.review import Review, ReviewState
from server.engine.engine import Engine


class ReviewServicer(review_service_pb2_grpc.ReviewServiceServicer):
    """Lets people decide what risk could not."""

    def __init__(self, engine: Engine, reviews: Reviews, parser: CommandParser, lists: ListEntries) -> None:
        self._lists = lists
        self._engine = engine
        self._reviews = reviews
        self._parser = parser

    async def ListReviews(self, request: pb.ListReviewsRequest, context: Context) -> Served:
        """See the proto."""
        full = request.view == pb.REVIEW_VIEW_FULL
        size = min(paging.size(request), ENTRIES_MAX) if full else paging.size(request)
        after = paging.position(request, paging.OLDEST)
        wanted = names.REVIEW_STATE.known(request.state)
        state = ReviewState(wanted) if wanted else None
        platform = request.platform or None
        if request.review_id:
            review = await self._known(UUID(request.review_id))
            fits = state in (None, review.state) and platform in (None, review.platform)
            found = [review] if fits else []
        else:
            found = await self._reviews.reviews(state, platform, after, size + 1)
        shown, token = paging.page(request, found, size, _position)
        messages = [await self._message(review, full=full) for review in shown]
        return pb.ListReviewsResponse(reviews=messages, next_page_token=token)

    async def ClaimReview(self, request: pb.ClaimReviewRequest, context: Context) -> Served:
        """See the proto."""
        review_id = UUID(request.review_id) if request.review_id else None
        review = await self._reviews.claim(review_id, request.reviewer, request.platform or None)
        if review is None:
            raise await self._why_not(review_id, request.reviewer)
        return pb.ClaimReviewResponse(review=await self._message(review, full=True))

    async def ResolveReview(self, request: pb.ResolveReviewRequest, context: Context) -> Served:
        """See the proto."""
        review = await self._known(UUID(request.review_id))
        return await answers.one(self._engine, self._parser.resolve(request, review))

    async def PutListEntry(self, request: pb.PutListEntryRequest, context: Context) -> Served:
        """See the proto."""
        return await self._lists.PutListEntry(request, context)

    async def DeleteListEntry(self, request: pb.DeleteListEntryRequest, context: Context) -> Served:
        """See the proto."""
        return await self._lists.DeleteListEntry(request, context)

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Context) -> Served:
        """See the proto."""
        return await self._lists.ListEntries(request, context)

    async def _known(self, review_id: UUID) -> Review:
        review = await self._reviews.review(review_id)
        if review is None:
            raise Refusal(Reason.REVIEW_NOT_FOUND, "no such review")
        return review

    async def _why_not(self, review_id: UUID | None, reviewer: str) -> Refusal:
        if review_id is not None:
            review = await self._known(review_id)
            if review.state not in (ReviewState.OPEN, ReviewState.CLAIMED):
                return Refusal(Reason.REVIEW_STATE_INVALID, f"the review is {review.state} already")
            if review.state is ReviewState.CLAIMED and review.claimed_by != reviewer:
                return Refusal(Reason.REVIEW_CLAIMED, "another reviewer has claimed the review")
        if not await self._reviews.may_claim(reviewer):
            return Refusal(Reason.LIMIT_EXCEEDED, "the reviewer has claimed as many reviews as one may have at once")
        if review_id is None:
            return Refusal(Reason.REVIEW_NOT_FOUND, "no review waits to be claimed")
        return Refusal(Reason.CONFLICT_RETRY, "the review's account is just being changed; try again")

    async def _message(self, review: Review, *, full: bool) -> pb.Review:
        message = review_message(review)
        if full:
            message.evidence.CopyFrom(evidence_message(await self._reviews.evidence(review)))
        return message


def _position(review: Review) -> tuple[datetime, UUID]:
    return review.create_time, review.review_id
