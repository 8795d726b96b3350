"""ReviewService through real gRPC, on a second server whose fraud worker finds everything suspicious."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from card_recycling.v1 import card_service_pb2, recycling_service_pb2, types_pb2
from card_recycling.v1 import review_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2 as scoring_pb2
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc

from clients.python import RecyclingClient, RecyclingError
from tests.end_to_end.conftest import ONCE, PATIENCE_S, Service, eventually, recycle, server_process
from tests.unit.test_cli import recycling


class SuspiciousWorker(fraud_scoring_service_pb2_grpc.FraudScoringServiceServicer):
    """Finds every request suspicious, and none too much so."""

    async def Score(self, request: scoring_pb2.ScoreRequest, context: Any) -> scoring_pb2.ScoreResponse:
        """A MEDIUM score for each row."""
        return scoring_pb2.ScoreResponse(
            scores=[0.6] * request.row_count, model_version="suspicious", medium_threshold=0.5, high_threshold=0.9
        )

    async def Explain(self, request: scoring_pb2.ExplainRequest, context: Any) -> scoring_pb2.ExplainResponse:
        """Cannot say why."""
        raise NotImplementedError

    async def MeasureHealth(
        self, request: scoring_pb2.MeasureHealthRequest, context: Any
    ) -> scoring_pb2.MeasureHealthResponse:
        """Never asked."""
        raise NotImplementedError

    async def GetModel(self, request: scoring_pb2.GetModelRequest, context: Any) -> scoring_pb2.GetModelResponse:
        """Never asked."""
        raise NotImplementedError


@pytest.fixture
async def suspicious(service: Service) -> AsyncIterator[tuple[RecyclingClient, str]]:
    """A client of a server that holds whatever it may, and the server's address."""
    worker = grpc.aio.server()
    fraud_scoring_service_pb2_grpc.add_FraudScoringServiceServicer_to_server(SuspiciousWorker(), worker)
    port = worker.add_insecure_port("127.0.0.1:0")
    await worker.start()
    with server_process(service.stack.server_url, f"127.0.0.1:{port}") as process:
        address = process.address()
        async with RecyclingClient(address, retries=ONCE, timeout_s=PATIENCE_S) as client:
            yield client, address
    await worker.stop(None)


async def held(service: Service, client: RecyclingClient) -> types_pb2.Recycling:
    """A recycling in review."""
    (card,) = await service.issue("iqiyi")
    taken = (await client.recycle(recycle(card))).recycling
    assert taken.state == types_pb2.RECYCLING_STATE_IN_REVIEW and taken.HasField("hold_until")
    return taken


async def review_of(client: RecyclingClient, taken: types_pb2.Recycling) -> pb.Review:
    """The review of a recycling, as listed."""
    async for review in client.reviews(pb.REVIEW_STATE_OPEN, "iqiyi"):
        if review.recycling_id == taken.recycling_id:
            return review
    raise AssertionError("it is not listed")


async def refusal(call: Any) -> str:
    """The reason of a call that must fail."""
    with pytest.raises(RecyclingError) as raised:
        await call
    return raised.value.reason


async def test_from_hold_to_payment(service: Service, suspicious: tuple[RecyclingClient, str]) -> None:
    """Held, listed, claimed with its evidence, approved twice with one effect, and paid."""
    client, _ = suspicious
    taken = await held(service, client)
    review = await review_of(client, taken)
    claim = (await client.claim_review(pb.ClaimReviewRequest(review_id=review.review_id, reviewer="anna"))).review
    assert claim.state == pb.REVIEW_STATE_CLAIMED and claim.claimed_by == "anna"
    assert {signal.feature for signal in claim.evidence.signals} >= {"amount_minor", "account_recycles_24h"}
    assert [card.card_id for card in claim.evidence.cards] == [taken.card_id]
    verdict: dict[str, Any] = {"review_id": review.review_id, "verdict": pb.REVIEW_VERDICT_APPROVE}
    other = pb.ClaimReviewRequest(review_id=review.review_id, reviewer="ben")
    assert await refusal(client.claim_review(other)) == "REVIEW_CLAIMED"
    assert await refusal(client.resolve_review(pb.ResolveReviewRequest(**verdict, reviewer="ben"))) == "REVIEW_CLAIMED"
    by_anna = pb.ResolveReviewRequest(**verdict, reviewer="anna", note="a known customer", etag=claim.etag)
    answers = [await client.resolve_review(by_anna) for _ in range(2)]
    assert answers[0] == answers[1] and answers[0].review.state == pb.REVIEW_STATE_APPROVED
    assert answers[0].recycling.compensation == taken.compensation
    assert await refusal(client.claim_review(other)) == "REVIEW_STATE_INVALID"
    named: dict[str, Any] = {"account_id": taken.account_id, "recycling_id": taken.recycling_id}
    paid = await client.compensate(recycling_service_pb2.CompensateRequest(**named))
    assert paid.wallet.balances[0].amount == taken.compensation.amount


async def test_verdict_without_a_request_id_is_given_once(
    service: Service, suspicious: tuple[RecyclingClient, str]
) -> None:
    """A caller that keeps no ids may repeat the same verdict, and gets the same bytes."""
    client, address = suspicious
    review = await review_of(client, await held(service, client))
    request = pb.ResolveReviewRequest(review_id=review.review_id, verdict=pb.REVIEW_VERDICT_DENY, reviewer="anna")
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary("/card_recycling.v1.ReviewService/ResolveReview")
        answers = [await call(request.SerializeToString(), timeout=PATIENCE_S) for _ in range(2)]
    assert answers[0] == answers[1]
    told = pb.ResolveReviewResponse.FromString(answers[0])
    assert told.recycling.decision.reason_codes == ["RISK_MEDIUM", "REVIEW_DENIED"]
    assert not told.card.HasField("hold_until")


async def test_unknown_and_ill_formed(service: Service, suspicious: tuple[RecyclingClient, str]) -> None:
    """A review that is not there is REVIEW_NOT_FOUND; a request out of shape names its fields."""
    client, _ = suspicious
    unknown = str(uuid.uuid4())
    verdict = pb.REVIEW_VERDICT_DENY
    assert await refusal(client.list_reviews(pb.ListReviewsRequest(review_id=unknown))) == "REVIEW_NOT_FOUND"
    claim = pb.ClaimReviewRequest(review_id=unknown, reviewer="anna")
    assert await refusal(client.claim_review(claim)) == "REVIEW_NOT_FOUND"
    request = pb.ResolveReviewRequest(review_id=unknown, verdict=verdict, reviewer="anna")
    assert await refusal(client.resolve_review(request)) == "REVIEW_NOT_FOUND"
    nobody = pb.ClaimReviewRequest(platform="nowhere", reviewer="anna")
    assert await refusal(client.claim_review(nobody)) == "REVIEW_NOT_FOUND"
    with pytest.raises(RecyclingError) as raised:
        await client.resolve_review(pb.ResolveReviewRequest(review_id="x", note="n" * 501))
    assert {violation.field for violation in raised.value.field_violations} >= {
        "review_id",
        "verdict",
        "reviewer",
        "note",
    }


async def test_full_pages_are_short(service: Service, suspicious: tuple[RecyclingClient, str]) -> None:
    """A page with evidence holds at most twenty reviews, and its token leads on."""
    client, _ = suspicious
    for _ in range(21):
        await held(service, client)
    first = await client.list_reviews(pb.ListReviewsRequest(view=pb.REVIEW_VIEW_FULL, page_size=1000))
    assert len(first.reviews) == 20 and first.next_page_token
    assert all(review.evidence.signals for review in first.reviews)
    request = pb.ListReviewsRequest(view=pb.REVIEW_VIEW_FULL, page_token=first.next_page_token)
    second = await client.list_reviews(request)
    ids = [review.review_id for review in (*first.reviews, *second.reviews)]
    assert len(ids) == len(set(ids)) >= 21


async def test_reviewer_at_the_command_line(service: Service, suspicious: tuple[RecyclingClient, str]) -> None:
    """A person sees what waits, claims, looks, and denies."""
    client, address = suspicious
    review = await review_of(client, await held(service, client))
    options = {"RECYCLING_ADDRESS": address, "RECYCLING_REVIEWER": "anna"}
    listed = await recycling("review", "list", "--state", "OPEN", **options)
    assert review.review_id in listed.out
    claimed = await recycling("review", "claim", "--review", review.review_id, **options)
    assert claimed.code == 0 and "2,999" in claimed.out
    shown = await recycling("review", "show", review.review_id, "--json", **options)
    etag = json.loads(shown.out)["etag"]
    denied = await recycling("review", "deny", review.review_id, "--etag", etag, "--json", **options)
    assert json.loads(denied.out)["review"]["state"] == "REVIEW_STATE_DENIED"
    late = await recycling("review", "approve", review.review_id, **options)
    assert (late.code, late.err.split(":")[0]) == (1, "REVIEW_STATE_INVALID")


async def test_server_records_lapses_by_itself(service: Service, suspicious: tuple[RecyclingClient, str]) -> None:
    """Some time after a hold's end it is recorded as ended then, though nobody asked; readers saw it at once."""
    client, _ = suspicious
    taken = await held(service, client)
    service.pass_time(timedelta(days=8))
    request = card_service_pb2.GetCardRequest(account_id=taken.account_id, card_id=taken.card_id)
    seen = (await service.client.get_card(request)).card
    assert not seen.HasField("hold_until")

    async def recorded() -> None:
        async with service.owner() as owner:
            released = await owner.fetchval(
                "SELECT event_time FROM card_event WHERE account_id = $1 AND kind = 'RELEASED'", taken.account_id
            )
        assert released == taken.hold_until.ToDatetime(tzinfo=service.now.tzinfo)

    sweeping = {"SWEEP_EVERY_S": "0.05"}
    with server_process(service.stack.server_url, service.stack.worker_address, environment=sweeping):
        await eventually(recorded)
    assert (await service.client.get_card(request)).card == seen
