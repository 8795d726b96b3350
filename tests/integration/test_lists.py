"""Lists, caps and exploration over a real database: what is in force when, who wins a race, and what follows."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from card_recycling.v1 import types_pb2

from server.domain.commands import Circumstances
from server.domain.errors import Reason, Refusal
from server.domain.lists import ListEntry, ListFilter, ListKind, SubjectKind
from tests.integration.conftest import MakeWorld
from tests.integration.world import (
    LOTTERY,
    World,
    again,
    circumstances,
    compensate,
    new_account,
    parsed,
    quote,
    reactivate,
    reason,
    recycle,
    unique,
)

MICROSECOND = timedelta(microseconds=1)
APPROVED, REJECTED = types_pb2.RECYCLING_STATE_APPROVED, types_pb2.RECYCLING_STATE_REJECTED
NEWEST = (datetime(9000, 1, 1, tzinfo=UTC), uuid.UUID(int=2**128 - 1))


async def codes(world: World, found: Circumstances, **more: Any) -> list[str]:
    """The reason codes of a recycle of a new card."""
    return [*parsed(await world.run(recycle(await world.issue(**more), circumstances=found))).decision.reason_codes]


async def versions(world: World, entry: ListEntry) -> list[ListEntry]:
    """All that was ever put of an entry's subject, newest first."""
    wanted = ListFilter(subject_kind=entry.subject.kind, subject=entry.subject)
    return await world.store.entries(wanted, NEWEST, 100)


# What is in force


@pytest.mark.parametrize(
    ("kind", "named", "asked"),
    [
        ("DEVICE", "Phone-{}", lambda name: circumstances(device=f" pHONE-{name} ")),
        ("PAYOUT", "IBAN {}", lambda name: circumstances(payout=f"iban {name}")),
        ("ADDRESS", "198.51.100.7", lambda _: circumstances(ip="198.51.100.7")),
        ("ADDRESS", "203.0.113.0/24", lambda _: circumstances(ip="203.0.113.200")),
        ("ADDRESS", "2001:db8:1:2::3", lambda _: circumstances(ip="2001:db8:1:2:ffff::1")),
        ("ADDRESS", "2001:db8:7::/48", lambda _: circumstances(ip="2001:db8:7:8::9")),
    ],
)
async def test_entry_names_what_requests_bring(world: World, kind: str, named: str, asked: Any) -> None:
    """Devices, payouts, addresses and ranges are found by the hashes that requests leave; others are not."""
    name = unique("listed")
    await world.put("WATCH", kind, named.format(name))
    assert await codes(world, asked(name)) == [f"WATCH_LISTED_{kind}"]
    assert await codes(world, circumstances(device="other", payout="other", ip="192.0.2.1")) == []


async def test_account_is_listed_by_its_id(world: World) -> None:
    """An account is found without any device, and no other account is."""
    account_id = new_account()
    entry = await world.put("DENY", "ACCOUNT", account_id)
    card = await world.issue(account_id=account_id)
    refused = parsed(await world.run(recycle(card)))
    assert refused.state == REJECTED
    (hit,) = refused.decision.list_hits
    assert (hit.list, hit.subject_kind) == (types_pb2.LIST_KIND_DENY, types_pb2.SUBJECT_KIND_ACCOUNT)
    assert hit.entry_id == str(entry.entry_id)
    assert (await world.recycled(await world.issue())).state == APPROVED


async def test_entry_is_in_force_to_the_microsecond(new_world: MakeWorld) -> None:
    """An entry begins with its put and ends with its expiry, exclusive, as the clock of the database has it."""
    world = await new_world()
    device = circumstances(device="for a while")
    assert await codes(world, device) == []
    now = await world.move(MICROSECOND)
    entry = await world.put("WATCH", "DEVICE", "for a while", expire_time=now + timedelta(days=1))
    assert await codes(world, device) == ["WATCH_LISTED_DEVICE"]
    await world.move(timedelta(days=1) - MICROSECOND)
    assert await codes(world, device) == ["WATCH_LISTED_DEVICE"]
    await world.move(MICROSECOND)
    assert await codes(world, device) == []
    (listed,) = await versions(world, entry)
    assert (listed.end_time, listed.ended_by) == (entry.expire_time, "")
    with pytest.raises(Refusal) as refusal:
        await world.lists.delete(entry.entry_id, "ops", "too late")
    assert refusal.value.reason is Reason.LIST_ENTRY_NOT_FOUND


@pytest.mark.parametrize("ahead", [-timedelta(days=1), timedelta(0)])
async def test_expiry_must_lie_ahead(world: World, ahead: timedelta) -> None:
    """An entry that would be over at once is a mistake, and adds nothing."""
    now = await world.move(timedelta(0))
    with pytest.raises(Refusal) as refusal:
        await world.put("DENY", "DEVICE", unique("past"), expire_time=now + ahead)
    assert (refusal.value.reason, refusal.value.fields[0][0]) == (Reason.FIELD_INVALID, "expire_time")


async def test_nothing_that_was_put_is_lost(new_world: MakeWorld) -> None:
    """A second put ends the first version, a delete the second, a third begins anew; each is told with who and why."""
    world = await new_world()
    first = await world.put("DENY", "DEVICE", "phone", actor="ann", reason="a farm")
    second_time = await world.move(timedelta(hours=1))
    second = await world.put("DENY", "DEVICE", "phone", actor="bob", reason="a farm, surely")
    deleted_time = await world.move(timedelta(hours=1))
    ended = await world.lists.delete(second.entry_id, "cem", "a school")
    assert await codes(world, circumstances(device="phone")) == []
    await world.move(timedelta(hours=1))
    third = await world.put("DENY", "DEVICE", "phone", actor="dan", reason="a farm again")
    listed = await versions(world, first)
    assert [each.entry_id for each in listed] == [third.entry_id, second.entry_id, first.entry_id]
    assert [each.reason for each in listed] == ["a farm again", "a farm, surely", "a farm"]
    assert [(each.end_time, each.ended_by, each.end_reason) for each in listed] == [
        (None, "", ""),
        (deleted_time, "cem", "a school"),
        (second_time, "bob", "a farm, surely"),
    ]
    assert listed[1] == ended
    assert len({each.etag for each in listed}) == 3
    assert await codes(world, circumstances(device="phone")) == ["DENY_LISTED_DEVICE"]


async def test_etag_guards_a_put(world: World) -> None:
    """With an etag a put replaces the entry that it was read from, and nothing else."""
    name = unique("guarded")
    first = await world.put("DENY", "DEVICE", name)
    second = await world.put("DENY", "DEVICE", name, etag=first.etag)
    for etag in (first.etag, "v99", "nonsense"):
        with pytest.raises(Refusal) as refusal:
            await world.put("DENY", "DEVICE", name, etag=etag)
        assert refusal.value.reason is Reason.ETAG_MISMATCH
    await world.lists.delete(second.entry_id, "ops", "over")
    with pytest.raises(Refusal) as refusal:
        await world.put("DENY", "DEVICE", name, etag=second.etag)
    assert refusal.value.reason is Reason.ETAG_MISMATCH


async def test_replaced_or_unknown_entry_cannot_be_deleted(world: World) -> None:
    """Only what is in force can be ended, and only once."""
    name = unique("once")
    first = await world.put("DENY", "DEVICE", name)
    second = await world.put("DENY", "DEVICE", name)
    await world.lists.delete(second.entry_id, "ops", "over")
    for entry_id in (first.entry_id, second.entry_id, uuid.uuid4()):
        with pytest.raises(Refusal) as refusal:
            await world.lists.delete(entry_id, "ops", "again")
        assert refusal.value.reason is Reason.LIST_ENTRY_NOT_FOUND


async def test_puts_at_once_leave_one_version_after_the_other(world: World) -> None:
    """Whoever wins, versions have no gap and no double, and losers are told to try again."""
    name = unique("contended")
    outcomes = await asyncio.gather(*(world.put("DENY", "DEVICE", name) for _ in range(8)), return_exceptions=True)
    won = [each for each in outcomes if isinstance(each, ListEntry)]
    lost = [each.reason for each in outcomes if isinstance(each, Refusal)]
    assert len(won) + len(lost) == 8 and set(lost) <= {Reason.CONFLICT_RETRY}
    assert sorted(each.version for each in won) == list(range(1, len(won) + 1))


async def test_pages_and_filters(new_world: MakeWorld) -> None:
    """Entries come newest first in pages without gap or double, by list, kind, subject and whether in force."""
    world = await new_world()
    put = []
    for number in range(12):
        await world.move(timedelta(seconds=number % 2))  # some share a moment
        kind = ("DENY", "WATCH", "ALLOW")[number % 3]
        put.append(await world.put(kind, ("DEVICE", "PAYOUT")[number % 2], f"subject {number // 2}"))
    await world.lists.delete(put[0].entry_id, "ops", "over")

    async def pages(wanted: ListFilter) -> list[uuid.UUID]:
        found: list[ListEntry] = []
        before = NEWEST
        while page := await world.store.entries(wanted, before, 5):
            found += page
            before = (page[-1].create_time, page[-1].entry_id)
        assert found == sorted(found, key=lambda each: (each.create_time, each.entry_id), reverse=True)
        return [each.entry_id for each in found]

    def ids(*numbers: int) -> set[uuid.UUID]:
        return {put[number].entry_id for number in numbers}

    everything = await pages(ListFilter())
    assert len(everything) == 12 and set(everything) == ids(*range(12))
    assert set(await pages(ListFilter(active_only=True))) == ids(*range(1, 12))
    assert set(await pages(ListFilter(list=ListKind.DENY))) == ids(0, 3, 6, 9)
    assert set(await pages(ListFilter(subject_kind=SubjectKind.PAYOUT))) == ids(1, 3, 5, 7, 9, 11)
    one = put[0].subject
    assert await pages(ListFilter(subject_kind=one.kind, subject=one)) == [put[0].entry_id]
    assert await pages(ListFilter(subject_kind=one.kind, subject=one, active_only=True)) == []


# What follows


async def test_denied_request_is_scored_and_leaves_its_event(world: World) -> None:
    """The model still judges what a list refuses, and later requests count it."""
    name = unique("denied")
    await world.put("DENY", "DEVICE", name)
    card = await world.issue()
    told = parsed(await world.run(recycle(card, circumstances=circumstances(device=name))))
    assert told.state == REJECTED and told.decision.HasField("risk_score")
    (event,) = await world.owner.fetch(
        "SELECT outcome FROM risk_event WHERE account_id = $1 AND kind = 'RECYCLE'", card.account_id
    )
    assert event["outcome"] == "REJECTED"


async def test_receipt_holds_what_the_rules_read(world: World) -> None:
    """List hits, lot and counts can be read from the receipt alone."""
    name = unique("receipt")
    entry = await world.put("WATCH", "DEVICE", name)
    card = await world.issue()
    device = circumstances(device=name)
    await world.run(recycle(card, circumstances=device))
    found = json.loads(
        await world.owner.fetchval(
            "SELECT receipt FROM command WHERE account_id = $1 AND method = 'Recycle'", card.account_id
        )
    )
    assert found["list_hits"] == [{"list": "WATCH", "subject_kind": "DEVICE", "entry_id": str(entry.entry_id)}]
    now = datetime.fromisoformat(found["now"])
    assert found["without_device"] is False
    assert found["lot"] == LOTTERY.lot(card.account_id, device.device_hash, now)
    assert found["features"]["account_recycles_24h"] == 0
    assert found["verdict"]["reason_codes"] == ["WATCH_LISTED_DEVICE"]


async def test_settlement_waits_while_the_payout_is_denied(world: World) -> None:
    """Compensate to a denied payout is not due, to another it is; and again to the first, once the entry has ended."""
    name = unique("mule")
    entry = await world.put("DENY", "PAYOUT", name)
    first, second = [await world.recycled(await world.issue()) for _ in range(2)]
    to_mule = circumstances(payout=name)
    assert reason(await world.run(compensate(first, circumstances=to_mule))) is Reason.SETTLEMENT_NOT_DUE
    assert reason(await world.run(compensate(second, circumstances=circumstances(payout="own")))) is None
    await world.lists.delete(entry.entry_id, "ops", "mistaken")
    assert reason(await world.run(compensate(first, circumstances=to_mule))) is None


async def test_settlement_waits_while_the_recycles_payout_is_denied(world: World) -> None:
    """The payout that the recycle named holds for Compensate that names none, or another, until the entry has ended."""
    name = unique("mule")
    recycling = parsed(await world.answer(recycle(await world.issue(), circumstances=circumstances(payout=name))))
    entry = await world.put("DENY", "PAYOUT", name)
    assert reason(await world.run(compensate(recycling))) is Reason.SETTLEMENT_NOT_DUE
    to_another = compensate(recycling, circumstances=circumstances(payout="own"))
    assert reason(await world.run(to_another)) is Reason.SETTLEMENT_NOT_DUE
    await world.lists.delete(entry.entry_id, "ops", "mistaken")
    assert reason(await world.run(compensate(recycling))) is None


async def test_reactivation_looks_at_the_recycles_payout(world: World) -> None:
    """A payout listed after the recycle that named it refuses the reactivation, and counts once if named again."""
    name = unique("mule")
    payout = circumstances(payout=name)
    recycling = parsed(await world.answer(recycle(await world.issue(), circumstances=payout)))
    entry = await world.put("DENY", "PAYOUT", name)
    for command in (reactivate(recycling), reactivate(recycling, circumstances=payout)):
        await world.answer(command)
        receipt = await world.owner.fetchval(
            "SELECT receipt FROM command WHERE account_id = $1 AND request_id = $2",
            command.account_id,
            command.request_id,
        )
        hit = {"list": "DENY", "subject_kind": "PAYOUT", "entry_id": str(entry.entry_id)}
        assert json.loads(receipt)["list_hits"] == [hit]
    stored = await world.store.recycling(command.account_id, uuid.UUID(recycling.recycling_id))
    assert stored is not None and stored.state == "APPROVED"


async def test_denied_account_is_not_settled_nor_given_back(world: World) -> None:
    """A listing that comes after the recycle stops settlement and reactivation, and leaves everything as it was."""
    account_id = new_account()
    recycling = await world.recycled(await world.issue(account_id=account_id))
    await world.put("DENY", "ACCOUNT", account_id)
    assert reason(await world.run(compensate(recycling))) is Reason.SETTLEMENT_NOT_DUE
    await world.answer(reactivate(recycling))
    stored = await world.store.recycling(account_id, uuid.UUID(recycling.recycling_id))
    assert stored is not None and stored.state == "APPROVED"


async def test_payout_is_not_input(world: World) -> None:
    """A retry that names another payout gets the stored answer."""
    command = recycle(await world.issue(), circumstances=circumstances(payout="one"))
    first = await world.answer(command)
    assert await world.answer(again(command, circumstances=circumstances(payout="two"))) == first


# Caps


@pytest.mark.parametrize("down", [False, True], ids=["with a worker", "without"])
async def test_cap_counts_earlier_requests_of_a_batch(world: World, down: bool) -> None:
    """Of five accounts on one device the third and later are refused, in one batch, with or without a worker."""
    name = unique("capped").replace("-", "_")
    cap = {"counter": "device_accounts_24h", "max": 2, "action": "REFUSE"}
    await world.add_platform(name, velocity=[cap], without_score="RULES_ONLY")
    cards = await world.issue_many(5, name)
    world.scorer.down = down
    device = circumstances(device=name)
    outcomes = await world.engine.submit([recycle(card, circumstances=device) for card in cards])
    told = [parsed(outcome) for outcome in outcomes]
    assert [each.state == REJECTED for each in told] == [False, False, True, True, True]
    assert ["VELOCITY_DEVICE_ACCOUNTS_24H" in each.decision.reason_codes for each in told] == [
        False,
        False,
        True,
        True,
        True,
    ]


async def test_address_cap_counts_accounts_at_the_address(world: World) -> None:
    """The third account at an address is held, device or not; who names no address is counted nowhere."""
    name = unique("crowd").replace("-", "_")
    cap = {"counter": "address_accounts_1h", "max": 2, "action": "HOLD"}
    await world.add_platform(name, velocity=[cap])
    cards = await world.issue_many(6, name)
    sent = [circumstances(device=None if n else name, ip="203.0.113.99") for n in range(3)] + [Circumstances()] * 3
    told = [parsed(await world.run(recycle(c, circumstances=s))) for c, s in zip(cards, sent, strict=True)]
    assert ["VELOCITY_ADDRESS_ACCOUNTS_1H" in each.decision.reason_codes for each in told] == [False] * 2 + [True] + [
        False
    ] * 3


# Without a device


async def test_request_without_a_device_is_held_and_says_so(world: World) -> None:
    """Quote, dry run and recycle tell the same; the receipt holds what the rule read."""
    name = unique("nameless").replace("-", "_")
    await world.add_platform(name, without_device="HOLD")
    card = await world.issue(name)
    nameless = circumstances(model="Pixel", ip="192.0.2.9")
    for command in (quote(card, circumstances=nameless), recycle(card, dry_run=True, circumstances=nameless)):
        told = parsed(await world.answer(command))
        assert (told.state, [*told.decision.reason_codes]) == (
            types_pb2.RECYCLING_STATE_IN_REVIEW,
            ["WITHOUT_DEVICE"],
        )
    held = await world.held(card, circumstances=nameless)
    assert held.reason_codes == ("WITHOUT_DEVICE",)
    receipt = await world.owner.fetchval(
        "SELECT receipt FROM command WHERE account_id = $1 AND method = 'Recycle'", card.account_id
    )
    assert json.loads(receipt)["without_device"] is True


async def test_reactivation_refused_without_a_device_leaves_everything(world: World) -> None:
    """The card goes on waiting, and with its device it is given back; every invariant holds of both."""
    name = unique("strict").replace("-", "_")
    await world.add_platform(name, without_device="REFUSE")
    owner = circumstances(device=name)
    recycling = parsed(await world.answer(recycle(await world.issue(name), circumstances=owner)))
    assert recycling.state == APPROVED
    await world.answer(reactivate(recycling))
    stored = await world.store.recycling(recycling.account_id, uuid.UUID(recycling.recycling_id))
    assert stored is not None and stored.state == "APPROVED"
    assert not await world.broken()
    await world.answer(reactivate(recycling, circumstances=owner))
    stored = await world.store.recycling(recycling.account_id, uuid.UUID(recycling.recycling_id))
    assert stored is not None and stored.state == "REVERSED"


# Exploration


async def test_winner_is_explored_whatever_it_asks(world: World) -> None:
    """Quote, dry run and further request ids get the same; without its device, or watched, the account is refused."""
    name = unique("explored").replace("-", "_")
    rule = {"share_basis_points": 1000, "amount_max_minor": 5000, "settle_after_days": 14}
    await world.add_platform(name, exploration=rule, velocity=[])
    now = await world.move(timedelta(0))
    winner, loser = await drawn(world, name, now, won=True), await drawn(world, name, now, won=False)
    for card, device, wins in ((*winner, True), (*loser, False)):
        suspicious = circumstances(device=device, vpn=True)
        for command in (
            quote(card, circumstances=suspicious),
            recycle(card, dry_run=True, circumstances=suspicious),
            recycle(card, dry_run=True, circumstances=suspicious),
        ):
            assert told_explored(await world.answer(command)) is wins
    card, device = winner
    await world.put("WATCH", "DEVICE", device)
    watched = recycle(card, dry_run=True, circumstances=circumstances(device=device, vpn=True))
    assert told_explored(await world.answer(watched)) is False
    assert (
        told_explored(await world.answer(recycle(card, dry_run=True, circumstances=circumstances(vpn=True)))) is False
    )


async def test_explored_recycle_is_settled_two_weeks_later(new_world: MakeWorld) -> None:
    """It is approved, waits, and then pays; every invariant holds of it."""
    world = await new_world()
    rule = {"share_basis_points": 1000, "amount_max_minor": 5000, "settle_after_days": 14}
    await world.add_platform("explored", exploration=rule)
    card, device = await drawn(world, "explored", await world.move(timedelta(0)), won=True)
    told = parsed(await world.answer(recycle(card, circumstances=circumstances(device=device, vpn=True))))
    assert (told.state, told.decision.explored, told.decision.propensity) == (APPROVED, True, 0.1)
    assert [*told.decision.reason_codes] == ["RISK_HIGH", "VPN", "EXPLORED"]
    await world.move(timedelta(days=14) - MICROSECOND)
    assert reason(await world.run(compensate(told))) is Reason.SETTLEMENT_NOT_DUE
    await world.move(MICROSECOND)
    await world.answer(compensate(told))


async def test_allowed_recycle_is_settled_in_spite_of_its_band(new_world: MakeWorld) -> None:
    """An ALLOW entry lets a HIGH band through, to the settlement; every invariant holds of it."""
    world = await new_world()
    await world.put("ALLOW", "DEVICE", "a tester's")
    card = await world.issue()
    told = parsed(await world.answer(recycle(card, circumstances=circumstances(device="a tester's", vpn=True))))
    assert [*told.decision.reason_codes] == ["ALLOW_LISTED_DEVICE", "RISK_HIGH", "VPN"]
    await world.answer(compensate(told))


async def drawn(world: World, platform: str, now: datetime, *, won: bool) -> tuple[types_pb2.Card, str]:
    """A new card whose account wins or loses a tenth, and a device."""
    for _ in range(1000):
        card = await world.issue(platform, active=False)
        device = f"device of {card.account_id}"
        lot = LOTTERY.lot(card.account_id, circumstances(device=device).device_hash, now)
        if lot is not None and (lot < 0.1) is won:
            return card, device
    raise AssertionError("no such account")


def told_explored(answer: bytes) -> bool:
    """Whether the recycling in the answer to a Recycle or QuoteRecycle was explored, and so approved."""
    recycling = parsed(answer)
    assert recycling.decision.explored is (recycling.state == APPROVED)
    return recycling.decision.explored
