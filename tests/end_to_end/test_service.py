"""The contract through real gRPC between real processes: paths, errors, limits, health and reflection."""

from __future__ import annotations

import asyncio
import base64
import struct
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from card_recycling.v1 import card_service_pb2, recycling_service_pb2, types_pb2, wallet_service_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from clients.python import RecyclingError
from server.domain.commands import own_request_id
from tests.conftest import FreshDatabase
from tests.end_to_end.conftest import (
    PATIENCE_S,
    START,
    Service,
    behavior,
    device,
    eventually,
    recycle,
    server_process,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SERVICE = "/card_recycling.v1.RecyclingService"
SERVICES = {
    "card_recycling.v1.RecyclingService",
    "card_recycling.v1.CardService",
    "card_recycling.v1.ReviewService",
    "card_recycling.v1.PolicyService",
    "card_recycling.v1.WalletService",
    "card_recycling.v1.InsightsService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


async def raw(
    address: str, method: str, data: bytes, *, timeout_s: float | None = PATIENCE_S, metadata: Any = ()
) -> bytes:
    """The answer to any bytes sent to any method."""
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call: Any = channel.unary_unary(method)
        answer: bytes = await call(data, timeout=timeout_s, metadata=metadata)
        return answer


async def refused(service: Service, method: str, data: bytes, **how: Any) -> tuple[grpc.StatusCode, str, Any]:
    """Code and reason of a call that must fail, and its BadRequest's fields."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await raw(service.stack.address, method, data, **how)
    status: Any = rpc_status.from_call(failed.value)  # type: ignore[arg-type]
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details if status else ():
        for message in (info, bad_request):
            detail.Unpack(message)
    assert info.domain in ("card-recycling", "")
    return failed.value.code(), info.reason, [violation.field for violation in bad_request.field_violations]


# The three platforms


async def test_iqiyi_path(service: Service) -> None:
    """iqiyi: twelve of thirty days used, 1,619 coins after the fee; settled; given back with the rest of its time."""
    card = await service.active("iqiyi")
    quote = await service.client.quote_recycle(
        recycling_service_pb2.QuoteRecycleRequest(
            account_id=card.account_id,
            card_id=card.card_id,
            reason=types_pb2.RECYCLE_REASON_VOLUNTARY,
            device=device(card),
            behavior=behavior(),
        )
    )
    recycling = await service.recycled(card, quote_token=quote.quote_token)
    assert recycling.state == types_pb2.RECYCLING_STATE_APPROVED
    assert recycling.disposition == types_pb2.DISPOSITION_VOUCHER
    assert (recycling.fee_minor, recycling.compensation.amount) == (180, 1619)
    named: dict[str, Any] = {"account_id": card.account_id, "recycling_id": recycling.recycling_id}
    settled = await service.client.compensate(recycling_service_pb2.CompensateRequest(**named))
    assert settled.wallet.balances[0].amount == 1619
    back = await service.client.reactivate(
        recycling_service_pb2.ReactivateRequest(**named, device=device(card), behavior=behavior())
    )
    assert back.card.state == types_pb2.CARD_STATE_ACTIVE and back.card.generation == 2
    assert back.card.expire_time.ToDatetime(tzinfo=START.tzinfo) == service.now + timedelta(days=18)
    assert back.recycling.compensation.state == types_pb2.COMPENSATION_STATE_CLAWED_BACK
    wallet = await service.client.get_wallet(wallet_service_pb2.GetWalletRequest(account_id=card.account_id))
    assert not wallet.wallet.balances


async def test_tencent_path(service: Service) -> None:
    """tencent: points for each whole unused day; given back in full once, and then never again."""
    card = await service.active("tencent", duration_days=31)
    recycling = await service.recycled(card)
    assert recycling.disposition == types_pb2.DISPOSITION_RESET_VALIDITY
    assert recycling.compensation.amount == 190
    named: dict[str, Any] = {"account_id": card.account_id, "recycling_id": recycling.recycling_id}
    back = await service.client.reactivate(
        recycling_service_pb2.ReactivateRequest(**named, device=device(card), behavior=behavior())
    )
    assert (back.card.renewals_used, back.card.generation) == (1, 2)
    assert back.card.expire_time.ToDatetime(tzinfo=START.tzinfo) == service.now + timedelta(days=31)
    second = await service.recycled(card)
    assert not second.HasField("compensation")
    with pytest.raises(RecyclingError) as error:
        await service.client.reactivate(
            recycling_service_pb2.ReactivateRequest(account_id=card.account_id, recycling_id=second.recycling_id)
        )
    assert error.value.reason == "RENEWALS_EXHAUSTED"


async def test_netflix_path(service: Service) -> None:
    """netflix: too early for thirty days after expiry, then one coupon of at most five per cent; never given back."""
    card = await service.active("netflix", face_value_minor=1990, paid_minor=1990)
    service.pass_time(timedelta(days=18 + 30) - timedelta(seconds=1))
    with pytest.raises(RecyclingError) as error:
        await service.recycled(card)
    assert error.value.reason == "TRIGGER_NOT_ALLOWED"
    service.pass_time(timedelta(seconds=1))
    recycling = await service.recycled(card)
    assert recycling.disposition == types_pb2.DISPOSITION_CANCEL
    named: dict[str, Any] = {"account_id": card.account_id, "recycling_id": recycling.recycling_id}
    settled = await service.client.compensate(recycling_service_pb2.CompensateRequest(**named))
    assert [(c.basis_points, c.max_discount_minor) for c in settled.wallet.coupons] == [(500, 99)]
    with pytest.raises(RecyclingError) as error:
        await service.client.reactivate(recycling_service_pb2.ReactivateRequest(**named))
    assert error.value.reason == "REACTIVATION_NOT_ALLOWED"


async def test_sweeper_recycles_what_nobody_asks_for(service: Service) -> None:
    """A server that sweeps takes back an expired netflix card by itself, thirty days on, without a device."""
    card = await service.active("netflix")
    service.pass_time(timedelta(days=18 + 30))
    named = card_service_pb2.GetCardRequest(account_id=card.account_id, card_id=card.card_id)
    assert (await service.client.get_card(named)).card.state == types_pb2.CARD_STATE_EXPIRED
    sweeping = {"SWEEP_EVERY_S": "0.05"}
    with server_process(service.stack.server_url, service.stack.worker_address, environment=sweeping):

        async def taken() -> None:
            assert (await service.client.get_card(named)).card.state == types_pb2.CARD_STATE_VOID

        await eventually(taken)
    with pytest.raises(RecyclingError) as error:
        await service.recycled(card)
    assert error.value.reason == "CARD_ALREADY_RECYCLED"


async def test_device_is_bound(service: Service) -> None:
    """The card shows a handle of it, which is not the id that was given; without an id there is nothing to bind."""
    card = await service.active("iqiyi")
    phone = device(card)
    request = card_service_pb2.BindDeviceRequest(account_id=card.account_id, card_id=card.card_id, device=phone)
    bound = (await service.client.bind_device(request)).card
    assert len(bound.bound_devices) == 1 and phone.device_id not in bound.bound_devices
    named = card_service_pb2.GetCardRequest(account_id=card.account_id, card_id=card.card_id)
    assert (await service.client.get_card(named)).card == bound
    for nothing in (types_pb2.Device(os="android"), types_pb2.Device(device_id=" \u3000")):
        with pytest.raises(RecyclingError) as error:
            await service.client.bind_device(
                card_service_pb2.BindDeviceRequest(account_id=card.account_id, card_id=card.card_id, device=nothing)
            )
        assert error.value.reason == "FIELD_INVALID"
        assert [each.field for each in error.value.field_violations] == ["device.device_id"]


async def test_request_id_of_the_service_s_own_kind_is_refused(service: Service) -> None:
    """Nobody can take the id under which the service would record what time does to a card."""
    (card,) = await service.issue("iqiyi")
    with pytest.raises(RecyclingError) as error:
        await service.recycled(card, request_id=str(own_request_id("ExpireCard", card.card_id, 1)))
    assert error.value.reason == "FIELD_INVALID"


async def test_full_batch(service: Service) -> None:
    """A thousand recycles in one call are answered in order, each with its own result, bad ones among them."""
    cards = await service.issue("iqiyi", 999)
    requests = [recycle(card) for card in cards]
    requests.insert(500, recycle(cards[0], request_id="no uuid"))
    answer = await service.client.batch_recycle(recycling_service_pb2.BatchRecycleRequest(requests=requests))
    assert [result.WhichOneof("outcome") for result in answer.results] == (
        ["recycling"] * 500 + ["status"] + ["recycling"] * 499
    )
    told = [result.recycling.card_id for result in answer.results if result.HasField("recycling")]
    assert told == [card.card_id for card in cards]
    assert RecyclingError.from_status(answer.results[500].status).field_violations[0].field == "request_id"


async def test_outcome_is_kept_once(service: Service) -> None:
    """What became of a recycling is told with what had decided upon it; again, the same bytes come back."""
    recycling = await service.recycled(await service.active("iqiyi"))
    service.pass_time(timedelta(days=2))
    request = recycling_service_pb2.RecordOutcomeRequest(
        recycling_id=recycling.recycling_id,
        kind=recycling_service_pb2.OUTCOME_KIND_CHARGEBACK,
        time=recycling.create_time,
    )
    outcome = (await service.client.record_outcome(request)).outcome
    assert (outcome.account_id, outcome.record_time.ToDatetime(UTC)) == (recycling.account_id, service.now)
    decided = recycling.decision
    told = outcome.attribution
    assert (told.policy_revision, told.model_version) == (decided.policy_revision, decided.model_version)
    assert (told.risk_score, told.state) == (decided.risk_score, recycling.state)
    service.pass_time(timedelta(days=1))
    assert (await service.client.record_outcome(request)).outcome == outcome


async def test_lists_page(service: Service) -> None:
    """Cards and recyclings of an account come newest first, in pages, each once."""
    account_id, issued, recycled = f"lists-{uuid.uuid4()}", [], []
    for _ in range(5):
        (card,) = await service.issue("iqiyi", account_id=account_id)
        issued.append(card)
        service.pass_time(timedelta(seconds=1))
    cards = [each.card_id async for each in service.client.cards(account_id, page_size=2)]
    assert cards == [card.card_id for card in reversed(issued)]
    for card in issued:
        recycled.append((await service.recycled(card)).recycling_id)
        service.pass_time(timedelta(seconds=1))
    listed = [each.recycling_id async for each in service.client.recyclings(account_id, page_size=2)]
    assert listed == recycled[::-1]


# Errors


async def test_unknown_card(service: Service) -> None:
    """A card that does not exist, and one of another account, are the same NOT_FOUND."""
    one, two = await service.issue("iqiyi", 2)
    for request in (recycle(one, card_id=str(uuid.uuid4())), recycle(one, card_id=two.card_id)):
        told = await refused(service, f"{SERVICE}/Recycle", request.SerializeToString())
        assert told == (grpc.StatusCode.NOT_FOUND, "CARD_NOT_FOUND", [])


async def test_bad_fields_are_named(service: Service) -> None:
    """Every field at fault is named, deep ones by their path."""
    (card,) = await service.issue("iqiyi")
    request = recycle(card, request_id="x", card_id="y", reason=99)
    request.device.ip = "not an address"
    request.behavior.session_seconds = float("nan")
    code, reason, fields = await refused(service, f"{SERVICE}/Recycle", request.SerializeToString())
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert {*fields} == {"request_id", "card_id", "reason", "device.ip", "behavior.session_seconds"}


async def test_deadline_is_required(service: Service) -> None:
    """A call without deadline is refused before anything else."""
    told = await refused(service, f"{SERVICE}/Recycle", b"", timeout_s=None)
    assert told == (grpc.StatusCode.INVALID_ARGUMENT, "DEADLINE_REQUIRED", [])


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x7f", b"\x0a\x02\xc3\x28", b"\x00" * 100, b"\x0b" * 5000],
    ids=["no tag", "endless length", "no utf-8", "zeros", "nested groups"],
)
async def test_hostile_bytes(service: Service, data: bytes) -> None:
    """Bytes that are no message are FIELD_INVALID, and the server goes on."""
    code, reason, _ = await refused(service, f"{SERVICE}/Recycle", data)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert await service.issue("iqiyi")


async def test_hostile_bytes_to_health(service: Service) -> None:
    """Others' services, too, refuse them like ours."""
    code, reason, _ = await refused(service, "/grpc.health.v1.Health/Check", b"\xff\xff\xff\xff")
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


async def test_unknown_fields_are_ignored(service: Service) -> None:
    """A message with fields of a later version is served as one without."""
    (card,) = await service.issue("iqiyi")
    data = recycle(card).SerializeToString() + b"\xf2\x3f\x05later"  # field 1022
    answer = await raw(service.stack.address, f"{SERVICE}/Recycle", data)
    assert recycling_service_pb2.RecycleResponse.FromString(answer).recycling.card_id == card.card_id


async def test_message_sizes(service: Service) -> None:
    """64 KiB are read, one byte more is refused by the service, and far more by the transport."""
    (card,) = await service.issue("iqiyi")
    message = recycle(card).SerializeToString()

    def padded(size: int) -> bytes:
        # An unknown field, with a tag of two bytes and a length of three.
        room = size - len(message) - 5
        return message + b"\xf2\x3f" + bytes([room & 127 | 128, room >> 7 & 127 | 128, room >> 14]) + b"x" * room

    told = await refused(service, f"{SERVICE}/Recycle", padded(64 * 1024 + 1))
    assert told == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", [])
    assert await raw(service.stack.address, f"{SERVICE}/Recycle", padded(64 * 1024))
    code, _, _ = await refused(service, f"{SERVICE}/Recycle", b"x" * 6_000_000)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_batch_sizes(service: Service) -> None:
    """A batch of none and one of 1,001 are refused as a whole."""
    for requests in ([], [recycling_service_pb2.RecycleRequest()] * 1001):
        batch = recycling_service_pb2.BatchRecycleRequest(requests=requests)
        code, reason, _ = await refused(service, f"{SERVICE}/BatchRecycle", batch.SerializeToString())
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


@pytest.mark.parametrize("method", [f"{SERVICE}/Nothing", "/card_recycling.v1.NoService/Recycle", "/x"])
async def test_unknown_method(service: Service, method: str) -> None:
    """A method that does not exist is UNIMPLEMENTED."""
    code, _, _ = await refused(service, method, b"")
    assert code is grpc.StatusCode.UNIMPLEMENTED


EDGES = [
    base64.urlsafe_b64encode(struct.pack(">q16s", (moment - EPOCH) // timedelta(microseconds=1), b"\xff" * 16)).decode()
    for moment in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
]
"""Tokens at the ends of time."""


@pytest.mark.parametrize("token", ["x", "é", "AAAA", "A" * 32, "_" * 32, "/" * 256, *EDGES])
async def test_foreign_page_tokens(service: Service, token: str) -> None:
    """A page token of nobody's making is FIELD_INVALID, or a page; never an internal error."""
    request = recycling_service_pb2.ListRecyclingsRequest(account_id="a", page_token=token)
    codes = [grpc.StatusCode.OK]
    try:
        await raw(service.stack.address, f"{SERVICE}/ListRecyclings", request.SerializeToString())
    except grpc.aio.AioRpcError as error:
        codes.append(error.code())
    assert codes[-1] in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)


async def test_goodwill_needs_an_identity(service: Service) -> None:
    """A goodwill grant is refused, since callers have no identities."""
    request = recycling_service_pb2.CompensateRequest(
        request_id=str(uuid.uuid4()),
        account_id="a",
        recycling_id=str(uuid.uuid4()),
        goodwill=recycling_service_pb2.Goodwill(unit=types_pb2.UNIT_COIN, amount=1, note="sorry"),
    )
    told = await refused(service, f"{SERVICE}/Compensate", request.SerializeToString())
    assert told == (grpc.StatusCode.PERMISSION_DENIED, "METHOD_NOT_ALLOWED", [])


async def test_internal_error_tells_nothing(service: Service) -> None:
    """An internal error has a fixed text, a trace id, and no word of the database; the request may be repeated."""
    (card,) = await service.issue("iqiyi")
    request = recycle(card)
    async with service.poisoned(card.account_id):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await raw(service.stack.address, f"{SERVICE}/Recycle", request.SerializeToString())
    error = failed.value
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    metadata = dict(error.trailing_metadata())
    assert len(bytes.fromhex(metadata["trace-id"])) == 16
    everything = repr(metadata) + repr(error)
    for word in ("planted", "secret", "trigger", "poison", "asyncpg", "Postgres", "Traceback", card.card_id):
        assert word not in everything
    assert (await service.client.recycle(request)).recycling.card_id == card.card_id


async def test_request_id_is_kept_over_servers(service: Service) -> None:
    """A request answered by one server is replayed by another, byte for byte."""
    (card,) = await service.issue("iqiyi")
    data = recycle(card).SerializeToString()
    first = await raw(service.stack.address, f"{SERVICE}/Recycle", data)
    with service.another_server() as (_, address):
        again = await eventually(lambda: raw(address, f"{SERVICE}/Recycle", data))
    assert again == first


# Back-test time


@pytest.mark.parametrize(
    "value",
    ["yesterday", "2026-03-01", "2026-03-01T00:00:00", "", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.9999999Z"],
)
async def test_backtest_time_must_be_a_time(service: Service, value: str) -> None:
    """A back-test time without offset, none at all, or one from which nobody could reckon, is refused and named."""
    request = wallet_service_pb2.GetWalletRequest(account_id="a")
    told = await refused(
        service,
        "/card_recycling.v1.WalletService/GetWallet",
        request.SerializeToString(),
        metadata=(("card-recycling-backtest-time", value),),
    )
    field = "metadata.card-recycling-backtest-time"
    assert told == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", [field])


async def test_backtest_time_is_refused_where_the_clock_is_real(
    service: Service, fresh_database: FreshDatabase
) -> None:
    """On a database not made for back-tests nobody may say what time it is; without that, calls are served."""
    _, server_url = await fresh_database(backtest=False)
    request = wallet_service_pb2.GetWalletRequest(account_id="a")
    with server_process(server_url, service.stack.worker_address) as process:
        async with grpc.aio.insecure_channel(process.address()) as channel:
            call: Any = channel.unary_unary("/card_recycling.v1.WalletService/GetWallet")
            data = request.SerializeToString()
            await eventually(lambda: call(data, timeout=PATIENCE_S))
            time = ("card-recycling-backtest-time", START.isoformat())
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(data, timeout=PATIENCE_S, metadata=(time,))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# Health and reflection


@pytest.mark.parametrize("name", ["", *sorted(name for name in SERVICES if name.startswith("card"))])
async def test_health(service: Service, name: str) -> None:
    """The whole and each service say SERVING, without a deadline too."""
    async with grpc.aio.insecure_channel(service.stack.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection(service: Service, version: str) -> None:
    """Reflection lists every service, under both of its names, and has the files of ours."""
    async with grpc.aio.insecure_channel(service.stack.address) as channel:
        call: Any = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        symbol = "card_recycling.v1.RecyclingService"
        requests: list[Message] = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol),
        ]
        answers = [answer async for answer in call(iter(requests), timeout=PATIENCE_S)]
    assert {entry.name for entry in answers[0].list_services_response.service} == SERVICES
    assert answers[1].file_descriptor_response.file_descriptor_proto


async def test_many_at_once(service: Service) -> None:
    """Two hundred single calls at once all succeed."""
    cards = await service.issue("iqiyi", 200)
    answers = await asyncio.gather(*(service.client.recycle(recycle(card)) for card in cards))
    assert [answer.recycling.card_id for answer in answers] == [card.card_id for card in cards]


async def test_bad_item_is_not_issued_alone(service: Service) -> None:
    """A bad item of IssueCards fails alone, with its field named."""
    items = [
        card_service_pb2.IssueCardsRequest.Item(
            request_id=str(uuid.uuid4()),
            account_id=f"a-{uuid.uuid4()}",
            platform=platform,
            tier=types_pb2.TIER_BASIC,
            face_value_minor=1,
            paid_minor=1,
            currency="CNY",
            duration_days=1,
        )
        for platform in ("iqiyi", "nobody")
    ]
    answer = await service.client.issue_cards(card_service_pb2.IssueCardsRequest(items=items))
    assert answer.results[0].HasField("card")
    assert RecyclingError.from_status(answer.results[1].status).field_violations[0].field == "platform"
