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
from card_recycling.v1 import recycling_service_pb2_grpc


class Echo(recycling_service_pb2_grpc.RecyclingServiceServicer):
    """Parses a request and serializes an answer, as every handler must."""

    def __init__(self, answer: pb.RecycleResponse) -> None:
        self._answer = answer

    async def Recycle(self, request: pb.RecycleRequest, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Always the same."""
        return self._answer


async def serve(answer: pb.RecycleResponse) -> None:
    """Serves on a free port until SIGTERM."""
    server = grpc.aio.server()
    recycling_service_pb2_grpc.add_RecyclingServiceServicer_to_server(Echo(answer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    print(f"echo listening on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve(pb.RecycleResponse.FromString(bytes.fromhex(sys.argv[1]))))
