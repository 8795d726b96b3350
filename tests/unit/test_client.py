"""The typed client, against a service in this process that answers as it is told."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeVar

import grpc
import pytest
from card_recycling.v1 import (
    card_service_pb2_grpc,
    recycling_service_pb2_grpc,
    review_service_pb2_grpc,
    wallet_service_pb2_grpc,
)
from card_recycling.v1.card_service_pb2 import (
    ActivateCardRequest,
    ActivateCardResponse,
    BindDeviceRequest,
    BindDeviceResponse,
    Event,
    GetCardRequest,
    GetCardResponse,
    IssueCardsRequest,
    IssueCardsResponse,
    ListCardsRequest,
    ListCardsResponse,
    VoidCardRequest,
    VoidCardResponse,
    WatchEventsRequest,
    WatchEventsResponse,
)
from card_recycling.v1.recycling_service_pb2 import (
    BatchRecycleRequest,
    BatchRecycleResponse,
    CompensateRequest,
    CompensateResponse,
    GetRecyclingRequest,
    GetRecyclingResponse,
    Goodwill,
    ListRecyclingsRequest,
    ListRecyclingsResponse,
    QuoteRecycleRequest,
    QuoteRecycleResponse,
    ReactivateRequest,
    ReactivateResponse,
    ReactivationState,
    RecordOutcomeRequest,
    RecordOutcomeResponse,
    RecycleRequest,
    RecycleResponse,
)
from card_recycling.v1.review_service_pb2 import (
    ClaimReviewRequest,
    ClaimReviewResponse,
    DeleteListEntryRequest,
    DeleteListEntryResponse,
    ListEntriesRequest,
    ListEntriesResponse,
    ListReviewsRequest,
    ListReviewsResponse,
    PutListEntryRequest,
    PutListEntryResponse,
    ResolveReviewRequest,
    ResolveReviewResponse,
    Review,
    ReviewEvidence,
    Signal,
)
from card_recycling.v1.types_pb2 import (
    COMPENSATION_STATE_SETTLED,
    Card,
    Compensation,
    Decision,
    Recycling,
    RecyclingState,
    Wallet,
)
from card_recycling.v1.wallet_service_pb2 import (
    ExchangeRate,
    ExchangeRequest,
    ExchangeResponse,
    GetWalletRequest,
    GetWalletResponse,
    ListOffersRequest,
    ListOffersResponse,
    ListPostingsRequest,
    ListPostingsResponse,
    Offer,
    Posting,
    RedeemRequest,
    RedeemResponse,
    Redemption,
)
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from clients.python import FieldViolation, RecyclingClient, RecyclingError, Retries

_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What the service saw of one call: seconds left until its deadline (None: it had none), and the metadata."""

    request: Any
    time_remaining_s: float | None
    metadata: dict[str, str | bytes]


class FakeService(
    recycling_service_pb2_grpc.RecyclingServiceServicer,
    card_service_pb2_grpc.CardServiceServicer,
    review_service_pb2_grpc.ReviewServiceServicer,
    wallet_service_pb2_grpc.WalletServiceServicer,
):
    """Remembers calls. Fails with each of `failures` in turn, then answers; refuses devices named "bad..."."""

    def __init__(self, *failures: status_pb2.Status, cards: int = 0, postings: int = 0) -> None:
        self.calls: list[Call] = []
        self._failures = list(failures)
        self._postings = [Posting(posting_id=f"posting-{number}") for number in range(postings)]
        self._cards = [Card(card_id=f"card-{number}") for number in range(cards)]

    def methods(self) -> list[str]:
        """The names of the calls' requests, without their common ending."""
        return [type(call.request).__name__.removesuffix("Request") for call in self.calls]

    async def _answer(self, request: Message, context: Any, response: _Response) -> _Response:
        self._remember(request, context)
        await self._fail(context)
        return response

    def _remember(self, request: Message, context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        self.calls.append(Call(request=request, time_remaining_s=context.time_remaining(), metadata=metadata))

    async def _fail(self, context: Any) -> None:
        if self._failures:
            status = rpc_status.to_status(self._failures.pop(0))
            traced = (("trace-id", "cafe"),) if status.code is grpc.StatusCode.INTERNAL else ()
            await context.abort(status.code, status.details, (*status.trailing_metadata, *traced))

    async def QuoteRecycle(self, request: QuoteRecycleRequest, context: Any) -> QuoteRecycleResponse:
        return await self._answer(request, context, QuoteRecycleResponse())

    async def Recycle(self, request: RecycleRequest, context: Any) -> RecycleResponse:
        return await self._answer(request, context, RecycleResponse(recycling=_recycled(request)))

    async def BatchRecycle(self, request: BatchRecycleRequest, context: Any) -> BatchRecycleResponse:
        results = [BatchRecycleResponse.Result(recycling=_recycled(each)) for each in request.requests]
        return await self._answer(request, context, BatchRecycleResponse(results=results))

    async def Reactivate(self, request: ReactivateRequest, context: Any) -> ReactivateResponse:
        approved = ReactivationState.REACTIVATION_STATE_APPROVED
        return await self._answer(request, context, ReactivateResponse(state=approved, card=Card(card_id="back")))

    async def Compensate(self, request: CompensateRequest, context: Any) -> CompensateResponse:
        return await self._answer(request, context, CompensateResponse())

    async def GetRecycling(self, request: GetRecyclingRequest, context: Any) -> GetRecyclingResponse:
        return await self._answer(request, context, GetRecyclingResponse())

    async def ListRecyclings(self, request: ListRecyclingsRequest, context: Any) -> ListRecyclingsResponse:
        return await self._answer(request, context, ListRecyclingsResponse())

    async def RecordOutcome(self, request: RecordOutcomeRequest, context: Any) -> RecordOutcomeResponse:
        return await self._answer(request, context, RecordOutcomeResponse())

    async def IssueCards(self, request: IssueCardsRequest, context: Any) -> IssueCardsResponse:
        cards = [Card(card_id=f"card-of-{item.account_id}", paid_minor=item.paid_minor) for item in request.items]
        results = [IssueCardsResponse.Result(card=card) for card in cards]
        return await self._answer(request, context, IssueCardsResponse(results=results))

    async def ActivateCard(self, request: ActivateCardRequest, context: Any) -> ActivateCardResponse:
        return await self._answer(request, context, ActivateCardResponse())

    async def BindDevice(self, request: BindDeviceRequest, context: Any) -> BindDeviceResponse:
        return await self._answer(request, context, BindDeviceResponse())

    async def VoidCard(self, request: VoidCardRequest, context: Any) -> VoidCardResponse:
        return await self._answer(request, context, VoidCardResponse())

    async def WatchEvents(self, request: WatchEventsRequest, context: Any) -> AsyncGenerator[WatchEventsResponse, None]:
        """Nine events, three a message; fails after each message as long as there are failures, then is quiet."""
        self._remember(request, context)
        for number in range(int(request.resume_token or 0), 9, 3):
            events = [
                Event(event_id=f"e{each}", kind="ISSUED", resume_token=f"{each + 1}") for each in range(number, 9)
            ]
            yield WatchEventsResponse(events=events[:3], resume_token=events[:3][-1].resume_token)
            await self._fail(context)
        await asyncio.Event().wait()

    async def GetCard(self, request: GetCardRequest, context: Any) -> GetCardResponse:
        return await self._answer(request, context, GetCardResponse(card=Card(card_id=request.card_id)))

    async def ListCards(self, request: ListCardsRequest, context: Any) -> ListCardsResponse:
        start = int(request.page_token or 0)
        end = start + request.page_size
        page = ListCardsResponse(cards=self._cards[start:end])
        page.next_page_token = str(end) if end < len(self._cards) else ""
        return await self._answer(request, context, page)

    async def ListReviews(self, request: ListReviewsRequest, context: Any) -> ListReviewsResponse:
        if request.review_id:
            return await self._answer(request, context, ListReviewsResponse(reviews=[_review(request.review_id)]))
        start = int(request.page_token or 0)
        page = ListReviewsResponse(reviews=[_review(f"review-{start}")], next_page_token="" if start else "1")
        return await self._answer(request, context, page)

    async def ClaimReview(self, request: ClaimReviewRequest, context: Any) -> ClaimReviewResponse:
        return await self._answer(request, context, ClaimReviewResponse(review=_review("review-0")))

    async def ResolveReview(self, request: ResolveReviewRequest, context: Any) -> ResolveReviewResponse:
        review = Review(review_id=request.review_id, reviewer=request.reviewer, note=request.note)
        return await self._answer(request, context, ResolveReviewResponse(review=review))

    async def PutListEntry(self, request: PutListEntryRequest, context: Any) -> PutListEntryResponse:
        return await self._answer(request, context, PutListEntryResponse())

    async def DeleteListEntry(self, request: DeleteListEntryRequest, context: Any) -> DeleteListEntryResponse:
        return await self._answer(request, context, DeleteListEntryResponse())

    async def ListEntries(self, request: ListEntriesRequest, context: Any) -> ListEntriesResponse:
        return await self._answer(request, context, ListEntriesResponse())

    async def GetWallet(self, request: GetWalletRequest, context: Any) -> GetWalletResponse:
        return await self._answer(request, context, GetWalletResponse(wallet=Wallet(account_id=request.account_id)))

    async def ListPostings(self, request: ListPostingsRequest, context: Any) -> ListPostingsResponse:
        start = int(request.page_token or 0)
        end = start + request.page_size
        page = ListPostingsResponse(postings=self._postings[start:end])
        page.next_page_token = str(end) if end < len(self._postings) else ""
        return await self._answer(request, context, page)

    async def ListOffers(self, request: ListOffersRequest, context: Any) -> ListOffersResponse:
        offer = Offer(platform=request.platform or "iqiyi", offer_id="jd-voucher-10", affordable=True)
        return await self._answer(request, context, ListOffersResponse(offers=[offer], rates=[ExchangeRate(give=10)]))

    async def Redeem(self, request: RedeemRequest, context: Any) -> RedeemResponse:
        redemption = Redemption(request_id=request.request_id, offer_id=request.offer_id)
        return await self._answer(request, context, RedeemResponse(redemption=redemption))

    async def Exchange(self, request: ExchangeRequest, context: Any) -> ExchangeResponse:
        return await self._answer(request, context, ExchangeResponse(amount_out=request.amount))


def _review(review_id: str) -> Review:
    signal = Signal(feature="vpn", value=1.0, sentence="The address is hidden.")
    return Review(review_id=review_id, platform="iqiyi", evidence=ReviewEvidence(signals=[signal]))


def _recycled(request: RecycleRequest) -> Recycling:
    bad = request.device.device_id.startswith("bad")
    at_once = request.device.device_id == "settled at once"
    return Recycling(
        recycling_id=f"recycling-of-{request.card_id}",
        state=RecyclingState.RECYCLING_STATE_REJECTED if bad else RecyclingState.RECYCLING_STATE_APPROVED,
        decision=Decision(risk_score=0.9 if bad else 0.1, reason_codes=["RISK_HIGH"] if bad else []),
        compensation=Compensation(state=COMPENSATION_STATE_SETTLED) if at_once else None,
    )


@contextlib.asynccontextmanager
async def served(service: FakeService) -> AsyncIterator[str]:
    """Serves it on a free local port while it lasts; gives the address."""
    server = grpc.aio.server()
    recycling_service_pb2_grpc.add_RecyclingServiceServicer_to_server(service, server)
    card_service_pb2_grpc.add_CardServiceServicer_to_server(service, server)
    review_service_pb2_grpc.add_ReviewServiceServicer_to_server(service, server)
    wallet_service_pb2_grpc.add_WalletServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Pauses(list[float]):
    """The seconds the client would have slept."""

    async def sleep(self, seconds: float) -> None:
        self.append(seconds)


@contextlib.asynccontextmanager
async def client_of(service: FakeService, **settings: Any) -> AsyncIterator[tuple[RecyclingClient, Pauses]]:
    """A client of a service being served, which does not sleep but notes the pauses."""
    pauses = Pauses()
    async with served(service) as address, RecyclingClient(address, sleep=pauses.sleep, **settings) as client:
        yield client, pauses


def failure(code: grpc.StatusCode, reason: str = "", *details: Message, message: str = "no") -> status_pb2.Status:
    """An error as the service sends it."""
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="card-recycling"))
    for detail in details:
        status.details.add().Pack(detail)
    return status


CONFLICT = failure(grpc.StatusCode.ABORTED, "CONFLICT_RETRY")
UNAVAILABLE = failure(grpc.StatusCode.UNAVAILABLE, "FRAUD_SCORE_UNAVAILABLE")
NOT_FOUND = failure(grpc.StatusCode.NOT_FOUND, "CARD_NOT_FOUND")


async def test_every_call_has_a_deadline() -> None:
    """A call is sent with the client's own timeout when none is given."""
    service = FakeService()
    async with client_of(service, timeout_s=7.0) as (client, _):
        await client.get_wallet(GetWalletRequest(account_id="a"))
    assert 6.0 < (service.calls[0].time_remaining_s or 0) < 8.0


async def test_call_may_have_its_own_deadline() -> None:
    """A timeout given for a call goes before the client's."""
    service = FakeService()
    async with client_of(service) as (client, _):
        await client.get_wallet(GetWalletRequest(account_id="a"), timeout_s=60.0)
    assert 59.0 < (service.calls[0].time_remaining_s or 0) < 61.0


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("inf"), float("nan")])
async def test_timeout_must_end(timeout_s: float) -> None:
    """A timeout that is no positive number of seconds is refused before anything is sent."""
    service = FakeService()
    async with client_of(service) as (client, _):
        with pytest.raises(ValueError, match="timeout"):
            await client.get_wallet(GetWalletRequest(account_id="a"), timeout_s=timeout_s)
    assert service.calls == []


async def test_retries_keep_the_request_id() -> None:
    """A request id is made once, and every retry carries it."""
    service = FakeService(CONFLICT, UNAVAILABLE)
    async with client_of(service) as (client, _):
        await client.recycle(RecycleRequest(account_id="a", card_id="c"))
    ids = [call.request.request_id for call in service.calls]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert uuid.UUID(ids[0]).version == 4


async def test_repeating_a_message_repeats_the_request() -> None:
    """A message that failed keeps its id, so that sending it again is a retry."""
    service = FakeService(NOT_FOUND)
    request = RecycleRequest(account_id="a", card_id="c")
    async with client_of(service) as (client, _):
        with pytest.raises(RecyclingError):
            await client.recycle(request)
        await client.recycle(request)
    assert service.calls[0].request.request_id == service.calls[1].request.request_id


async def test_given_request_id_is_kept() -> None:
    """A request id that the caller made is not touched."""
    service = FakeService()
    async with client_of(service) as (client, _):
        await client.compensate(CompensateRequest(request_id="mine"))
    assert service.calls[0].request.request_id == "mine"


async def test_items_get_their_own_request_ids() -> None:
    """Each item of a batch gets an id of its own."""
    service = FakeService()
    items = [IssueCardsRequest.Item(account_id=name) for name in "ab"]
    async with client_of(service) as (client, _):
        await client.issue_cards(IssueCardsRequest(items=items))
    assert len({item.request_id for item in service.calls[0].request.items} - {""}) == 2


async def test_call_cancelled_by_the_service_is_retried() -> None:
    """A server that is going away cancels calls that it has not begun; another attempt, with the same id, is safe."""
    service = FakeService(failure(grpc.StatusCode.CANCELLED))
    async with client_of(service) as (client, _):
        await client.recycle(RecycleRequest(account_id="a", card_id="c"))
    first, second = (call.request.request_id for call in service.calls)
    assert first == second


@pytest.mark.parametrize(
    "status",
    [
        NOT_FOUND,
        failure(grpc.StatusCode.FAILED_PRECONDITION, "CARD_ALREADY_RECYCLED"),
        failure(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"),
        failure(grpc.StatusCode.INTERNAL, "INTERNAL"),
        failure(grpc.StatusCode.DEADLINE_EXCEEDED, "INSUFFICIENT_TIME"),
    ],
    ids=lambda status: str(grpc.StatusCode(next(c.value for c in grpc.StatusCode if c.value[0] == status.code)).name),
)
async def test_other_errors_are_not_retried(status: status_pb2.Status) -> None:
    """What a retry cannot change is raised at once."""
    service = FakeService(status)
    async with client_of(service) as (client, pauses):
        with pytest.raises(RecyclingError):
            await client.recycle(RecycleRequest())
    assert (len(service.calls), pauses) == (1, [])


async def test_foreign_deadline_is_retried_within_ours() -> None:
    """A DEADLINE_EXCEEDED that comes while our own deadline is far is retried."""
    service = FakeService(failure(grpc.StatusCode.DEADLINE_EXCEEDED))
    async with client_of(service) as (client, _):
        await client.recycle(RecycleRequest())
    assert len(service.calls) == 2


async def test_attempts_are_bounded() -> None:
    """After the last attempt the error is raised."""
    service = FakeService(*[UNAVAILABLE] * 9)
    async with client_of(service, retries=Retries(attempts_max=3)) as (client, _):
        with pytest.raises(RecyclingError, match="FRAUD_SCORE_UNAVAILABLE"):
            await client.recycle(RecycleRequest())
    assert len(service.calls) == 3


async def test_pauses_grow() -> None:
    """Each pause is random within a range that doubles, up to the longest."""
    service = FakeService(*[CONFLICT] * 4)
    retries = Retries(attempts_max=9, pause_s=0.1, pause_max_s=0.3)
    async with client_of(service, retries=retries) as (client, pauses):
        await client.recycle(RecycleRequest())
    for pause_s, longest_s in zip(pauses, [0.1, 0.2, 0.3, 0.3], strict=True):
        assert longest_s / 2 <= pause_s <= longest_s


async def test_pause_asked_for_is_kept() -> None:
    """An overloaded service is left alone for as long as it asks."""
    wait = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))
    service = FakeService(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", wait))
    async with client_of(service) as (client, pauses):
        await client.recycle(RecycleRequest())
    assert 2.0 < pauses[0] < 2.1


async def test_no_retry_beyond_the_deadline() -> None:
    """A pause that would outlast the deadline is not begun."""
    wait = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=6))
    service = FakeService(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", wait))
    async with client_of(service, timeout_s=5.0) as (client, pauses):
        with pytest.raises(RecyclingError) as raised:
            await client.recycle(RecycleRequest())
    assert (raised.value.retry_after_s, pauses) == (6.0, [])


async def test_rich_error_is_parsed() -> None:
    """Code, reason, message and field violations of an error arrive."""
    field = error_details_pb2.BadRequest.FieldViolation(field="card_id", description="must be a UUID")
    bad = error_details_pb2.BadRequest(field_violations=[field])
    status = failure(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", bad, message="a field is invalid")
    async with client_of(FakeService(status)) as (client, _):
        with pytest.raises(RecyclingError) as raised:
            await client.recycle(RecycleRequest())
    error = raised.value
    assert (error.code, error.reason, error.message) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "FIELD_INVALID",
        "a field is invalid",
    )
    assert error.field_violations == (FieldViolation(field="card_id", description="must be a UUID"),)


async def test_trace_of_an_internal_error_is_told() -> None:
    """An INTERNAL error names the trace to report."""
    service = FakeService(failure(grpc.StatusCode.INTERNAL, "INTERNAL"))
    async with client_of(service) as (client, _):
        with pytest.raises(RecyclingError) as raised:
            await client.recycle(RecycleRequest())
    assert raised.value.trace_id == "cafe"


async def test_unreachable_service_is_a_rich_error() -> None:
    """Where nothing listens, the error is UNAVAILABLE without a reason."""
    async with RecyclingClient("127.0.0.1:1", retries=Retries(attempts_max=1)) as client:
        with pytest.raises(RecyclingError) as raised:
            await client.get_wallet(GetWalletRequest(account_id="a"))
    assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.UNAVAILABLE, "")


async def test_cards_follow_the_pages() -> None:
    """Iterating over an account's cards fetches page after page, each once."""
    service = FakeService(cards=5)
    async with client_of(service) as (client, _):
        cards = [card.card_id async for card in client.cards("a", page_size=2)]
    assert cards == [f"card-{number}" for number in range(5)]
    assert [call.request.page_token for call in service.calls] == ["", "2", "4"]


async def test_backtest_time_is_sent_as_utc() -> None:
    """A back-test's time travels as RFC 3339 with microseconds, whatever zone it was given in."""
    service = FakeService()
    shanghai = timezone(timedelta(hours=8))
    async with client_of(service, backtest_time=datetime(2015, 1, 1, 8, 0, 0, 42, tzinfo=shanghai)) as (client, _):
        await client.get_card(GetCardRequest())
        await client.get_card(GetCardRequest(), backtest_time=datetime(2016, 1, 1, tzinfo=UTC))
    sent = [call.metadata["card-recycling-backtest-time"] for call in service.calls]
    assert sent == ["2015-01-01T00:00:00.000042Z", "2016-01-01T00:00:00.000000Z"]


async def test_naive_backtest_time_is_refused() -> None:
    """A time without a zone could mean anything."""
    async with client_of(FakeService(), backtest_time=datetime(2015, 1, 1)) as (client, _):  # noqa: DTZ001
        with pytest.raises(ValueError, match="aware"):
            await client.get_card(GetCardRequest())


async def test_without_backtest_no_time_is_sent() -> None:
    """An ordinary call carries no back-test time."""
    service = FakeService()
    async with client_of(service) as (client, _):
        await client.get_card(GetCardRequest())
    assert "card-recycling-backtest-time" not in service.calls[0].metadata


async def test_verdict_keeps_its_request_id() -> None:
    """A verdict gets a request id, which its retries carry."""
    service = FakeService(UNAVAILABLE)
    async with client_of(service) as (client, _):
        await client.resolve_review(ResolveReviewRequest(review_id="r"))
    first, second = (call.request.request_id for call in service.calls)
    assert first == second and uuid.UUID(first).version == 4


async def test_reviews_are_fetched_in_pages() -> None:
    """All pages of reviews come one after the other, with the same filter."""
    service = FakeService()
    async with client_of(service) as (client, _):
        found = [review.review_id async for review in client.reviews(platform="iqiyi")]
    assert found == ["review-0", "review-1"]
    assert [call.request.platform for call in service.calls] == ["iqiyi", "iqiyi"]


async def watched(client: RecyclingClient, request: WatchEventsRequest, how_many: int) -> list[str]:
    """The ids of the next events."""
    found: list[str] = []
    async with asyncio.timeout(30), contextlib.aclosing(client.watch_events(request)) as following:
        async for event in following:
            found.append(event.event_id)
            if len(found) == how_many:
                break
    return found


async def test_stream_goes_on_where_it_broke() -> None:
    """Each event once, though the stream breaks twice; every new call brings the last token, and no deadline."""
    service, pauses = FakeService(UNAVAILABLE, UNAVAILABLE), Pauses()
    async with served(service) as address, RecyclingClient(address, sleep=pauses.sleep) as client:
        assert await watched(client, WatchEventsRequest(), 9) == [f"e{number}" for number in range(9)]
    assert [call.request.resume_token for call in service.calls] == ["", "3", "6"]
    assert {call.time_remaining_s for call in service.calls} == {None}
    assert len(pauses) == 2


async def test_stream_resumes_by_the_same_request() -> None:
    """The request stands after the events that were dealt with: the one in hand comes again."""
    async with served(FakeService()) as address, RecyclingClient(address) as client:
        request = WatchEventsRequest()
        assert await watched(client, request, 5) == ["e0", "e1", "e2", "e3", "e4"]
        assert request.resume_token == "4"


async def test_stream_that_is_refused_ends() -> None:
    """What will not be otherwise later is raised at once."""
    async with served(FakeService(NOT_FOUND)) as address, RecyclingClient(address) as client:
        with pytest.raises(RecyclingError):
            await watched(client, WatchEventsRequest(), 9)


async def test_silent_stream_is_left() -> None:
    """A server that says nothing for too long is asked again; one that never does is given up in the end."""
    async with served(FakeService()) as address, RecyclingClient(address) as client:
        request = WatchEventsRequest(resume_token="9")
        with pytest.raises(RecyclingError, match="nothing was heard"):
            async for _ in client.watch_events(request, silence_s=0.05, give_up_s=0.2):
                pass


async def test_the_support_key_goes_with_goodwill_only() -> None:
    """No other call shows it."""
    service = FakeService()
    async with served(service) as address, RecyclingClient(address, support_key="k" * 32) as client:
        await client.compensate(CompensateRequest(account_id="a", goodwill=Goodwill(amount=1)))
        await client.compensate(CompensateRequest(account_id="a"))
    assert [call.metadata.get("authorization") for call in service.calls] == [f"Bearer {'k' * 32}", None]
