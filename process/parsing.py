"""Bytes that are no message: refused by status, as any other bad input, without a trace in the log.

Left to itself gRPC answers UNKNOWN and logs where it gave up, so that anybody could fill a log with garbage. Knows
gRPC's handlers and our error details; must not know any service.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

_CODE = grpc.StatusCode.INVALID_ARGUMENT
_REASON = "FIELD_INVALID"
_TEXT = "the message cannot be parsed"
_DOMAIN = "card-recycling"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class RefuseGarbage(grpc.aio.ServerInterceptor):
    """Parses the requests of calls that bring one message; where that fails, they end with FIELD_INVALID.

    `tell` is told the method (its last part) and the reason. Handlers that parse for themselves pass untouched.
    """

    def __init__(self, tell: Callable[[str, str], object] = lambda method, reason: None) -> None:
        self._tell = tell
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler, wrapped once."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None or handler.request_streaming:
            return handler
        method: str = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(handler, method.rpartition("/")[2]))
        return known[1]

    def _wrap(self, handler: Handler, method: str) -> Handler:
        parse: Any = handler.request_deserializer
        serve: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary
        if handler.response_streaming and not inspect.iscoroutinefunction(serve):
            return handler

        async def call(data: bytes, context: Context) -> Any:
            try:
                request = parse(data)
            except DecodeError:
                request = None
            if request is None:
                self._tell(method, _REASON)
                await _refuse(context)
            return await serve(request, context)

        kind: Any = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        wrapped: Handler = kind(call, response_serializer=handler.response_serializer)
        return wrapped


async def _refuse(context: Context) -> None:
    detail = AnyMessage()
    detail.Pack(ErrorInfo(reason=_REASON, domain=_DOMAIN))
    status = Status(code=_CODE.value[0], message=_TEXT, details=[detail])
    await context.abort(_CODE, _TEXT, (("grpc-status-details-bin", status.SerializeToString()),))
