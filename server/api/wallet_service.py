"""WalletService: messages to commands, and what accounts hold and can have for it to messages."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from card_recycling.v1 import wallet_service_pb2 as pb
from card_recycling.v1 import wallet_service_pb2_grpc

from server.api import answers, names, paging
from server.api.guard import Context, Served
from server.api.ports import Reader, Wallets
from server.api.requests import CommandParser
from server.api.wallet_messages import offer_message, posting_message, rate_message, wallet_message
from server.domain.recycling import TransferKind, Unit
from server.domain.wallet import Posting, PostingFilter
from server.engine.engine import Engine


class WalletServicer(wallet_service_pb2_grpc.WalletServiceServicer):
    """Shows what accounts hold, and lets them use it."""

    def __init__(self, engine: Engine, reader: Reader, wallets: Wallets, parser: CommandParser) -> None:
        self._engine = engine
        self._reader = reader
        self._wallets = wallets
        self._parser = parser

    async def GetWallet(self, request: pb.GetWalletRequest, context: Context) -> Served:
        """See the proto."""
        return pb.GetWalletResponse(wallet=wallet_message(await self._reader.wallet(request.account_id)))

    async def ListPostings(self, request: pb.ListPostingsRequest, context: Context) -> Served:
        """See the proto."""
        size = paging.size(request)
        found = await self._wallets.postings(_filter(request), paging.position(request), size + 1)
        shown, token = paging.page(request, found, size, _position)
        return pb.ListPostingsResponse(postings=map(posting_message, shown), next_page_token=token)

    async def ListOffers(self, request: pb.ListOffersRequest, context: Context) -> Served:
        """See the proto."""
        markets = await self._wallets.markets(request.platform or None, request.account_id or None)
        wallet = await self._reader.wallet(request.account_id) if request.account_id else None
        return pb.ListOffersResponse(
            offers=[offer_message(market, offer, wallet) for market in markets for offer in market.policy.offers],
            rates=[rate_message(market, rate) for market in markets for rate in market.policy.exchange],
        )

    async def Redeem(self, request: pb.RedeemRequest, context: Context) -> Served:
        """See the proto."""
        return await answers.one(self._engine, self._parser.redeem(request))

    async def Exchange(self, request: pb.ExchangeRequest, context: Context) -> Served:
        """See the proto."""
        return await answers.one(self._engine, self._parser.exchange(request))


def _filter(request: pb.ListPostingsRequest) -> PostingFilter:
    unit, kind = names.UNIT.known(request.unit), names.POSTING_KIND.known(request.kind)
    return PostingFilter(
        account_id=request.account_id,
        platform=request.platform or None,
        unit=Unit(unit) if unit else None,
        kind=TransferKind(kind) if kind else None,
    )


def _position(posting: Posting) -> tuple[datetime, UUID]:
    return posting.create_time, posting.posting_id
