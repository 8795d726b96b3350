"""Reviewers' work over a real database: how much of it one may have at once, and what is listed when several things are
asked for."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any, cast

import pytest
from card_recycling.v1 import review_service_pb2 as pb
from card_recycling.v1 import types_pb2

from server.api.guard import Context
from server.api.list_service import ListEntries
from server.api.requests import CommandParser
from server.api.review_service import ReviewServicer
from server.domain.errors import Reason, Refusal
from server.domain.review import CLAIM_LEASE, Review, ReviewVerdict
from server.store.reviews import PostgresReviews
from tests.integration.conftest import MakeWorld
from tests.integration.test_engine_races import stores
from tests.integration.world import HASHER, World, resolve

CONTEXT = cast(Context, None)
"""No method here looks at it."""


def service_of(world: World, claims_max: int = 2) -> ReviewServicer:
    """The service over the world's database."""
    reviews = PostgresReviews(world.store, claims_max=claims_max)
    lists = ListEntries(world.lists, world.store, HASHER)
    return ReviewServicer(world.engine, reviews, CommandParser(HASHER), lists)


async def several_held(world: World, how_many: int) -> list[Review]:
    """So many reviews, each of an account of its own, the oldest first."""
    held = []
    for _ in range(how_many):
        held.append(await world.held(await world.issue()))
        await world.move(timedelta(seconds=1))
    return held


async def claimed(service: ReviewServicer, reviewer: str, review: Review | None = None) -> str:
    """The id of the review claimed, or why there is none."""
    request = pb.ClaimReviewRequest(reviewer=reviewer, review_id=str(review.review_id) if review else "")
    try:
        answer: Any = await service.ClaimReview(request, CONTEXT)
    except Refusal as refusal:
        return refusal.reason
    return str(answer.review.review_id)


async def test_reviewer_has_so_many_at_once(new_world: MakeWorld) -> None:
    """One who has as many as allowed gets no other, named or not; a verdict or the lease's end makes room."""
    world = await new_world()
    service = service_of(world)
    first, second, third, fourth = await several_held(world, 4)
    assert [await claimed(service, "anna") for _ in range(2)] == [str(first.review_id), str(second.review_id)]
    assert await claimed(service, "anna") == await claimed(service, "anna", third) == Reason.LIMIT_EXCEEDED
    assert await claimed(service, "anna", second) == str(second.review_id)
    assert await claimed(service, "ben") == str(third.review_id)
    assert await claimed(service, "anna", third) == Reason.REVIEW_CLAIMED
    await world.answer(resolve(first, ReviewVerdict.DENY, reviewer="anna"))
    assert await claimed(service, "anna") == str(fourth.review_id)
    await world.move(CLAIM_LEASE)
    assert await claimed(service, "anna") == str(second.review_id)


async def test_nothing_to_claim_is_told_from_too_much(new_world: MakeWorld) -> None:
    """One with room is told that no review waits, and what is unknown is unknown to whoever asks."""
    world = await new_world()
    service = service_of(world, claims_max=1)
    assert await claimed(service, "anna") == Reason.REVIEW_NOT_FOUND
    (review,) = await several_held(world, 1)
    assert await claimed(service, "anna", review) == str(review.review_id)
    request = pb.ClaimReviewRequest(reviewer="anna", review_id=str(uuid.uuid4()))
    with pytest.raises(Refusal) as refused:
        await service.ClaimReview(request, CONTEXT)
    assert refused.value.reason is Reason.REVIEW_NOT_FOUND


async def test_claims_at_once_stay_below_the_limit(new_world: MakeWorld) -> None:
    """One reviewer's claims that run at the same time, over several servers, get as many as is allowed and no more."""
    world = await new_world()
    held = await several_held(world, 12)
    async with stores(world, 3) as others:
        desks = [PostgresReviews(store, claims_max=5) for store in others]
        wanted = [None, None, *(review.review_id for review in held)]
        asked = [desks[n % 3].claim(review_id, "anna", None) for n, review_id in enumerate(wanted)]
        got = [review for review in await asyncio.gather(*asked) if review is not None]
        assert len({review.review_id for review in got}) == 5
        assert not await desks[0].may_claim("anna") and await desks[0].may_claim("ben")
    count = await world.owner.fetchval("SELECT count(*) FROM review WHERE claimed_by = 'anna'")
    assert count == 5


@pytest.mark.parametrize(
    ("state", "platform", "found"),
    [
        (pb.REVIEW_STATE_UNSPECIFIED, "", True),
        (pb.REVIEW_STATE_OPEN, "iqiyi", True),
        (pb.REVIEW_STATE_CLAIMED, "", False),
        (pb.REVIEW_STATE_UNSPECIFIED, "tencent", False),
    ],
)
async def test_named_review_must_fit_the_rest(
    world: World, state: pb.ReviewState.ValueType, platform: str, found: bool
) -> None:
    """A review that is asked for by its id is shown if it has the state and the platform asked for as well."""
    review = await world.held(await world.issue())
    request = pb.ListReviewsRequest(review_id=str(review.review_id), state=state, platform=platform)
    answer: Any = await service_of(world).ListReviews(request, CONTEXT)
    assert [shown.review_id for shown in answer.reviews] == [str(review.review_id)] * found


@pytest.mark.parametrize(
    "other",
    [
        {"state": pb.REVIEW_STATE_OPEN},
        {"platform": "iqiyi"},
        {"view": pb.REVIEW_VIEW_FULL},
        {"review_id": str(uuid.UUID(int=1))},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_token_belongs_to_its_question(new_world: MakeWorld, other: dict[str, Any]) -> None:
    """A page's token leads on with another page size, and is refused with any other filter."""
    world = await new_world()
    service = service_of(world)
    held = await several_held(world, 3)
    first: Any = await service.ListReviews(pb.ListReviewsRequest(page_size=1), CONTEXT)
    request = pb.ListReviewsRequest(page_size=9, page_token=first.next_page_token)
    rest: Any = await service.ListReviews(request, CONTEXT)
    shown = [review.review_id for review in (*first.reviews, *rest.reviews)]
    assert shown == [str(review.review_id) for review in held] and not rest.next_page_token
    request.MergeFrom(pb.ListReviewsRequest(**other))
    with pytest.raises(Refusal) as refused:
        await service.ListReviews(request, CONTEXT)
    assert (refused.value.reason, refused.value.fields[0][0]) == (Reason.FIELD_INVALID, "page_token")


async def test_token_of_entries_belongs_to_its_question(world: World) -> None:
    """So do the tokens of list entries."""
    lists = ListEntries(world.lists, world.store, HASHER)
    for number in range(2):
        await world.put("WATCH", "ACCOUNT", f"watched-{number}-{uuid.uuid4()}")
    request = pb.ListEntriesRequest(list=types_pb2.LIST_KIND_WATCH, page_size=1)
    answer: Any = await lists.ListEntries(request, CONTEXT)
    request.page_token = answer.next_page_token
    assert await lists.ListEntries(request, CONTEXT)
    request.active_only = True
    with pytest.raises(Refusal):
        await lists.ListEntries(request, CONTEXT)
