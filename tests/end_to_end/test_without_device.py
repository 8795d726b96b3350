"""Leaving the device out, under the shipped policies and the shipped model: what is saved by it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from card_recycling.v1 import card_service_pb2, recycling_service_pb2, types_pb2
from card_recycling.v1 import review_service_pb2 as pb

from clients.python import RecyclingError
from tests.end_to_end.conftest import Service, behavior, device

REQUESTS = 40
APPROVED, IN_REVIEW = types_pb2.RECYCLING_STATE_APPROVED, types_pb2.RECYCLING_STATE_IN_REVIEW
SCRIPT = types_pb2.Behavior(session_seconds=1.5, page_views=1, form_fill_ms=90, copy_paste_used=True)
EMULATOR = types_pb2.Device(
    os="android", model="F1", screen="1080x2400", language="zh-CN", ip="203.0.113.7", emulator=True
)
LEFT_OUT: dict[str, dict[str, Any]] = {
    "the id": {"device": EMULATOR, "behavior": SCRIPT},
    "the device": {"device": None, "behavior": SCRIPT},
    "everything": {"device": None, "behavior": None},
}


async def takeable(service: Service, platform: str) -> list[types_pb2.Card]:
    """Cards of new accounts, such as the platform takes: netflix's have expired."""
    cards = await service.issue(platform, REQUESTS, duration_days=1 if platform == "netflix" else 30)
    if platform == "netflix":
        for card in cards:
            named: dict[str, Any] = {"account_id": card.account_id, "card_id": card.card_id}
            await service.client.activate_card(card_service_pb2.ActivateCardRequest(**named))
        service.pass_time(timedelta(days=32))
    return cards


async def is_settled(service: Service, recycling: types_pb2.Recycling) -> bool:
    """Whether the compensation can be had now."""
    named: dict[str, Any] = {"account_id": recycling.account_id, "recycling_id": recycling.recycling_id}
    try:
        await service.client.compensate(recycling_service_pb2.CompensateRequest(**named))
    except RecyclingError as error:
        if error.reason not in ("SETTLEMENT_NOT_DUE", "RECYCLING_STATE_INVALID"):
            raise
        return False
    return True


@pytest.mark.parametrize("left_out", LEFT_OUT)
@pytest.mark.parametrize(("platform", "mildest"), [("iqiyi", IN_REVIEW), ("netflix", APPROVED), ("tencent", APPROVED)])
async def test_machine_gains_nothing_by_naming_no_device(
    service: Service, platform: str, mildest: Any, left_out: str
) -> None:
    """Of forty machine-like requests none is paid; each says why, and each that was not refused waits for a person."""
    cards = await takeable(service, platform)
    answers = await asyncio.gather(*(service.recycled(card, **LEFT_OUT[left_out]) for card in cards))
    assert len(answers) == REQUESTS
    assert all("WITHOUT_DEVICE" in answer.decision.reason_codes for answer in answers)
    assert {answer.state for answer in answers} <= {mildest, IN_REVIEW, types_pb2.RECYCLING_STATE_REJECTED}
    assert [await is_settled(service, answer) for answer in answers] == [False] * REQUESTS
    waiting = {answer.recycling_id for answer in answers if answer.state in (APPROVED, IN_REVIEW)}
    assert waiting <= {review.recycling_id async for review in service.client.reviews(pb.REVIEW_STATE_OPEN, platform)}


async def test_expired_card_goes_without_a_device(service: Service) -> None:
    """What nobody asks for is taken all the same, and its coupon paid once a person agrees."""
    card = (await takeable(service, "netflix"))[0]
    taken = await service.recycled(card, device=None, behavior=None)
    assert taken.state == APPROVED and taken.settlement_held
    (review,) = [
        review
        async for review in service.client.reviews(pb.REVIEW_STATE_OPEN, "netflix")
        if review.recycling_id == taken.recycling_id
    ]
    verdict = pb.ResolveReviewRequest(review_id=review.review_id, verdict=pb.REVIEW_VERDICT_APPROVE, reviewer="anna")
    await service.client.resolve_review(verdict)
    assert await is_settled(service, taken)


async def test_trusted_batch_goes_by_its_address(service: Service) -> None:
    """An ALLOW entry for the address of a back office lets its requests through without a device, to the settlement."""
    entry = pb.PutListEntryRequest(
        list=types_pb2.LIST_KIND_ALLOW,
        subject_kind=types_pb2.SUBJECT_KIND_ADDRESS,
        subject="198.51.100.77",
        reason="the back office's",
        actor="ops@example.com",
    )
    await service.client.put_list_entry(entry)
    (card,) = await service.issue("tencent")
    office = types_pb2.Device(ip="198.51.100.77")
    taken = await service.recycled(card, device=office, behavior=None)
    assert taken.state == APPROVED and not taken.settlement_held
    assert [*taken.decision.reason_codes] == ["ALLOW_LISTED_ADDRESS", "WITHOUT_DEVICE"]
    assert await is_settled(service, taken)


async def test_card_is_given_back_to_a_device_only(service: Service) -> None:
    """A reactivation without a device is held; with the owner's own it is done."""
    for own, state in (
        (False, recycling_service_pb2.REACTIVATION_STATE_IN_REVIEW),
        (True, recycling_service_pb2.REACTIVATION_STATE_APPROVED),
    ):
        card = await service.active("iqiyi")
        taken = await service.recycled(card)
        service.pass_time(timedelta(days=10))
        request = recycling_service_pb2.ReactivateRequest(
            account_id=card.account_id,
            recycling_id=taken.recycling_id,
            device=device(card) if own else None,
            behavior=behavior(),
        )
        answer = await service.client.reactivate(request)
        assert answer.state == state
        assert ("WITHOUT_DEVICE" in answer.decision.reason_codes) is not own
