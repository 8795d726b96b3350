"""WalletService: shows what accounts hold."""

from __future__ import annotations

from card_recycling.v1 import wallet_service_pb2 as pb
from card_recycling.v1 import wallet_service_pb2_grpc

from server.api.guard import Context, Served
from server.api.messages import wallet_message
from server.api.ports import Reader


class WalletServicer(wallet_service_pb2_grpc.WalletServiceServicer):
    """Shows what accounts hold."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def GetWallet(self, request: pb.GetWalletRequest, context: Context) -> Served:
        """See the proto."""
        return pb.GetWalletResponse(wallet=wallet_message(await self._reader.wallet(request.account_id)))
