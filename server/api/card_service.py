"""CardService: messages to commands, outcomes to messages."""

from __future__ import annotations

from uuid import UUID

from card_recycling.v1 import card_service_pb2 as pb
from card_recycling.v1 import card_service_pb2_grpc, types_pb2

from server.api import errors, paging
from server.api.guard import Context, Served
from server.api.messages import CommandParser, card_message
from server.api.ports import Reader
from server.api.shape import check_shape
from server.domain.commands import Command, IssueItem
from server.domain.errors import Reason, Refusal
from server.engine.engine import Engine, Outcome
from server.engine.issue import Issuer


class CardServicer(card_service_pb2_grpc.CardServiceServicer):
    """Issues cards and leads them through their ordinary life."""

    def __init__(self, engine: Engine, issuer: Issuer, reader: Reader, parser: CommandParser) -> None:
        self._engine = engine
        self._issuer = issuer
        self._reader = reader
        self._parser = parser

    async def IssueCards(self, request: pb.IssueCardsRequest, context: Context) -> Served:
        """See the proto."""
        outcomes: list[Outcome | None] = [None] * len(request.items)
        items: list[IssueItem] = []
        places: list[int] = []
        for place, item in enumerate(request.items):
            try:
                check_shape(item)
                items.append(self._parser.issue_item(item))
            except Refusal as refusal:
                outcomes[place] = refusal
            else:
                places.append(place)
        for place, outcome in zip(places, await self._issuer.issue(items) if items else (), strict=True):
            outcomes[place] = outcome
        return pb.IssueCardsResponse(results=map(_result, outcomes))

    async def GetCard(self, request: pb.GetCardRequest, context: Context) -> Served:
        """See the proto."""
        found = await self._reader.card(request.account_id, UUID(request.card_id))
        if found is None:
            raise Refusal(Reason.CARD_NOT_FOUND, "no such card in this account")
        return pb.GetCardResponse(card=card_message(*found))

    async def ListCards(self, request: pb.ListCardsRequest, context: Context) -> Served:
        """See the proto."""
        size = request.page_size or paging.PAGE_SIZE_DEFAULT
        before = paging.position(request.page_token)
        found = await self._reader.cards(request.account_id, before, size + 1)
        page, token = found[:size], ""
        if len(found) > size:
            last, _ = page[-1]
            token = paging.token(last.issue_time, last.card_id)
        return pb.ListCardsResponse(cards=[card_message(*entry) for entry in page], next_page_token=token)

    async def ActivateCard(self, request: pb.ActivateCardRequest, context: Context) -> Served:
        """See the proto."""
        return await self._one(self._parser.activate(request))

    async def VoidCard(self, request: pb.VoidCardRequest, context: Context) -> Served:
        """See the proto."""
        return await self._one(self._parser.void(request))

    async def _one(self, command: Command) -> bytes:
        (outcome,) = await self._engine.submit([command])
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome


def _result(outcome: Outcome | None) -> pb.IssueCardsResponse.Result:
    assert outcome is not None
    if isinstance(outcome, Refusal):
        return pb.IssueCardsResponse.Result(status=errors.status(outcome))
    return pb.IssueCardsResponse.Result(card=types_pb2.Card.FromString(outcome))
