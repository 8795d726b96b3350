"""THE table from reasons to gRPC statuses. Knows codes and error details; must not know which rule spoke, or why.

A status travels in the trailing metadata: all of it in base64, and its sentence percent-encoded once more. Many
clients take 8 KiB of metadata and no more, and what a caller has sent may be echoed. So what is told is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from server.domain.errors import Reason, Refusal

DOMAIN = "card-recycling"
RETRY_AFTER_MS = 100

SENTENCE_BYTES_MAX = 1_500
"""Of the sentence, percent-encoded."""
DETAIL_BYTES_MAX = 400
"""Of a field, of what is wrong with it, and of a step."""
DETAILS_BYTES_MAX = 1_800
"""Of all fields, or all steps. With the sentence, and 400 bytes for the rest, base64 makes 4,900 of them."""
DETAILS_MAX = 20

CODES: dict[Reason, grpc.StatusCode] = {
    Reason.FIELD_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.DEADLINE_REQUIRED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.IDEMPOTENCY_KEY_REUSED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.CONFLICT_RETRY: grpc.StatusCode.ABORTED,
    Reason.ETAG_MISMATCH: grpc.StatusCode.ABORTED,
    Reason.CARD_ALREADY_RECYCLED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CARD_STATE_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.TRIGGER_NOT_ALLOWED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REACTIVATION_NOT_ALLOWED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REACTIVATION_WINDOW_CLOSED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.RENEWALS_EXHAUSTED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.ALREADY_COMPENSATED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SETTLEMENT_NOT_DUE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.COMPENSATION_BLOCKED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.COMPENSATION_SPENT: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.RECYCLING_STATE_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REVIEW_STATE_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REVIEW_CLAIMED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.INSUFFICIENT_BALANCE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.WALLET_HELD: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.EXCHANGE_NOT_OFFERED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.LIMIT_EXCEEDED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.QUOTE_STALE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.POLICY_PUMPABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.RESUME_TOKEN_STALE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.METHOD_NOT_ALLOWED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.CARD_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.RECYCLING_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.LIST_ENTRY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.REVIEW_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.POLICY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.OFFER_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.FRAUD_SCORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    Reason.INSUFFICIENT_TIME: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}

_RETRYABLE = {
    Reason.OVERLOADED,
    Reason.FRAUD_SCORE_UNAVAILABLE,
    Reason.STORE_UNAVAILABLE,
    Reason.SHUTTING_DOWN,
    Reason.CONFLICT_RETRY,
}


def status(refusal: Refusal) -> status_pb2.Status:
    """The status of a refusal: always one ErrorInfo; BadRequest, PreconditionFailure or RetryInfo where they belong.

    It takes less than 8 KiB of metadata. Where fields or steps are left out for that, the sentence ends with how many.
    """
    code = CODES[refusal.reason]
    details = [_packed(error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN))]
    left_out = 0
    if refusal.fields:
        fields = _first(refusal.fields)
        left_out = len(refusal.fields) - len(fields)
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in fields
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        steps = _first([(step,) for step in refusal.steps or (refusal.message,)])
        left_out += len(refusal.steps[len(steps) :])
        failures = [
            error_details_pb2.PreconditionFailure.Violation(type=refusal.reason, description=step) for (step,) in steps
        ]
        details.append(_packed(error_details_pb2.PreconditionFailure(violations=failures)))
    if refusal.reason in _RETRYABLE:
        delay = Duration(nanos=RETRY_AFTER_MS * 1_000_000)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    more = f" (and {left_out:,} more)" if left_out else ""
    sentence = _shortened(refusal.message, SENTENCE_BYTES_MAX - len(more), escaped=True) + more
    return status_pb2.Status(code=code.value[0], message=sentence, details=details)


def _first(details: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """As many of them as there is room for, one at least, each shortened."""
    found: list[tuple[str, ...]] = []
    left = DETAILS_BYTES_MAX
    for detail in details[:DETAILS_MAX]:
        short = tuple(_shortened(text, DETAIL_BYTES_MAX) for text in detail)
        left -= sum(len(text.encode()) for text in short)
        if found and left < 0:
            break
        found.append(short)
    return found


def _shortened(text: str, bytes_max: int, *, escaped: bool = False) -> str:
    """The text, or its beginning and its end, which takes at most so many bytes; `escaped`: percent-encoded, as
    grpc-message is. What is no character becomes "?"."""
    told = (
        text if len(text) <= bytes_max else text[:bytes_max] + text[-bytes_max:]
    )  # no character takes less than a byte
    whole = told.encode("utf-8", "replace").decode()
    if told is text and sum(_bytes_of(each, escaped=escaped) for each in whole) <= bytes_max:
        return whole
    room = bytes_max - _bytes_of("…", escaped=escaped)
    tail = _within(whole[::-1], room // 3, escaped=escaped)[::-1]
    return _within(whole, room - room // 3, escaped=escaped) + "…" + tail


def _within(text: str, bytes_max: int, *, escaped: bool) -> str:
    """The beginning of it that takes at most so many bytes."""
    left = bytes_max
    for place, character in enumerate(text):
        left -= _bytes_of(character, escaped=escaped)
        if left < 0:
            return text[:place]
    return text


def _bytes_of(character: str, *, escaped: bool) -> int:
    plain = " " <= character <= "~" and character != "%"
    return len(character.encode()) * (3 if escaped and not plain else 1)


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | object) -> Any:
    packed = Any()
    packed.Pack(message)  # type: ignore[arg-type]
    return packed
