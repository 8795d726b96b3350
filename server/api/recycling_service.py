"""RecyclingService: messages to commands, outcomes to messages."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from card_recycling.v1 import recycling_service_pb2 as pb
from card_recycling.v1 import recycling_service_pb2_grpc

from server.api import answers, errors, paging
from server.api.guard import Context, Served
from server.api.messages import outcome_message, recycling_message
from server.api.ports import Reader
from server.api.requests import CommandParser
from server.api.roles import SupportRole
from server.domain.errors import Reason, Refusal
from server.domain.recycling import Recycling
from server.engine.engine import Engine
from server.engine.outcomes import OutcomeRecorder
from server.engine.queue import Outcome


class RecyclingServicer(recycling_service_pb2_grpc.RecyclingServiceServicer):
    """Takes cards back, gives them back, and pays for them."""

    def __init__(
        self, engine: Engine, recorder: OutcomeRecorder, reader: Reader, parser: CommandParser, support: SupportRole
    ) -> None:
        self._engine = engine
        self._recorder = recorder
        self._reader = reader
        self._parser = parser
        self._support = support

    async def QuoteRecycle(self, request: pb.QuoteRecycleRequest, context: Context) -> Served:
        """See the proto."""
        return await answers.one(self._engine, self._parser.quote(request))

    async def Recycle(self, request: pb.RecycleRequest, context: Context) -> Served:
        """See the proto."""
        return await answers.one(self._engine, self._parser.recycle(request))

    async def BatchRecycle(self, request: pb.BatchRecycleRequest, context: Context) -> Served:
        """See the proto."""
        outcomes = await answers.each(request.requests, self._parser.recycle, self._engine.submit)
        return pb.BatchRecycleResponse(results=map(_result, outcomes))

    async def Reactivate(self, request: pb.ReactivateRequest, context: Context) -> Served:
        """See the proto."""
        return await answers.one(self._engine, self._parser.reactivate(request))

    async def Compensate(self, request: pb.CompensateRequest, context: Context) -> Served:
        """See the proto."""
        if request.HasField("goodwill"):
            self._support.check(context)
            return await answers.one(self._engine, self._parser.grant(request))
        return await answers.one(self._engine, self._parser.compensate(request))

    async def GetRecycling(self, request: pb.GetRecyclingRequest, context: Context) -> Served:
        """See the proto."""
        recycling = await self._reader.recycling(request.account_id, UUID(request.recycling_id))
        if recycling is None:
            raise Refusal(Reason.RECYCLING_NOT_FOUND, "no such recycling in this account")
        return pb.GetRecyclingResponse(recycling=recycling_message(recycling))

    async def ListRecyclings(self, request: pb.ListRecyclingsRequest, context: Context) -> Served:
        """See the proto."""
        size = paging.size(request)
        found = await self._reader.recyclings(request.account_id, paging.position(request), size + 1)
        shown, token = paging.page(request, found, size, _position)
        return pb.ListRecyclingsResponse(recyclings=map(recycling_message, shown), next_page_token=token)

    async def RecordOutcome(self, request: pb.RecordOutcomeRequest, context: Context) -> Served:
        """See the proto."""
        outcome = await self._recorder.record(self._parser.outcome(request))
        return pb.RecordOutcomeResponse(outcome=outcome_message(outcome))


def _position(recycling: Recycling) -> tuple[datetime, UUID]:
    assert recycling.recycling_id is not None
    return recycling.create_time, recycling.recycling_id


def _result(outcome: Outcome) -> pb.BatchRecycleResponse.Result:
    if isinstance(outcome, Refusal):
        return pb.BatchRecycleResponse.Result(status=errors.status(outcome))
    return pb.BatchRecycleResponse.Result(recycling=pb.RecycleResponse.FromString(outcome).recycling)
