"""CardService: messages to commands, outcomes to messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from uuid import UUID

from card_recycling.v1 import card_service_pb2 as pb
from card_recycling.v1 import card_service_pb2_grpc, types_pb2

from server.api import answers, errors, paging
from server.api.event_stream import EventStreams
from server.api.guard import Context, Served
from server.api.messages import card_message
from server.api.ports import Reader
from server.api.requests import CommandParser
from server.domain.card import Card
from server.domain.errors import Reason, Refusal
from server.engine.engine import Engine
from server.engine.issue import Issuer
from server.engine.queue import Outcome


class CardServicer(card_service_pb2_grpc.CardServiceServicer):
    """Issues cards and leads them through their ordinary life."""

    def __init__(
        self, engine: Engine, issuer: Issuer, reader: Reader, parser: CommandParser, streams: EventStreams
    ) -> None:
        self._engine = engine
        self._issuer = issuer
        self._reader = reader
        self._parser = parser
        self._streams = streams

    async def IssueCards(self, request: pb.IssueCardsRequest, context: Context) -> Served:
        """See the proto."""
        outcomes = await answers.each(request.items, self._parser.issue_item, self._issuer.issue)
        return pb.IssueCardsResponse(results=map(_result, outcomes))

    async def GetCard(self, request: pb.GetCardRequest, context: Context) -> Served:
        """See the proto."""
        found = await self._reader.card(request.account_id, UUID(request.card_id))
        if found is None:
            raise Refusal(Reason.CARD_NOT_FOUND, "no such card in this account")
        return pb.GetCardResponse(card=card_message(*found))

    async def ListCards(self, request: pb.ListCardsRequest, context: Context) -> Served:
        """See the proto."""
        size = paging.size(request)
        found = await self._reader.cards(request.account_id, paging.position(request), size + 1)
        shown, token = paging.page(request, found, size, _position)
        return pb.ListCardsResponse(cards=[card_message(*entry) for entry in shown], next_page_token=token)

    async def ActivateCard(self, request: pb.ActivateCardRequest, context: Context) -> Served:
        """See the proto."""
        return await answers.one(self._engine, self._parser.activate(request))

    async def BindDevice(self, request: pb.BindDeviceRequest, context: Context) -> Served:
        """See the proto."""
        return await answers.one(self._engine, self._parser.bind(request))

    async def VoidCard(self, request: pb.VoidCardRequest, context: Context) -> Served:
        """See the proto."""
        return await answers.one(self._engine, self._parser.void(request))

    def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncGenerator[pb.WatchEventsResponse, None]:
        """See the proto."""
        return self._streams.watch(request)


def _position(read: tuple[Card, datetime]) -> tuple[datetime, UUID]:
    card, _ = read
    return card.issue_time, card.card_id


def _result(outcome: Outcome) -> pb.IssueCardsResponse.Result:
    if isinstance(outcome, Refusal):
        return pb.IssueCardsResponse.Result(status=errors.status(outcome))
    return pb.IssueCardsResponse.Result(card=types_pb2.Card.FromString(outcome))
