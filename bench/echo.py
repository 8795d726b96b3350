"""A bare gRPC server whose Recycle answers every request with the same message: what a call costs that does nothing.

python -m bench.echo ANSWER     serve until SIGTERM; ANSWER is a serialized RecycleResponse in hexadecimal digits
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import grpc.aio
import uvloop
from card_recycling.v1 import recycling_service_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["RecyclingService"].full_name


async def serve(answer: pb.RecycleResponse) -> None:
    """Serves on a free port until SIGTERM. Requests are parsed and answers serialized, as every server must."""

    async def recycle(request: pb.RecycleRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.RecycleResponse:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        recycle,
        request_deserializer=pb.RecycleRequest.FromString,
        response_serializer=pb.RecycleResponse.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Recycle": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    print(f"echo listening on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve(pb.RecycleResponse.FromString(bytes.fromhex(sys.argv[1]))))
