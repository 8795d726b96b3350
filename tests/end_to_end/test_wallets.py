"""What wallets are used for, through real gRPC: from a recycled card to a partner's notice, and who may be generous."""

from __future__ import annotations

import json

import grpc
import pytest
from card_recycling.v1 import types_pb2
from card_recycling.v1 import wallet_service_pb2 as pb
from card_recycling.v1.card_service_pb2 import WATCH_START_BEGINNING, WatchEventsRequest
from card_recycling.v1.recycling_service_pb2 import CompensateRequest, Goodwill

from clients.python import RecyclingClient, RecyclingError
from tests.end_to_end.conftest import PATIENCE_S, Service, server_process
from tests.unit.test_cli import recycling

KEY = "a-key-of-customer-care-in-the-tests"


async def settled(service: Service) -> types_pb2.Recycling:
    """A recycling whose coins are in the wallet."""
    (card,) = await service.issue("iqiyi")
    recycled = await service.recycled(card)
    request = CompensateRequest(account_id=card.account_id, recycling_id=recycled.recycling_id)
    return (await service.client.compensate(request)).recycling


async def test_coins_become_a_voucher_and_points(service: Service) -> None:
    """What an account can afford is offered, taken and told to the partner; the rest changes platforms; the statement
    shows all of it, in pages."""
    recycled = await settled(service)
    account_id, coins, client = recycled.account_id, recycled.compensation.amount, service.client
    offered = await client.list_offers(pb.ListOffersRequest(platform="iqiyi", account_id=account_id))
    assert {offer.offer_id for offer in offered.offers if offer.affordable} >= {"jd-voucher-10", "renewal-coupon"}
    taken = await client.redeem(pb.RedeemRequest(account_id=account_id, platform="iqiyi", offer_id="jd-voucher-10"))
    assert taken.redemption.partner == "jd"
    changed = await client.exchange(
        pb.ExchangeRequest(
            account_id=account_id,
            platform="iqiyi",
            unit=types_pb2.UNIT_COIN,
            amount=coins - 1000,
            to_platform="tencent",
            to_unit=types_pb2.UNIT_GROWTH_POINT,
        )
    )
    assert [(each.platform, each.amount) for each in changed.wallet.balances] == [("tencent", changed.amount_out)]
    wanted = pb.ListPostingsRequest(account_id=account_id, page_size=2)
    amounts = [posting.amount async for posting in client.postings(wanted)]
    assert sorted(amounts) == sorted([coins, -1000, 1000 - coins, changed.amount_out])
    watch = WatchEventsRequest(account_id=account_id, kinds=["REDEEMED"], start=WATCH_START_BEGINNING)
    async for event in client.watch_events(watch):
        assert event.redemption.redemption_id == taken.redemption.redemption_id
        assert (event.redemption.offer_id, event.redemption.value_minor) == ("jd-voucher-10", 1000)
        break
    with pytest.raises(RecyclingError) as refused:
        await client.redeem(pb.RedeemRequest(account_id=account_id, platform="iqiyi", offer_id="ad-free-week"))
    assert (refused.value.code, refused.value.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE",
    )  # fmt: skip


async def test_goodwill_is_for_customer_care(service: Service) -> None:
    """Without the key, or with another, nobody grants anything; with it a grant is made, once a request id. A server
    that has no key grants nothing to anybody."""
    recycled = await settled(service)
    request = CompensateRequest(
        account_id=recycled.account_id,
        recycling_id=recycled.recycling_id,
        goodwill=Goodwill(unit=types_pb2.UNIT_COIN, amount=100, note="the film would not play"),
    )

    async def reason(address: str, key: str) -> str:
        async with RecyclingClient(address, support_key=key, timeout_s=PATIENCE_S) as client:
            try:
                await client.compensate(request)
            except RecyclingError as error:
                return error.reason
            return ""

    stack = service.stack
    with server_process(stack.server_url, stack.worker_address, environment={"SUPPORT_KEY": KEY}) as process:
        address = process.address()
        assert [await reason(address, key) for key in ("", KEY[:-1], f"{KEY} ")] == ["METHOD_NOT_ALLOWED"] * 3
        assert [await reason(address, KEY), await reason(address, KEY)] == ["", ""]
        assert await reason(stack.address, KEY) == "METHOD_NOT_ALLOWED"
        request.request_id, request.goodwill.note = "", "  "
        assert await reason(address, KEY) == "FIELD_INVALID"
        shown = await recycling(
            "goodwill", recycled.account_id, recycled.recycling_id, "COIN", "50", "sorry", "--json",
            "--address", address, RECYCLING_SUPPORT_KEY=KEY,
        )  # fmt: skip
    assert shown.code == 0, shown.err
    (balance,) = json.loads(shown.out)["wallet"]["balances"]
    assert int(balance["amount"]) == recycled.compensation.amount + 150
