"""Recycle calls, of one card each or of many. Every answer is checked, outside of the time taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import grpc.aio
from card_recycling.v1 import recycling_service_pb2 as pb
from card_recycling.v1 import recycling_service_pb2_grpc, types_pb2

from bench.measure import BenchError, Run, in_flight

UNARY_IN_FLIGHT = 64
BATCHES_IN_FLIGHT = 2
BATCH_ITEMS = 1000
TIMEOUT_S = 30.0
APPROVED_SHARE_MIN = 0.95

Requests = Sequence[pb.RecycleRequest]


class RecycleClient:
    """One channel to a server of RecyclingService. A call that fails raises."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            address, options=[("grpc.max_receive_message_length", 16 * 1024 * 1024)]
        )
        self._stub = recycling_service_pb2_grpc.RecyclingServiceStub(self._channel)

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def recycle_one(self, request: pb.RecycleRequest) -> pb.RecycleResponse:
        """One unary call."""
        return await self._stub.Recycle(request, timeout=TIMEOUT_S)

    async def recycle(self, requests: Requests) -> tuple[Run, list[pb.RecycleResponse]]:
        """A unary call for each request."""

        return await in_flight(UNARY_IN_FLIGHT, self.recycle_one, requests)

    async def recycle_fresh(self, requests: Requests) -> tuple[Run, list[pb.RecycleResponse]]:
        """The same for cards never seen before. Raises BenchError unless nearly all are approved."""
        run, answers = await self.recycle(requests)
        _check_approved([answer.recycling for answer in answers])
        return run, answers

    async def recycle_batched(self, requests: Requests) -> Run:
        """Calls of 1,000 requests each; the run counts the requests. Raises BenchError like `recycle_fresh`."""

        async def call(batch: pb.BatchRecycleRequest) -> pb.BatchRecycleResponse:
            return await self._stub.BatchRecycle(batch, timeout=TIMEOUT_S)

        batches = [
            pb.BatchRecycleRequest(requests=requests[first : first + BATCH_ITEMS])
            for first in range(0, len(requests), BATCH_ITEMS)
        ]
        run, answers = await in_flight(BATCHES_IN_FLIGHT, call, batches)
        results = [result for answer in answers for result in answer.results]
        if len(results) != len(requests):
            raise BenchError(f"{len(requests)} requests got {len(results)} results")
        for result in results:
            if result.HasField("status"):
                raise BenchError(f"a recycle failed: {result.status.message}")
        _check_approved([result.recycling for result in results])
        return replace(run, count=len(results))


def _check_approved(recyclings: Sequence[types_pb2.Recycling]) -> None:
    approved = sum(recycling.state == types_pb2.RECYCLING_STATE_APPROVED for recycling in recyclings)
    if approved < APPROVED_SHARE_MIN * len(recyclings):
        raise BenchError(f"only {approved} of {len(recyclings)} recycles were approved")
