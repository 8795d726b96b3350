"""The typed client: one method an RPC, with deadlines, safe retries, rich errors and trace propagation.

Knows the contract in protos/ and how to call it well; must not know the server's rules, and sets up no telemetry of its
own (the OpenTelemetry API is called always, and does something once the application has installed an SDK).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self, TypedDict, TypeVar, Unpack

import grpc
from card_recycling.v1 import card_service_pb2 as card_pb2
from card_recycling.v1 import insights_service_pb2 as insights_pb2
from card_recycling.v1 import policy_service_pb2 as policy_pb2
from card_recycling.v1 import recycling_service_pb2 as recycling_pb2
from card_recycling.v1 import review_service_pb2 as review_pb2
from card_recycling.v1 import types_pb2
from card_recycling.v1 import wallet_service_pb2 as wallet_pb2
from card_recycling.v1.card_service_pb2_grpc import CardServiceStub
from card_recycling.v1.insights_service_pb2_grpc import InsightsServiceStub
from card_recycling.v1.policy_service_pb2_grpc import PolicyServiceStub
from card_recycling.v1.recycling_service_pb2_grpc import RecyclingServiceStub
from card_recycling.v1.review_service_pb2_grpc import ReviewServiceStub
from card_recycling.v1.wallet_service_pb2_grpc import WalletServiceStub
from google.protobuf.message import Message
from opentelemetry.instrumentation.grpc import aio_client_interceptors

from clients.python.errors import RecyclingError, Retries

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 5.0
BACKTEST_TIME_KEY = "card-recycling-backtest-time"
PAGE_SIZE = 200

_CHANNEL_OPTIONS = [
    # An answer to a full batch, with every decision in it, is larger than grpc's default of 4 MiB.
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
    # grpc fails calls at once until its next attempt to connect; that must come within our own retries.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

_RETRIES = Retries()

_Request = TypeVar("_Request", bound=Message, contravariant=True)
_Response = TypeVar("_Response", bound=Message, covariant=True)


class CallOptions(TypedDict, total=False):
    """What may be said for one call instead of the client's own setting.

    `timeout_s`: seconds for the call and all its retries. `backtest_time`: see `RecyclingClient`.
    """

    timeout_s: float
    backtest_time: datetime


class RecyclingClient:
    """Calls Card Recycling at `address`. Make it inside a running event loop, use it as `async with`.

    Each method is one RPC: it takes the request message and returns the response message, documented in protos/, and
    raises `RecyclingError`. Every call has a deadline of `timeout_s` seconds, within which it is retried as `retries`
    says, when it failed with UNAVAILABLE, CANCELLED (a server going away), RESOURCE_EXHAUSTED (after the pause that the
    service asks for), CONFLICT_RETRY, or a DEADLINE_EXCEEDED that came before our own deadline.

    A `request_id` left empty is filled in, in the message itself: calling again with the same message repeats the
    request and never duplicates it, in retries and after an error alike.

    `backtest_time` is for databases made for back-tests: their clock is moved forward to it (never back) before a call
    is served; any other service answers FIELD_INVALID. It is an aware datetime, and may be changed between calls, or
    given for one.

    Without `credentials` the channel is plaintext. `support_key`: the server's key of customer care; sent with goodwill
    only. `sleep` waits so many seconds (tests give another).
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        backtest_time: datetime | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        support_key: str = "",
        retries: Retries = _RETRIES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.timeout_s = timeout_s
        self.backtest_time = backtest_time
        self._support_key = support_key
        self._retries = retries
        self._sleep = sleep
        interceptors = aio_client_interceptors(filter_=_is_traced)  # type: ignore[no-untyped-call]
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS, interceptors=interceptors)
        else:
            self._channel = grpc.aio.secure_channel(
                address, credentials, options=_CHANNEL_OPTIONS, interceptors=interceptors
            )
        self._recycling = RecyclingServiceStub(self._channel)
        self._cards = CardServiceStub(self._channel)
        self._reviews = ReviewServiceStub(self._channel)
        self._wallets = WalletServiceStub(self._channel)
        self._policies = PolicyServiceStub(self._channel)
        self._insights = InsightsServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel; calls still under way are cancelled."""
        await self._channel.close()

    # Recycling

    async def quote_recycle(
        self, request: recycling_pb2.QuoteRecycleRequest, **options: Unpack[CallOptions]
    ) -> recycling_pb2.QuoteRecycleResponse:
        """Says what `recycle` would do now, and gives a token that holds the terms for up to five minutes."""
        return await self._call(self._recycling.QuoteRecycle, request, options)

    async def recycle(
        self, request: recycling_pb2.RecycleRequest, **options: Unpack[CallOptions]
    ) -> recycling_pb2.RecycleResponse:
        """Takes a card back. A refusal for risk is an answer (state REJECTED), no error."""
        _fill_request_ids(request)
        return await self._call(self._recycling.Recycle, request, options)

    async def batch_recycle(
        self, request: recycling_pb2.BatchRecycleRequest, **options: Unpack[CallOptions]
    ) -> recycling_pb2.BatchRecycleResponse:
        """Takes up to 1,000 cards back, decided as one after the other; each result has its own recycling or status."""
        _fill_request_ids(*request.requests)
        return await self._call(self._recycling.BatchRecycle, request, options)

    async def reactivate(
        self, request: recycling_pb2.ReactivateRequest, **options: Unpack[CallOptions]
    ) -> recycling_pb2.ReactivateResponse:
        """Gives a card back and takes back what was settled. A refusal for risk is an answer, no error."""
        _fill_request_ids(request)
        return await self._call(self._recycling.Reactivate, request, options)

    async def compensate(
        self, request: recycling_pb2.CompensateRequest, **options: Unpack[CallOptions]
    ) -> recycling_pb2.CompensateResponse:
        """Settles the pending compensation of one recycling into the wallet, once; or grants goodwill, which needs the
        client's `support_key`."""
        _fill_request_ids(request)
        bearer = (("authorization", f"Bearer {self._support_key}"),)
        granting = request.HasField("goodwill") and self._support_key
        return await self._call(self._recycling.Compensate, request, options, bearer if granting else ())

    async def get_recycling(
        self, request: recycling_pb2.GetRecyclingRequest, **options: Unpack[CallOptions]
    ) -> recycling_pb2.GetRecyclingResponse:
        """One recycling as it stands today."""
        return await self._call(self._recycling.GetRecycling, request, options)

    async def list_recyclings(
        self, request: recycling_pb2.ListRecyclingsRequest, **options: Unpack[CallOptions]
    ) -> recycling_pb2.ListRecyclingsResponse:
        """One page of an account's recyclings, newest first; `recyclings` gives them all."""
        return await self._call(self._recycling.ListRecyclings, request, options)

    async def recyclings(
        self, account_id: str, *, page_size: int = PAGE_SIZE, **options: Unpack[CallOptions]
    ) -> AsyncIterator[types_pb2.Recycling]:
        """All recyclings of an account, newest first, fetched in pages; each page has the call's deadline."""
        request = recycling_pb2.ListRecyclingsRequest(account_id=account_id, page_size=page_size)
        async for page in _pages(self.list_recyclings, request, options):
            for recycling in page.recyclings:
                yield recycling

    async def record_outcome(
        self, request: recycling_pb2.RecordOutcomeRequest, **options: Unpack[CallOptions]
    ) -> recycling_pb2.RecordOutcomeResponse:
        """Tells what became of a recycling. The same again is the same answer."""
        return await self._call(self._recycling.RecordOutcome, request, options)

    # Cards

    async def issue_cards(
        self, request: card_pb2.IssueCardsRequest, **options: Unpack[CallOptions]
    ) -> card_pb2.IssueCardsResponse:
        """Issues up to 1,000 cards; each result has its own card or status."""
        _fill_request_ids(*request.items)
        return await self._call(self._cards.IssueCards, request, options)

    async def activate_card(
        self, request: card_pb2.ActivateCardRequest, **options: Unpack[CallOptions]
    ) -> card_pb2.ActivateCardResponse:
        """Starts an ISSUED card's validity."""
        _fill_request_ids(request)
        return await self._call(self._cards.ActivateCard, request, options)

    async def bind_device(
        self, request: card_pb2.BindDeviceRequest, **options: Unpack[CallOptions]
    ) -> card_pb2.BindDeviceResponse:
        """Binds a device to a card."""
        _fill_request_ids(request)
        return await self._call(self._cards.BindDevice, request, options)

    async def void_card(
        self, request: card_pb2.VoidCardRequest, **options: Unpack[CallOptions]
    ) -> card_pb2.VoidCardResponse:
        """Ends a card that was paid back elsewhere."""
        _fill_request_ids(request)
        return await self._call(self._cards.VoidCard, request, options)

    async def get_card(
        self, request: card_pb2.GetCardRequest, **options: Unpack[CallOptions]
    ) -> card_pb2.GetCardResponse:
        """One card as it stands now."""
        return await self._call(self._cards.GetCard, request, options)

    async def list_cards(
        self, request: card_pb2.ListCardsRequest, **options: Unpack[CallOptions]
    ) -> card_pb2.ListCardsResponse:
        """One page of an account's cards, newest first; `cards` gives them all."""
        return await self._call(self._cards.ListCards, request, options)

    async def cards(
        self, account_id: str, *, page_size: int = PAGE_SIZE, **options: Unpack[CallOptions]
    ) -> AsyncIterator[types_pb2.Card]:
        """All cards of an account, newest first, fetched in pages; each page has the call's deadline."""
        request = card_pb2.ListCardsRequest(account_id=account_id, page_size=page_size)
        async for page in _pages(self.list_cards, request, options):
            for card in page.cards:
                yield card

    async def watch_events(
        self,
        request: card_pb2.WatchEventsRequest,
        *,
        silence_s: float = 30.0,
        give_up_s: float = 300.0,
        backtest_time: datetime | None = None,
    ) -> AsyncGenerator[card_pb2.Event, None]:
        """The events that are wanted, for ever, each once; connects again by the last token whenever the stream breaks,
        or is silent for `silence_s` seconds.

        The request is moved on: whenever the next event is asked for, its token stands after those before. Keep an
        event's own `resume_token` along with what you do about it, and nothing is done twice. Raises RecyclingError
        when the service says no for good, or could not be heard for `give_up_s` seconds.
        """
        clock = asyncio.get_running_loop().time
        heard, failures = clock(), 0
        while True:
            call = self._cards.WatchEvents(request, metadata=_metadata(backtest_time))
            try:
                responses = aiter(call)
                while True:
                    async with asyncio.timeout(silence_s):
                        response = await anext(responses)
                    heard, failures = clock(), 0
                    for event in response.events:
                        yield event
                        _resume(request, event.resume_token)
                    _resume(request, response.resume_token)
            except StopAsyncIteration:  # no service of ours ends it so, but something in between may
                error = RecyclingError(code=grpc.StatusCode.UNAVAILABLE, message="the stream has ended")
            except TimeoutError:
                error = RecyclingError(
                    code=grpc.StatusCode.UNAVAILABLE, message=f"nothing was heard for {silence_s:g} s"
                )
            except grpc.aio.AioRpcError as broken:
                error = RecyclingError.from_call(broken)
            finally:
                call.cancel()
            failures += 1
            pause_s = self._retries.pause_of(error, failures)
            if pause_s is None or clock() + pause_s >= heard + give_up_s:
                raise error
            await self._sleep(pause_s)

    # Reviews

    async def list_reviews(
        self, request: review_pb2.ListReviewsRequest, **options: Unpack[CallOptions]
    ) -> review_pb2.ListReviewsResponse:
        """One page of all accounts' reviews, oldest first; `reviews` gives them all."""
        return await self._call(self._reviews.ListReviews, request, options)

    async def reviews(
        self,
        state: review_pb2.ReviewState.ValueType = review_pb2.REVIEW_STATE_UNSPECIFIED,
        platform: str = "",
        *,
        page_size: int = PAGE_SIZE,
        **options: Unpack[CallOptions],
    ) -> AsyncIterator[review_pb2.Review]:
        """All reviews in a state and of a platform, oldest first, without evidence, fetched in pages."""
        request = review_pb2.ListReviewsRequest(state=state, platform=platform, page_size=page_size)
        async for page in _pages(self.list_reviews, request, options):
            for review in page.reviews:
                yield review

    async def claim_review(
        self, request: review_pb2.ClaimReviewRequest, **options: Unpack[CallOptions]
    ) -> review_pb2.ClaimReviewResponse:
        """Takes a review for 15 minutes: the one named, or the most pressing that nobody has. A retry of a claim that
        names none may take another one; the first is free again when its 15 minutes are over."""
        return await self._call(self._reviews.ClaimReview, request, options)

    async def resolve_review(
        self, request: review_pb2.ResolveReviewRequest, **options: Unpack[CallOptions]
    ) -> review_pb2.ResolveReviewResponse:
        """Gives a verdict."""
        _fill_request_ids(request)
        return await self._call(self._reviews.ResolveReview, request, options)

    # Wallets

    async def get_wallet(
        self, request: wallet_pb2.GetWalletRequest, **options: Unpack[CallOptions]
    ) -> wallet_pb2.GetWalletResponse:
        """An account's wallet as it stands now."""
        return await self._call(self._wallets.GetWallet, request, options)

    async def list_offers(
        self, request: wallet_pb2.ListOffersRequest, **options: Unpack[CallOptions]
    ) -> wallet_pb2.ListOffersResponse:
        """What the policies in force offer for their units, and their rates of exchange."""
        return await self._call(self._wallets.ListOffers, request, options)

    async def redeem(
        self, request: wallet_pb2.RedeemRequest, **options: Unpack[CallOptions]
    ) -> wallet_pb2.RedeemResponse:
        """Takes an offer; its partner is told."""
        _fill_request_ids(request)
        return await self._call(self._wallets.Redeem, request, options)

    async def exchange(
        self, request: wallet_pb2.ExchangeRequest, **options: Unpack[CallOptions]
    ) -> wallet_pb2.ExchangeResponse:
        """Changes one unit into another, at the rate of the policy in force."""
        _fill_request_ids(request)
        return await self._call(self._wallets.Exchange, request, options)

    async def list_postings(
        self, request: wallet_pb2.ListPostingsRequest, **options: Unpack[CallOptions]
    ) -> wallet_pb2.ListPostingsResponse:
        """One page of an account's postings, newest first; `postings` gives them all."""
        return await self._call(self._wallets.ListPostings, request, options)

    async def postings(
        self, wanted: wallet_pb2.ListPostingsRequest, **options: Unpack[CallOptions]
    ) -> AsyncIterator[wallet_pb2.Posting]:
        """All postings that are wanted, newest first, fetched in pages; each page has the call's deadline."""
        request = wallet_pb2.ListPostingsRequest(page_size=PAGE_SIZE)
        request.MergeFrom(wanted)
        async for page in _pages(self.list_postings, request, options):
            for posting in page.postings:
                yield posting

    # Lists

    async def put_list_entry(
        self, request: review_pb2.PutListEntryRequest, **options: Unpack[CallOptions]
    ) -> review_pb2.PutListEntryResponse:
        """Puts a subject on a list. Without an etag a retry may leave one more version, which says the same."""
        return await self._call(self._reviews.PutListEntry, request, options)

    async def delete_list_entry(
        self, request: review_pb2.DeleteListEntryRequest, **options: Unpack[CallOptions]
    ) -> review_pb2.DeleteListEntryResponse:
        """Takes a subject off a list. A retry whose first attempt was recorded is LIST_ENTRY_NOT_FOUND."""
        return await self._call(self._reviews.DeleteListEntry, request, options)

    async def list_entries(
        self, request: review_pb2.ListEntriesRequest, **options: Unpack[CallOptions]
    ) -> review_pb2.ListEntriesResponse:
        """One page of list entries, newest first; `entries` gives them all."""
        return await self._call(self._reviews.ListEntries, request, options)

    async def entries(
        self, wanted: review_pb2.ListEntriesRequest, **options: Unpack[CallOptions]
    ) -> AsyncIterator[review_pb2.ListEntry]:
        """All list entries that are wanted, newest first, fetched in pages; each page has the call's deadline."""
        request = review_pb2.ListEntriesRequest(page_size=PAGE_SIZE)
        request.MergeFrom(wanted)
        async for page in _pages(self.list_entries, request, options):
            for entry in page.entries:
                yield entry

    # Policies

    async def get_policy(
        self, request: policy_pb2.GetPolicyRequest, **options: Unpack[CallOptions]
    ) -> policy_pb2.GetPolicyResponse:
        """One revision: the one in force, or the one named."""
        return await self._call(self._policies.GetPolicy, request, options)

    async def list_policies(
        self, request: policy_pb2.ListPoliciesRequest, **options: Unpack[CallOptions]
    ) -> policy_pb2.ListPoliciesResponse:
        """One page of revisions, newest first; `policies` gives them all."""
        return await self._call(self._policies.ListPolicies, request, options)

    async def policies(
        self, platform: str | None = None, **options: Unpack[CallOptions]
    ) -> AsyncIterator[policy_pb2.PolicyRevision]:
        """All revisions, newest first, fetched in pages; each page has the call's deadline."""
        request = policy_pb2.ListPoliciesRequest(platform=platform, page_size=PAGE_SIZE)
        async for page in _pages(self.list_policies, request, options):
            for policy in page.policies:
                yield policy

    async def create_policy_revision(
        self, request: policy_pb2.CreatePolicyRevisionRequest, **options: Unpack[CallOptions]
    ) -> policy_pb2.CreatePolicyRevisionResponse:
        """Keeps a document as its platform's next revision. A retry finds the one that was made, unless it gives an
        etag: then it is ETAG_MISMATCH."""
        return await self._call(self._policies.CreatePolicyRevision, request, options)

    async def activate_policy_revision(
        self, request: policy_pb2.ActivatePolicyRevisionRequest, **options: Unpack[CallOptions]
    ) -> policy_pb2.ActivatePolicyRevisionResponse:
        """Lets a revision govern from a moment on. Without an etag a retry may leave one more activation, which says
        the same."""
        return await self._call(self._policies.ActivatePolicyRevision, request, options)

    async def backtest_policy(
        self, request: policy_pb2.BacktestPolicyRequest, **options: Unpack[CallOptions]
    ) -> policy_pb2.BacktestPolicyResponse:
        """Tries a candidate on recorded decisions. It uses as much of its time as it needs: give it a minute."""
        return await self._call(self._policies.BacktestPolicy, request, options)

    # Insights

    async def get_model_health(
        self, request: insights_pb2.GetModelHealthRequest, **options: Unpack[CallOptions]
    ) -> insights_pb2.GetModelHealthResponse:
        """How the fraud models fare, from a sample of the newest decisions. Takes seconds: give it the time."""
        return await self._call(self._insights.GetModelHealth, request, options)

    async def _call(
        self,
        method: _Method[_Request, _Response],
        request: _Request,
        options: CallOptions,
        more_metadata: tuple[tuple[str, str], ...] = (),
    ) -> _Response:
        """One RPC with its retries, all within one deadline."""
        timeout_s = options.get("timeout_s", self.timeout_s)
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"a timeout must be a positive number of seconds, not {timeout_s}")
        metadata = _metadata(options.get("backtest_time", self.backtest_time))
        for key, value in more_metadata:
            metadata.add(key, value)
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        for attempt in itertools.count(1):
            try:
                return await method(request, timeout=deadline - clock(), metadata=metadata)
            except grpc.aio.AioRpcError as call:
                error = RecyclingError.from_call(call)
                pause_s = self._retries.pause_after(error, attempt)
                if pause_s is None or clock() + pause_s >= deadline:
                    raise error from call
            await self._sleep(pause_s)
        raise AssertionError("unreachable")


class _Method(Protocol[_Request, _Response]):
    """A method of a stub, as far as it is used here."""

    def __call__(
        self, request: _Request, *, timeout: float | None = None, metadata: grpc.aio.Metadata | None = None
    ) -> Awaitable[_Response]: ...


class _PagedRequest(Protocol):
    page_token: str


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


_ListPage = TypeVar("_ListPage", bound=_Page)


async def _pages(
    list_page: Callable[..., Awaitable[_ListPage]], request: _PagedRequest, options: CallOptions
) -> AsyncIterator[_ListPage]:
    """All pages from the request's on; the request is moved on with them."""
    while True:
        page = await list_page(request, **options)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _is_traced(call: grpc.aio.ClientCallDetails) -> bool:
    """All calls but streams, whose spans would never end."""
    return "/WatchEvents" not in str(call.method)  # which grpc gives as bytes


def _resume(request: card_pb2.WatchEventsRequest, token: str) -> None:
    request.resume_token = token
    request.start = card_pb2.WATCH_START_UNSPECIFIED


def _fill_request_ids(
    *requests: recycling_pb2.RecycleRequest
    | recycling_pb2.ReactivateRequest
    | recycling_pb2.CompensateRequest
    | card_pb2.IssueCardsRequest.Item
    | card_pb2.ActivateCardRequest
    | card_pb2.BindDeviceRequest
    | card_pb2.VoidCardRequest
    | review_pb2.ResolveReviewRequest
    | wallet_pb2.RedeemRequest
    | wallet_pb2.ExchangeRequest,
) -> None:
    for request in requests:
        request.request_id = request.request_id or str(uuid.uuid4())


def _metadata(backtest_time: datetime | None) -> grpc.aio.Metadata:
    if backtest_time is None:
        return grpc.aio.Metadata()
    if backtest_time.tzinfo is None:
        raise ValueError("backtest_time must be an aware datetime")
    instant = backtest_time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return grpc.aio.Metadata((BACKTEST_TIME_KEY, instant))
