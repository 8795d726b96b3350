"""The table of errors, as callers see it, and that nothing of what failed inside reaches them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import grpc
import grpc.aio
import pytest
from card_recycling.v1 import recycling_service_pb2, types_pb2, wallet_service_pb2_grpc
from card_recycling.v1 import wallet_service_pb2 as pb
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from server.api import errors
from server.api.guard import BATCH_BYTES_MAX, UNARY_BYTES_MAX, Context, Guard
from server.api.shape import check_shape
from server.domain.errors import Reason, Refusal
from server.engine.ports import StoreUnavailable
from tests.builders import ACCOUNT_ID

CODES = {
    "FIELD_INVALID": "INVALID_ARGUMENT",
    "DEADLINE_REQUIRED": "INVALID_ARGUMENT",
    "IDEMPOTENCY_KEY_REUSED": "INVALID_ARGUMENT",
    "CONFLICT_RETRY": "ABORTED",
    "ETAG_MISMATCH": "ABORTED",
    "CARD_ALREADY_RECYCLED": "FAILED_PRECONDITION",
    "CARD_STATE_INVALID": "FAILED_PRECONDITION",
    "TRIGGER_NOT_ALLOWED": "FAILED_PRECONDITION",
    "REACTIVATION_NOT_ALLOWED": "FAILED_PRECONDITION",
    "REACTIVATION_WINDOW_CLOSED": "FAILED_PRECONDITION",
    "RENEWALS_EXHAUSTED": "FAILED_PRECONDITION",
    "ALREADY_COMPENSATED": "FAILED_PRECONDITION",
    "SETTLEMENT_NOT_DUE": "FAILED_PRECONDITION",
    "COMPENSATION_BLOCKED": "FAILED_PRECONDITION",
    "COMPENSATION_SPENT": "FAILED_PRECONDITION",
    "RECYCLING_STATE_INVALID": "FAILED_PRECONDITION",
    "REVIEW_STATE_INVALID": "FAILED_PRECONDITION",
    "REVIEW_CLAIMED": "FAILED_PRECONDITION",
    "LIMIT_EXCEEDED": "FAILED_PRECONDITION",
    "INSUFFICIENT_BALANCE": "FAILED_PRECONDITION",
    "WALLET_HELD": "FAILED_PRECONDITION",
    "EXCHANGE_NOT_OFFERED": "FAILED_PRECONDITION",
    "QUOTE_STALE": "FAILED_PRECONDITION",
    "RESUME_TOKEN_STALE": "FAILED_PRECONDITION",
    "POLICY_PUMPABLE": "FAILED_PRECONDITION",
    "METHOD_NOT_ALLOWED": "PERMISSION_DENIED",
    "CARD_NOT_FOUND": "NOT_FOUND",
    "RECYCLING_NOT_FOUND": "NOT_FOUND",
    "LIST_ENTRY_NOT_FOUND": "NOT_FOUND",
    "REVIEW_NOT_FOUND": "NOT_FOUND",
    "POLICY_NOT_FOUND": "NOT_FOUND",
    "OFFER_NOT_FOUND": "NOT_FOUND",
    "OVERLOADED": "RESOURCE_EXHAUSTED",
    "FRAUD_SCORE_UNAVAILABLE": "UNAVAILABLE",
    "STORE_UNAVAILABLE": "UNAVAILABLE",
    "SHUTTING_DOWN": "UNAVAILABLE",
    "INSUFFICIENT_TIME": "DEADLINE_EXCEEDED",
    "INTERNAL": "INTERNAL",
}

RETRYABLE = {"OVERLOADED", "FRAUD_SCORE_UNAVAILABLE", "STORE_UNAVAILABLE", "SHUTTING_DOWN", "CONFLICT_RETRY"}

UNKNOWN_REASON: Any = max(types_pb2.RecycleReason.values()) + 1
UNKNOWN_UNIT: Any = max(types_pb2.Unit.values()) + 1

SECRET = "connection to 10.1.2.3 as recycling_owner failed"

DETAILS: tuple[type[Message], ...] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.RetryInfo,
)


def details(status: status_pb2.Status) -> dict[str, list[Message]]:
    """The details of a status by the name of their kind."""
    found: dict[str, list[Message]] = {kind.DESCRIPTOR.name: [] for kind in DETAILS}
    for packed in status.details:
        (kind,) = (kind for kind in DETAILS if packed.Is(kind.DESCRIPTOR))
        message = kind()
        packed.Unpack(message)
        found[kind.DESCRIPTOR.name].append(message)
    return found


def test_table_has_every_reason() -> None:
    """No reason without a code, and none that is not a reason."""
    assert set(Reason) == set(CODES)
    assert set(errors.CODES) == set(Reason)


@pytest.mark.parametrize(("reason", "code"), CODES.items())
def test_reason_has_its_code(reason: str, code: str) -> None:
    """The code is that of the contract."""
    status = errors.status(Refusal(Reason(reason), "a sentence"))
    assert status.code == grpc.StatusCode[code].value[0]
    assert status.message == "a sentence"


@pytest.mark.parametrize("reason", list(Reason))
def test_status_has_exactly_one_error_info(reason: Reason) -> None:
    """Its reason is the reason, and its domain is the service's."""
    (info,) = details(errors.status(Refusal(reason, "a sentence")))["ErrorInfo"]
    assert info == error_details_pb2.ErrorInfo(reason=reason.value, domain="card-recycling")


@pytest.mark.parametrize("reason", list(Reason))
def test_failed_precondition_says_which(reason: Reason) -> None:
    """A PreconditionFailure comes with that code and with no other."""
    found = details(errors.status(Refusal(reason, "a sentence")))["PreconditionFailure"]
    expected = error_details_pb2.PreconditionFailure.Violation(type=reason.value, description="a sentence")
    if CODES[reason] == "FAILED_PRECONDITION":
        assert found == [error_details_pb2.PreconditionFailure(violations=[expected])]
    else:
        assert found == []


@pytest.mark.parametrize("reason", list(Reason))
def test_retryable_reason_says_when(reason: Reason) -> None:
    """A RetryInfo with a delay comes where the same call may succeed later, and nowhere else."""
    found = details(errors.status(Refusal(reason, "a sentence")))["RetryInfo"]
    assert len(found) == (reason in RETRYABLE)
    for info in found:
        assert isinstance(info, error_details_pb2.RetryInfo)
        assert 0 < info.retry_delay.ToMilliseconds() <= 1_000


def test_wrong_fields_are_named() -> None:
    """A BadRequest lists each field with what is wrong, in order."""
    refusal = Refusal(Reason.FIELD_INVALID, "no", fields=(("device.ip", "must be an address"), ("reason", "unknown")))
    (found,) = details(errors.status(refusal))["BadRequest"]
    assert isinstance(found, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in found.field_violations] == list(refusal.fields)


def test_status_fits_the_metadata() -> None:
    """Even a request with everything wrong gives a status well under the 8 KiB that clients accept."""
    wrong = recycling_service_pb2.RecycleRequest(
        request_id="?", card_id="?", reason=UNKNOWN_REASON, compensation_unit=UNKNOWN_UNIT, quote_token="x" * 2_000
    )
    for field in wrong.device.DESCRIPTOR.fields:
        if field.cpp_type == field.CPPTYPE_STRING and field.name != "attestation":
            setattr(wrong.device, field.name, "x" * 1_000)
    wrong.behavior.session_seconds = wrong.behavior.seconds_since_login = -1
    wrong.behavior.page_views = wrong.behavior.failed_logins_24h = wrong.behavior.captcha_failures = -1
    with pytest.raises(Refusal) as refused:
        check_shape(wrong)
    status = errors.status(refused.value)
    assert len(refused.value.fields) >= 20
    assert len(status.SerializeToString()) * 4 / 3 + len(status.message) < 6 * 1024


# At the edge


class Servicer(wallet_service_pb2_grpc.WalletServiceServicer):
    """Fails as it is told."""

    def __init__(self, failure: Exception | None) -> None:
        self._failure = failure

    async def GetWallet(self, request: pb.GetWalletRequest, context: Context) -> pb.GetWalletResponse:
        """Answers, or raises."""
        if self._failure is not None:
            raise self._failure
        return pb.GetWalletResponse()

    async def ListPostings(self, request: pb.ListPostingsRequest, context: Context) -> pb.ListPostingsResponse:
        """Not asked for."""
        raise NotImplementedError

    async def ListOffers(self, request: pb.ListOffersRequest, context: Context) -> pb.ListOffersResponse:
        """Not asked for."""
        raise NotImplementedError

    async def Redeem(self, request: pb.RedeemRequest, context: Context) -> pb.RedeemResponse:
        """Not asked for."""
        raise NotImplementedError

    async def Exchange(self, request: pb.ExchangeRequest, context: Context) -> pb.ExchangeResponse:
        """Not asked for."""
        raise NotImplementedError


class RealClock:
    """A clock that nobody may move."""

    async def move_clock(self, moment: datetime) -> bool:
        """Refuses."""
        return False


METADATA_BYTES_MAX = 8 * 1024
"""What many clients take; those of gRPC's C core refuse at random from there on, here at once."""


@asynccontextmanager
async def served(failure: Exception | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server whose servicer fails with `failure`."""
    server = grpc.aio.server(interceptors=[Guard(RealClock())])
    wallet_service_pb2_grpc.add_WalletServiceServicer_to_server(Servicer(failure), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        limits = [(f"grpc.{kind}max_metadata_size", METADATA_BYTES_MAX) for kind in ("", "absolute_")]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=limits) as channel:
            yield channel
    finally:
        await server.stop(None)


REQUEST = pb.GetWalletRequest(account_id=ACCOUNT_ID).SerializeToString()


async def failure_of(
    channel: grpc.aio.Channel,
    data: bytes = REQUEST,
    *,
    timeout_s: float | None = 30.0,
    metadata: tuple[tuple[str, str], ...] = (),
) -> grpc.aio.AioRpcError:
    """How a call of GetWallet with these bytes fails."""
    call: Any = channel.unary_unary("/card_recycling.v1.WalletService/GetWallet")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call(data, timeout=timeout_s, metadata=metadata)
    return failed.value


def told(error: grpc.aio.AioRpcError) -> dict[str, list[Message]]:
    """The details of an error of ours, by kind; its code is checked against the table."""
    call: Any = error
    status = rpc_status.from_call(call)
    assert status is not None
    found = details(status)
    assert error.code().name == CODES[reason_in(found)]
    return found


@pytest.mark.parametrize("name", ["item", "字段", "\U0001f525%", "\ud800", "\n", "x" * 5_000, "名" * 5_000])
async def test_many_wrong_fields_fit_the_metadata(name: str) -> None:
    """However many, however long and however spelt: the status comes through, says how many there are, and its details
    are those of the table."""
    fields = tuple((f"{name}[{number}]", f"must not be {name * 20}") for number in range(10_000))
    refusal = Refusal(Reason.FIELD_INVALID, "; ".join(f"{field}: {text}" for field, text in fields), fields=fields)
    async with served(refusal) as channel:
        error = await failure_of(channel)
    (found,) = told(error)["BadRequest"]
    assert isinstance(found, error_details_pb2.BadRequest)
    kept = len(found.field_violations)
    assert 1 <= kept <= 20
    assert str(error.details()).endswith(f" (and {10_000 - kept:,} more)")
    assert all(v.field.endswith(f"[{place}]") for place, v in enumerate(found.field_violations))


@pytest.mark.parametrize("step", ["exchanged", "兑换" * 3_000, "\ud800" * 9_000])
async def test_many_steps_fit_the_metadata(step: str) -> None:
    """A way to gain with ever so many steps is told, too, its first ones."""
    steps = tuple(f"{number}: {step}" for number in range(2_000))
    async with served(Refusal(Reason.POLICY_PUMPABLE, " -> ".join(steps), steps=steps)) as channel:
        error = await failure_of(channel)
    (found,) = told(error)["PreconditionFailure"]
    assert isinstance(found, error_details_pb2.PreconditionFailure)
    assert [v.description.split(":")[0] for v in found.violations] == [str(n) for n in range(len(found.violations))]
    assert str(error.details()).endswith(f" (and {2_000 - len(found.violations):,} more)")


async def test_long_sentence_keeps_its_ends() -> None:
    """What is wrong may stand in front of an echo, or behind it."""
    async with served(Refusal(Reason.CARD_NOT_FOUND, f"where: {'é' * 70_000} is not of type 'object'")) as channel:
        error = await failure_of(channel)
    assert reason_of(error) == "CARD_NOT_FOUND"
    text = str(error.details())
    assert text.startswith("where: é") and text.endswith("é is not of type 'object'") and "…" in text


def reason_in(found: dict[str, list[Message]]) -> str:
    """The reason of the one ErrorInfo."""
    (info,) = found["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    return str(info.reason)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason of an error of ours."""
    return reason_in(told(error))


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RuntimeError(SECRET), "INTERNAL"),
        (AssertionError(SECRET), "INTERNAL"),
        (OSError(SECRET), "INTERNAL"),
        (StoreUnavailable(SECRET), "STORE_UNAVAILABLE"),
    ],
)
async def test_exception_is_told_by_its_reason_only(failure: Exception, reason: str) -> None:
    """Neither message, details nor metadata carry any of an exception's text or type."""
    async with served(failure) as channel:
        error = await failure_of(channel)
    assert reason_of(error) == reason
    answer = repr((error.details(), tuple(error.trailing_metadata() or ()), error.debug_error_string()))
    for word in ("connection", "10.1.2.3", "recycling_owner", type(failure).__name__):
        assert word not in answer


async def test_refusal_is_told_as_it_is() -> None:
    """A refusal's reason, sentence and code reach the caller."""
    async with served(Refusal(Reason.RECYCLING_NOT_FOUND, "no such recycling in this account")) as channel:
        error = await failure_of(channel)
    assert reason_of(error) == "RECYCLING_NOT_FOUND"
    assert error.details() == "no such recycling in this account"


async def test_call_without_a_deadline_is_refused() -> None:
    """Every call carries a deadline."""
    async with served() as channel:
        assert reason_of(await failure_of(channel, timeout_s=None)) == "DEADLINE_REQUIRED"


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x01\xff", b"\x0a\x7f"], ids=["tag", "utf-8", "length"])
async def test_bytes_that_are_no_message_are_invalid(data: bytes) -> None:
    """Broken wire format and broken text are the caller's mistake and no internal error."""
    async with served() as channel:
        assert reason_of(await failure_of(channel, data)) == "FIELD_INVALID"


async def test_message_of_wrong_shape_never_reaches_the_servicer() -> None:
    """The guard checks the shape, and names the field."""
    async with served(RuntimeError("reached")) as channel:
        error = await failure_of(channel, pb.GetWalletRequest(account_id="\n").SerializeToString())
    assert reason_of(error) == "FIELD_INVALID"
    (found,) = told(error)["BadRequest"]
    assert isinstance(found, error_details_pb2.BadRequest)
    assert [violation.field for violation in found.field_violations] == ["account_id"]


async def test_message_above_its_size_is_invalid() -> None:
    """A unary message may have 64 KiB; unknown fields count."""
    assert UNARY_BYTES_MAX == 64 * 1024
    assert BATCH_BYTES_MAX == 4 * 1024 * 1024
    padding = b"\xfa\x7f\x80\x80\x04" + bytes(64 * 1024)
    async with served() as channel:
        assert reason_of(await failure_of(channel, REQUEST + padding)) == "FIELD_INVALID"


@pytest.mark.parametrize("moment", ["2030-01-01T00:00:00Z", "yesterday", "2030-01-01T00:00:00"])
async def test_real_clock_is_not_moved(moment: str) -> None:
    """Outside of a back-test nobody tells the service what time it is."""
    metadata = (("card-recycling-backtest-time", moment),)
    async with served() as channel:
        assert reason_of(await failure_of(channel, metadata=metadata)) == "FIELD_INVALID"
