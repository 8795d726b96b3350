"""What every call passes before a servicer sees it: deadline, size, shape; and how every exception becomes a status.

Knows the wire; must not know any command. Calls of other services (health, reflection) pass untouched. A stream needs
no deadline, since it ends with the watcher or the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from opentelemetry import trace

from server.api import errors, meter
from server.api.shape import check_shape
from server.domain.errors import Reason, Refusal
from server.engine.ports import StoreUnavailable

log = logging.getLogger(__name__)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

Served: TypeAlias = Any
"""What a servicer returns: a message, or the stored bytes of one."""

PACKAGE = "/card_recycling.v1."
BATCH_METHODS = ("BatchRecycle", "IssueCards")
UNARY_BYTES_MAX = 64 * 1024
BATCH_BYTES_MAX = 4 * 1024 * 1024
TIME_LEFT_S_MIN = 0.005
STALLED_S = 300.0
"""A watcher that takes nothing for so long has to come again."""
BACKTEST_TIME_KEY = "card-recycling-backtest-time"
BACKTEST_TIME_MIN, BACKTEST_TIME_END = datetime(1971, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""The clock never goes back, so it must not go where cards would end after the last day that there is."""


class Clock(Protocol):
    """The database's clock, as far as a back-test may move it."""

    async def move_clock(self, moment: datetime) -> bool:
        """Moves the clock forward to `moment`; False where the clock is real."""
        ...


class Guard(grpc.aio.ServerInterceptor):
    """Checks each call of our package and turns what goes wrong into a status of the table."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moved_to: datetime | None = None

    def now(self) -> datetime:
        """What time it is to those who call: in a back-test the latest moment that one of them has told."""
        return self._moved_to or datetime.now(UTC)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler of a call of ours."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith(PACKAGE):
            return handler
        parse: Any = handler.request_deserializer
        serve: Any = handler.unary_unary
        watch: Any = handler.unary_stream
        assert parse is not None and (serve or watch), "only single requests are served"
        bytes_max = BATCH_BYTES_MAX if method.rpartition("/")[2] in BATCH_METHODS else UNARY_BYTES_MAX

        async def admitted(data: bytes, context: Context) -> Any:
            if len(data) > bytes_max:
                raise Refusal(Reason.FIELD_INVALID, f"the message exceeds {bytes_max} bytes")
            try:
                request = parse(data)
            except DecodeError as error:
                raise Refusal(Reason.FIELD_INVALID, "the message cannot be parsed") from error
            check_shape(request)
            await self._move_clock(context)
            return request

        async def call(data: bytes, context: Context) -> bytes:
            try:
                _check_deadline(context)
                response = await serve(await admitted(data, context), context)
                return response if isinstance(response, bytes) else response.SerializeToString()
            except Exception as error:
                return await _abort(context, _refusal(error, method))

        async def stream(data: bytes, context: Context) -> None:
            try:
                request = await admitted(data, context)
                async with contextlib.aclosing(watch(request, context)) as responses:
                    await _write_all(responses, context)
            except Exception as error:
                await _abort(context, _refusal(error, method))

        if watch:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(call)

    async def _move_clock(self, context: Context) -> None:
        """A back-test says what time it is; anywhere else saying so is an error."""
        for key, value in context.invocation_metadata() or ():
            if key == BACKTEST_TIME_KEY:
                try:
                    moment = datetime.fromisoformat(value if isinstance(value, str) else "")
                except ValueError:
                    moment = None
                if moment is None or moment.tzinfo is None:
                    raise _metadata_invalid("must be a time of RFC 3339")
                if not BACKTEST_TIME_MIN <= moment < BACKTEST_TIME_END:
                    years = f"{BACKTEST_TIME_MIN.year} to {BACKTEST_TIME_END.year - 1}"
                    raise _metadata_invalid(f"must lie in the years {years}")
                if not await self._clock.move_clock(moment):
                    raise _metadata_invalid("this database was not created for back-tests")
                self._moved_to = max(self._moved_to or moment, moment)


def _metadata_invalid(text: str) -> Refusal:
    field = f"metadata.{BACKTEST_TIME_KEY}"
    return Refusal(Reason.FIELD_INVALID, f"{field}: {text}", fields=((field, text),))


def _check_deadline(context: Context) -> None:
    left_s: float | None = context.time_remaining()
    if left_s is None:
        raise Refusal(Reason.DEADLINE_REQUIRED, "every call needs a deadline")
    if left_s < TIME_LEFT_S_MIN:
        raise Refusal(Reason.INSUFFICIENT_TIME, "too little time is left before the deadline")


async def _write_all(responses: AsyncGenerator[Any, None], context: Context) -> None:
    """Each is asked for once the one before is taken: who reads slowly slows himself down."""
    async for response in responses:
        try:
            async with asyncio.timeout(STALLED_S):
                await context.write(response.SerializeToString())
        except TimeoutError as error:
            raise Refusal(Reason.OVERLOADED, f"nothing was read for {STALLED_S:g} s") from error


def _refusal(error: Exception, method: str) -> Refusal:
    """What a caller hears of it."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, StoreUnavailable):
        return Refusal(Reason.STORE_UNAVAILABLE, "the database cannot be reached at the moment")
    log.error("a call of %s failed", method, exc_info=error)
    return Refusal(Reason.INTERNAL, "internal error")


async def _abort(context: Context, refusal: Refusal) -> bytes:
    meter.count_error(refusal)
    status = errors.status(refusal)
    trailing: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    span = trace.get_current_span().get_span_context()
    if refusal.reason is Reason.INTERNAL and span.is_valid:
        trailing.append(("trace-id", trace.format_trace_id(span.trace_id)))
    await context.abort(errors.CODES[refusal.reason], status.message, tuple(trailing))
    raise AssertionError("abort raises")
