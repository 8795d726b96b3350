"""THE table from reasons to gRPC statuses. Knows codes and error details; must not know which rule spoke, or why."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from server.domain.errors import Reason, Refusal

DOMAIN = "card-recycling"
RETRY_AFTER_MS = 100

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
    """The status of a refusal: always one ErrorInfo; BadRequest, PreconditionFailure or RetryInfo where they fit."""
    code = CODES[refusal.reason]
    details = [_packed(error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN))]
    if refusal.fields:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in refusal.fields
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        steps = [
            error_details_pb2.PreconditionFailure.Violation(type=refusal.reason, description=step)
            for step in refusal.steps or (refusal.message,)
        ]
        details.append(_packed(error_details_pb2.PreconditionFailure(violations=steps)))
    if refusal.reason in _RETRYABLE:
        delay = Duration(nanos=RETRY_AFTER_MS * 1_000_000)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=code.value[0], message=refusal.message, details=details)


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | object) -> Any:
    packed = Any()
    packed.Pack(message)  # type: ignore[arg-type]
    return packed
