"""RecyclingService: messages to commands, outcomes to messages."""

from __future__ import annotations

from uuid import UUID

from card_recycling.v1 import recycling_service_pb2 as pb
from card_recycling.v1 import recycling_service_pb2_grpc

from server.api import errors, paging
from server.api.guard import Context, Served
from server.api.messages import CommandParser, recycling_message
from server.api.ports import Reader
from server.api.shape import check_shape
from server.domain.commands import Command, Recycle
from server.domain.errors import Reason, Refusal
from server.engine.engine import Engine, Outcome


class RecyclingServicer(recycling_service_pb2_grpc.RecyclingServiceServicer):
    """Takes cards back, gives them back, and pays for them."""

    def __init__(self, engine: Engine, reader: Reader, parser: CommandParser) -> None:
        self._engine = engine
        self._reader = reader
        self._parser = parser

    async def QuoteRecycle(self, request: pb.QuoteRecycleRequest, context: Context) -> Served:
        """See the proto."""
        return await self._one(self._parser.quote(request))

    async def Recycle(self, request: pb.RecycleRequest, context: Context) -> Served:
        """See the proto."""
        return await self._one(self._parser.recycle(request))

    async def BatchRecycle(self, request: pb.BatchRecycleRequest, context: Context) -> Served:
        """See the proto."""
        outcomes: list[Outcome | None] = [None] * len(request.requests)
        commands: list[Recycle] = []
        places: list[int] = []
        for place, item in enumerate(request.requests):
            try:
                check_shape(item)
            except Refusal as refusal:
                outcomes[place] = refusal
            else:
                commands.append(self._parser.recycle(item))
                places.append(place)
        for place, outcome in zip(places, await self._engine.submit(commands) if commands else (), strict=True):
            outcomes[place] = outcome
        return pb.BatchRecycleResponse(results=map(_result, outcomes))

    async def Reactivate(self, request: pb.ReactivateRequest, context: Context) -> Served:
        """See the proto."""
        return await self._one(self._parser.reactivate(request))

    async def Compensate(self, request: pb.CompensateRequest, context: Context) -> Served:
        """See the proto."""
        if request.HasField("goodwill"):
            raise Refusal(Reason.METHOD_NOT_ALLOWED, "goodwill needs a caller with an identity and a role")
        return await self._one(self._parser.compensate(request))

    async def GetRecycling(self, request: pb.GetRecyclingRequest, context: Context) -> Served:
        """See the proto."""
        recycling = await self._reader.recycling(request.account_id, UUID(request.recycling_id))
        if recycling is None:
            raise Refusal(Reason.RECYCLING_NOT_FOUND, "no such recycling in this account")
        return pb.GetRecyclingResponse(recycling=recycling_message(recycling))

    async def ListRecyclings(self, request: pb.ListRecyclingsRequest, context: Context) -> Served:
        """See the proto."""
        size = request.page_size or paging.PAGE_SIZE_DEFAULT
        before = paging.position(request.page_token)
        found = await self._reader.recyclings(request.account_id, before, size + 1)
        page, token = found[:size], ""
        if len(found) > size:
            last = page[-1]
            assert last.recycling_id is not None
            token = paging.token(last.create_time, last.recycling_id)
        return pb.ListRecyclingsResponse(recyclings=map(recycling_message, page), next_page_token=token)

    async def _one(self, command: Command) -> bytes:
        (outcome,) = await self._engine.submit([command])
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome


def _result(outcome: Outcome | None) -> pb.BatchRecycleResponse.Result:
    assert outcome is not None
    if isinstance(outcome, Refusal):
        return pb.BatchRecycleResponse.Result(status=errors.status(outcome))
    return pb.BatchRecycleResponse.Result(recycling=pb.RecycleResponse.FromString(outcome).recycling)
