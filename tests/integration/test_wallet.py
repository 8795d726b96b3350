"""What wallets are used for, on a real database: offers, exchanges and goodwill, their limits, races and replays."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from card_recycling.v1 import recycling_service_pb2, types_pb2
from card_recycling.v1 import wallet_service_pb2 as pb

from server.api.paging import NEWEST
from server.domain.card import DAY
from server.domain.commands import Circumstances, Command, Exchange, Grant, Redeem
from server.domain.errors import Reason
from server.domain.recycling import TransferKind, Unit
from server.domain.wallet import PostingFilter
from server.engine.ports import DueKind
from server.store.wallets import PostgresWallets
from tests.integration.conftest import MakeWorld
from tests.integration.world import HASHER, World, compensate, new_account, reactivate, reason

COINS = 2_699
"""What an unused card of iqiyi pays."""


def redeem(account_id: str, offer_id: str = "ad-free-week", **more: Any) -> Redeem:
    """Takes an offer of iqiyi."""
    usual: dict[str, Any] = {"request_id": uuid.uuid4(), "platform": "iqiyi", "offer_id": offer_id}
    return Redeem(account_id=account_id, **(usual | more))


def exchange(account_id: str, amount: int, **more: Any) -> Exchange:
    """Changes coins of iqiyi into points of tencent."""
    usual: dict[str, Any] = {
        "request_id": uuid.uuid4(),
        "platform": "iqiyi",
        "unit": Unit.COIN,
        "to_platform": "tencent",
        "to_unit": Unit.GROWTH_POINT,
    }
    return Exchange(account_id=account_id, amount=amount, **(usual | more))


def grant(recycling: types_pb2.Recycling, amount: int, **more: Any) -> Grant:
    """Goodwill in coins."""
    usual: dict[str, Any] = {"request_id": uuid.uuid4(), "unit": Unit.COIN, "note": "the film would not play"}
    recycling_id = UUID(recycling.recycling_id)
    return Grant(account_id=recycling.account_id, recycling_id=recycling_id, amount=amount, **(usual | more))


async def rich(world: World) -> types_pb2.Recycling:
    """A recycling of an account that has just got its coins."""
    return await world.settled(await world.issue(active=False))


async def held(world: World, account_id: str) -> dict[str, int]:
    """What an account holds."""
    wallet = await world.store.wallet(account_id)
    return {f"{balance.platform} {balance.unit}": balance.amount for balance in wallet.balances}


async def refusals(world: World, *commands: Command) -> list[Reason | None]:
    return [reason(await world.run(command)) for command in commands]


async def test_an_offer_is_paid_for_and_on_record(world: World) -> None:
    """The price leaves the wallet, and the redemption says what the partner owes."""
    account_id = (await rich(world)).account_id
    answer = pb.RedeemResponse.FromString(await world.answer(redeem(account_id, "jd-voucher-10")))
    redemption = answer.redemption
    assert (redemption.partner, redemption.price, redemption.benefit.value_minor) == ("jd", 1000, 1000)
    assert await held(world, account_id) == {"iqiyi COIN": COINS - 1000}
    assert [(balance.platform, balance.amount) for balance in answer.wallet.balances] == [("iqiyi", COINS - 1000)]


async def test_a_repeated_request_is_paid_once(world: World) -> None:
    """The same request gets the same bytes; another offer under its id is refused."""
    account_id = (await rich(world)).account_id
    command = redeem(account_id)
    assert await world.answer(command) == await world.answer(command)
    other = redeem(account_id, "jd-voucher-10", request_id=command.request_id)
    assert await refusals(world, other) == [Reason.IDEMPOTENCY_KEY_REUSED]
    assert await held(world, account_id) == {"iqiyi COIN": COINS - 300}


async def test_a_dry_run_moves_nothing(world: World) -> None:
    """Validating answers as the real call would, and fails as it would, without effect."""
    account_id = (await rich(world)).account_id
    answer = await world.answer(redeem(account_id, dry_run=True))
    assert pb.RedeemResponse.FromString(answer).redemption.redemption_id == ""
    assert pb.ExchangeResponse.FromString(await world.answer(exchange(account_id, 10, dry_run=True))).amount_out == 97
    assert await refusals(world, redeem(account_id, "nothing", dry_run=True)) == [Reason.OFFER_NOT_FOUND]
    assert await held(world, account_id) == {"iqiyi COIN": COINS}
    assert await world.count("redemption", account_id) == 0


async def test_two_who_spend_the_last_coins_do_so_once(world: World) -> None:
    """Of two redemptions at once, on two servers, that the wallet can pay once, one is refused."""
    account_id = (await rich(world)).account_id
    await world.answer(exchange(account_id, COINS - 1100))
    other = world.another_engine()
    first, second = await asyncio.gather(
        world.engine.submit([redeem(account_id, "jd-voucher-10")]), other.submit([redeem(account_id, "jd-voucher-10")])
    )
    refused = [reason(outcome) for outcome in (*first, *second) if not isinstance(outcome, bytes)]
    assert refused == [Reason.INSUFFICIENT_BALANCE]
    assert (await held(world, account_id))["iqiyi COIN"] == 100


async def test_a_redeemed_coupon_lies_in_the_wallet_until_it_expires(new_world: MakeWorld) -> None:
    """It has the redemption's id and terms; unused it goes, once, at its time."""
    world = await new_world()
    account_id = (await rich(world)).account_id
    answer = pb.RedeemResponse.FromString(await world.answer(redeem(account_id, "renewal-coupon")))
    (coupon,) = answer.wallet.coupons
    assert coupon.coupon_id == answer.redemption.redemption_id
    assert (coupon.basis_points, coupon.max_discount_minor) == (1000, 450)
    await world.move(90 * DAY)
    assert (await world.store.wallet(account_id)).coupons == ()
    assert (await world.sweep())[DueKind.COUPON] == 1
    assert DueKind.COUPON not in await world.sweep()
    assert await world.count("coupon_open", account_id) == 0


async def test_an_offer_is_taken_as_often_as_it_allows(new_world: MakeWorld) -> None:
    """And again once the earlier ones lie 30 days back."""
    world = await new_world()
    account_id = (await rich(world)).account_id
    for _ in range(2):
        await world.answer(redeem(account_id, "renewal-coupon"))
    assert await refusals(world, redeem(account_id, "renewal-coupon")) == [Reason.LIMIT_EXCEEDED]
    await world.move(30 * DAY)
    await world.answer(redeem(account_id, "renewal-coupon"))


async def test_an_exchange_changes_units_at_the_rate_less_the_spread(world: World) -> None:
    """Floored, into another platform's unit; what is got can be used there."""
    account_id = (await rich(world)).account_id
    assert pb.ExchangeResponse.FromString(await world.answer(exchange(account_id, 101))).amount_out == 979
    assert await held(world, account_id) == {"iqiyi COIN": COINS - 101, "tencent GROWTH_POINT": 979}
    await world.answer(redeem(account_id, "music-month", platform="tencent"))
    back = exchange(account_id, 679, platform="tencent", unit=Unit.GROWTH_POINT, to_platform="iqiyi", to_unit=Unit.COIN)
    assert pb.ExchangeResponse.FromString(await world.answer(back)).amount_out == 65
    assert await held(world, account_id) == {"iqiyi COIN": COINS - 36}


async def test_exchanges_are_refused_for_what_is_wrong_with_them(world: World) -> None:
    """No such way, too little held, too little got, less than wanted, too much at once."""
    account_id = (await rich(world)).account_id
    await world.answer(exchange(account_id, 1))
    small = {"platform": "tencent", "unit": Unit.GROWTH_POINT, "to_platform": "iqiyi", "to_unit": Unit.COIN}
    assert await refusals(
        world,
        exchange(account_id, 10, to_platform="netflix"),
        exchange(account_id, 10, platform="nowhere"),
        exchange(account_id, COINS),
        exchange(account_id, 9, **small),
        exchange(account_id, 10, min_amount=98),
        redeem(new_account()),
    ) == [
        Reason.EXCHANGE_NOT_OFFERED,
        Reason.EXCHANGE_NOT_OFFERED,
        Reason.INSUFFICIENT_BALANCE,
        Reason.LIMIT_EXCEEDED,
        Reason.QUOTE_STALE,
        Reason.INSUFFICIENT_BALANCE,
    ]


async def test_what_was_spent_keeps_the_card_from_coming_back(world: World) -> None:
    """Reactivating needs all that was settled; what was changed into another unit does not count."""
    recycling = await rich(world)
    await world.answer(exchange(recycling.account_id, 1))
    assert await refusals(world, reactivate(recycling)) == [Reason.COMPENSATION_SPENT]
    assert await held(world, recycling.account_id) == {"iqiyi COIN": COINS - 1, "tencent GROWTH_POINT": 9}


async def test_wallets_of_the_listed_are_held(world: World) -> None:
    """DENY on account or payout holds what the wallet has; WATCH does not."""
    account_id, watched = (await rich(world)).account_id, (await rich(world)).account_id
    recycling = await rich(world)
    await world.put("DENY", "ACCOUNT", account_id)
    await world.put("WATCH", "ACCOUNT", watched)
    await world.put("DENY", "PAYOUT", "phone-1")
    to_listed = Circumstances(payout_hash=HASHER.payout("phone-1"))
    assert (
        await refusals(
            world,
            redeem(account_id),
            exchange(account_id, 10),
            redeem(watched, circumstances=to_listed),
            grant(recycling, 10, circumstances=to_listed),
        )
        == [Reason.WALLET_HELD] * 4
    )
    await world.answer(redeem(watched))


async def test_goodwill_is_kept_when_the_card_comes_back(world: World) -> None:
    """It is granted beside what the recycling pays, with its note on record, and only the payment is clawed back."""
    recycling = await rich(world)
    answer = await world.answer(grant(recycling, 500))
    told = recycling_service_pb2.CompensateResponse.FromString(answer)
    assert told.recycling.compensation.state == types_pb2.COMPENSATION_STATE_SETTLED
    assert await held(world, recycling.account_id) == {"iqiyi COIN": COINS + 500}
    await world.answer(reactivate(recycling))
    assert await held(world, recycling.account_id) == {"iqiyi COIN": 500}
    notes = await world.owner.fetch("SELECT note FROM goodwill WHERE account_id = $1", recycling.account_id)
    assert [row["note"] for row in notes] == ["the film would not play"]


async def test_goodwill_settles_nothing(world: World) -> None:
    """A pending compensation is still to be settled afterwards."""
    recycling = await world.recycled(await world.issue(active=False))
    await world.answer(grant(recycling, 1))
    await world.answer(compensate(recycling))
    assert await held(world, recycling.account_id) == {"iqiyi COIN": COINS + 1}


async def test_goodwill_has_caps(new_world: MakeWorld) -> None:
    """One grant, and all of an account in 30 days; in the policy's unit only."""
    world = await new_world()
    recycling = await rich(world)
    for amount in (2000, 2000, 1000):
        await world.answer(grant(recycling, amount))
    assert await refusals(
        world, grant(recycling, 1), grant(await rich(world), 2001), grant(await rich(world), 1, unit=Unit.GROWTH_POINT)
    ) == [Reason.LIMIT_EXCEEDED, Reason.LIMIT_EXCEEDED, Reason.FIELD_INVALID]
    await world.move(30 * DAY)
    await world.answer(grant(recycling, 1))


async def test_postings_are_told_newest_first_in_pages(world: World) -> None:
    """Each once, however they fall into pages, also those of one moment; and only the kinds wanted."""
    account_id = (await rich(world)).account_id
    await world.answer(redeem(account_id, "renewal-coupon"))
    await world.answer(exchange(account_id, 10))
    wallets = PostgresWallets(world.store)
    seen, before = [], NEWEST
    while page := await wallets.postings(PostingFilter(account_id=account_id), before, 2):
        seen += page
        before = (page[-1].create_time, page[-1].posting_id)
    assert len(seen) == len({posting.posting_id for posting in seen}) == 5
    assert sum(posting.amount for posting in seen if posting.unit is Unit.COIN) == COINS - 510
    wanted = PostingFilter(account_id=account_id, kind=TransferKind.EXCHANGE, platform="tencent")
    assert [posting.amount for posting in await wallets.postings(wanted, NEWEST, 10)] == [97]


async def test_offers_say_who_can_afford_them(world: World) -> None:
    """By wallet and by limit; of all platforms, or of one."""
    account_id = (await rich(world)).account_id
    for _ in range(2):
        await world.answer(redeem(account_id, "renewal-coupon"))
    wallets, wallet = PostgresWallets(world.store), await world.store.wallet(account_id)
    (market,) = await wallets.markets("iqiyi", account_id)
    affordable = {offer.offer_id: market.is_affordable(offer, wallet) for offer in market.policy.offers}
    assert affordable == {
        "jd-voucher-10": True,
        "ad-free-week": True,
        "renewal-coupon": False,
        "premiere-ticket": False,
    }
    assert {"iqiyi", "netflix", "tencent"} <= {each.policy.platform for each in await wallets.markets(None, None)}


async def test_an_exchange_waits_for_no_longer_than_its_rate(new_world: MakeWorld) -> None:
    """What a revision about to take over would decide otherwise is not decided by the one before it."""
    world = await new_world()
    account_id = (await rich(world)).account_id
    now = await world.store.now()
    await world.owner.execute(
        """INSERT INTO policy_activation (platform, activation, revision, effective_time, create_time)
           SELECT platform, activation + 1, revision, $1, $2 FROM policy_activation WHERE platform = 'iqiyi'""",
        now + timedelta(minutes=1),
        now,
    )
    (loaded,) = await world.store.load([exchange(account_id, 10)])
    assert loaded.snapshot.policy_until == now + timedelta(minutes=1)
    await world.answer(exchange(account_id, 10))


@pytest.mark.parametrize("kind", ["redemption", "goodwill"])
async def test_what_was_given_cannot_be_changed(world: World, kind: str) -> None:
    """The server may add to these records, and nothing else."""
    for deed in ("UPDATE", "DELETE", "TRUNCATE"):
        may = await world.owner.fetchval("SELECT has_table_privilege('recycling_server', $1, $2)", kind, deed)
        assert may is False


async def test_recycled_for_points_can_be_changed_into_coins(world: World) -> None:
    """The middle segment's growth points have a rate of their own."""
    card = await world.issue(active=False, segment="MIDDLE")
    recycling = await world.recycled(card, unit=Unit.GROWTH_POINT)
    await world.answer(compensate(recycling))
    points = recycling.compensation.amount
    change = exchange(
        card.account_id, points, unit=Unit.GROWTH_POINT, to_platform="iqiyi", to_unit=Unit.COIN, platform="iqiyi"
    )
    got = pb.ExchangeResponse.FromString(await world.answer(change)).amount_out
    assert got == points * 9 * 98 // 1000 < card.paid_minor
