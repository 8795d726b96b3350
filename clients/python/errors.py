"""What a call can fail with, read from the status that the service sends, and when it is worth another try."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Self

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

TRACE_ID_KEY = "trace-id"

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One field that the service did not accept: its path in the request, and why."""

    field: str
    description: str


class RecyclingError(Exception):
    """The service said no, or could not be reached.

    code: the gRPC status code
    reason: the machine-readable reason of the contract, e.g. "CARD_NOT_FOUND"; empty when the error is not of the
        service's making (no connection, deadline passed on the way)
    message: a sentence for people
    field_violations: what is wrong with which field, for FIELD_INVALID
    steps: what stands in the way, one after the other; for POLICY_PUMPABLE the steps of the cycle that gains
    retry_after_s: seconds the service asks to wait before a retry; None when it does not say
    trace_id: the trace to name when reporting an INTERNAL error; None when it does not say
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str = "",
        message: str = "",
        field_violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
        trace_id: str | None = None,
        steps: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.field_violations = field_violations
        self.retry_after_s = retry_after_s
        self.trace_id = trace_id
        self.steps = steps

    @classmethod
    def from_status(cls, status: status_pb2.Status, *, trace_id: str | None = None) -> Self:
        """The error in a `google.rpc.Status`, such as a result of a batch holds."""
        info = error_details_pb2.ErrorInfo()
        bad_request, precondition = error_details_pb2.BadRequest(), error_details_pb2.PreconditionFailure()
        retry = error_details_pb2.RetryInfo()
        for detail in status.details:
            for message in (info, bad_request, precondition, retry):
                detail.Unpack(message)
        return cls(
            code=_CODES.get(status.code, grpc.StatusCode.UNKNOWN),
            reason=info.reason,
            message=status.message,
            field_violations=tuple(
                FieldViolation(field=violation.field, description=violation.description)
                for violation in bad_request.field_violations
            ),
            retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
            trace_id=trace_id,
            steps=tuple(violation.description for violation in precondition.violations),
        )

    @classmethod
    def from_call(cls, call: grpc.aio.AioRpcError) -> Self:
        """The error of a failed call, with the details that came with it."""
        try:
            # This form reads an AioRpcError as well, which has all its parts at hand; the asynchronous one does not.
            status = rpc_status.from_call(call)  # type: ignore[arg-type]
        except ValueError:  # details that contradict the status
            status = None
        trace_id = dict(call.trailing_metadata() or ()).get(TRACE_ID_KEY)
        if status is None:
            return cls(code=call.code(), message=call.details() or "")
        return cls.from_status(status, trace_id=None if trace_id is None else str(trace_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """When and after how long to try again.

    At most `attempts_max` attempts; 1 never retries. The n-th pause is random between half and all of
    `pause_s * 2**(n-1)`, at most `pause_max_s` seconds, on top of what the service asks for.
    """

    attempts_max: int = 6
    pause_s: float = 0.05
    pause_max_s: float = 2.0

    def pause_after(self, error: RecyclingError, attempt: int) -> float | None:
        """Seconds to wait after `attempt` (the first is 1) failed with `error`; None when it is not to be repeated."""
        return None if attempt >= self.attempts_max else self.pause_of(error, attempt)

    def pause_of(self, error: RecyclingError, attempt: int) -> float | None:
        """The same, however many attempts there were."""
        if not _may_succeed_later(error):
            return None
        longest_s = min(self.pause_max_s, self.pause_s * 2 ** min(attempt - 1, 20))
        return (error.retry_after_s or 0.0) + random.uniform(longest_s / 2, longest_s)  # noqa: S311 - no secret


def _may_succeed_later(error: RecyclingError) -> bool:
    match error.code:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.RESOURCE_EXHAUSTED:
            return True
        case grpc.StatusCode.CANCELLED:
            # By a server that is going away; when we give up ourselves it is asyncio.CancelledError.
            return True
        case grpc.StatusCode.ABORTED:
            return error.reason == "CONFLICT_RETRY"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            # Where the service saw too little time left, a retry has less.
            return error.reason != "INSUFFICIENT_TIME"
    return False
