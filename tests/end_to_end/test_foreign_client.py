"""A client that has nothing of ours: it learns the contract from reflection and calls by it."""

from __future__ import annotations

import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.end_to_end.conftest import PATIENCE_S, Service


class ForeignClient:
    """Calls any method with JSON, knowing only its name."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        database = ProtoReflectionDescriptorDatabase(channel)
        self.services = database.get_services()
        self._pool: Any = DescriptorPool(database)

    def call(self, service: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer, as JSON."""
        described = self._pool.FindServiceByName(service).FindMethodByName(method)
        call: Any = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(described.output_type).FromString,
        )
        message = ParseDict(request, GetMessageClass(described.input_type)())
        return MessageToDict(call(message, timeout=PATIENCE_S))


async def test_client_from_reflection(service: Service) -> None:
    """From reflection alone a client finds the services, recycles a card by JSON, and reads the record back."""
    (card,) = await service.issue("iqiyi")
    with grpc.insecure_channel(service.stack.address) as channel:
        foreign = ForeignClient(channel)
        assert "card_recycling.v1.RecyclingService" in foreign.services
        request = {
            "requestId": str(uuid.uuid4()),
            "accountId": card.account_id,
            "cardId": card.card_id,
            "reason": "RECYCLE_REASON_VOLUNTARY",
            "device": {"deviceId": "a foreign phone", "ip": "192.0.2.7"},
        }
        answer = foreign.call("card_recycling.v1.RecyclingService", "Recycle", request)["recycling"]
        assert (answer["cardId"], answer["state"]) == (card.card_id, "RECYCLING_STATE_APPROVED")
        named = {"accountId": card.account_id, "recyclingId": answer["recyclingId"]}
        found = foreign.call("card_recycling.v1.RecyclingService", "GetRecycling", named)["recycling"]
        assert found == answer
        with pytest.raises(grpc.RpcError) as error:
            foreign.call("card_recycling.v1.RecyclingService", "Recycle", {**request, "cardId": str(uuid.uuid4())})
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
