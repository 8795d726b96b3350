"""Recorded decisions replay from their receipts alone, and whatever was tampered with is seen."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from card_recycling.v1 import recycling_service_pb2, types_pb2

from server.domain.card import VoidReason
from server.domain.commands import Exchange, Grant, Redeem
from server.domain.recycling import Unit
from server.domain.review import ReviewVerdict
from server.replay.case import Case, CaseInvalid
from server.replay.database import recorded_decisions
from server.replay.decision import Replay, replay
from tests.integration.conftest import MakeWorld
from tests.integration.world import (
    World,
    activate,
    circumstances,
    compensate,
    new_account,
    parsed,
    quote,
    reactivate,
    recycle,
    resolve,
    void,
)

METHODS = {
    "IssueCards",
    "ActivateCard",
    "ExpireCard",
    "Recycle",
    "Reactivate",
    "Compensate",
    "VoidCard",
    "Redeem",
    "Exchange",
    "ResolveReview",
    "LapseHold",
}


async def cases_of(world: World, account_id: str | None = None) -> list[Case]:
    """All that is on record, of an account or of all, in order of time."""
    async with recorded_decisions(world.server_url) as decisions:
        found = [case async for case in decisions.cases(account_id=account_id)]
    return sorted(found, key=lambda case: (case.create_time, case.method != "IssueCards"))


async def case_of(world: World, account_id: str, method: str) -> Case:
    """The account's one decision of a method."""
    (found,) = [case for case in await cases_of(world, account_id) if case.method == method]
    return found


def differing(outcome: Replay) -> set[str]:
    """The fields that came out otherwise."""
    return {field.name for field in outcome.fields if not field.same}


async def live_all_lives(world: World) -> None:
    """Every kind of decision, each once at least: on three platforms, held and refused, settled and taken back."""
    emulator, vpn = circumstances("device-1", emulator=True), circumstances("device-1", vpn=True)
    card = await world.issue(segment="SENIOR", external_serial="A-1", tier="PREMIUM", face_value_minor=3500)
    await world.move(timedelta(days=3, microseconds=7))
    token = recycling_service_pb2.QuoteRecycleResponse.FromString(await world.answer(quote(card))).quote_token
    settled = parsed(await world.answer(recycle(card, quote_token=token)))
    await world.answer(compensate(settled))
    await world.put("WATCH", "ACCOUNT", settled.account_id)
    held = await world.held_again(settled)
    await world.move(timedelta(hours=5))
    await world.answer(resolve(held, ReviewVerdict.DENY, note="no"))
    held = await world.held_again(settled)
    await world.answer(resolve(held))
    await world.recycled(await world.issue(), circumstances=vpn)
    review = await world.held(await world.issue(), circumstances=emulator)
    await world.answer(resolve(review))
    lapsing = await world.held(await world.issue(), circumstances=emulator)
    await world.move(timedelta(days=8))
    await world.answer(void(await world.issue(account_id=lapsing.account_id), VoidReason.REVOKED))
    await world.answer(recycle_named(lapsing.account_id, lapsing.card_id))
    anomaly = await world.recycled(await world.issue("tencent"), circumstances=vpn)
    await world.answer(resolve(await world.review_of(anomaly), ReviewVerdict.APPROVE))
    await world.answer(compensate(anomaly))
    await world.answer(reactivate(anomaly))
    old = await world.issue("netflix", account_id=new_account())
    await world.move(timedelta(days=61))
    await world.settled(old)
    charged = await world.issue()
    await world.recycled(charged)
    await world.answer(void(charged, VoidReason.CHARGEBACK))
    world.scorer.down = True
    await world.recycled(await world.issue())
    world.scorer.down = False
    rich = await world.settled(await world.issue())
    usual: dict[str, Any] = {"account_id": rich.account_id}
    named = UUID(rich.recycling_id)
    for _ in range(2):  # the second counts the first
        await world.answer(
            Grant(request_id=uuid4(), recycling_id=named, unit=Unit.COIN, amount=7, note="sorry", **usual)
        )
    for _ in range(2):
        await world.answer(Redeem(request_id=uuid4(), platform="iqiyi", offer_id="renewal-coupon", **usual))
    to_points: dict[str, Any] = {"to_platform": "tencent", "to_unit": Unit.GROWTH_POINT}
    changed = Exchange(request_id=uuid4(), platform="iqiyi", unit=Unit.COIN, amount=99, **to_points, **usual)
    await world.answer(changed)


def recycle_named(account_id: str, card_id: UUID) -> Any:
    """A Recycle of a card by its id."""
    return recycle(types_pb2.Card(account_id=account_id, card_id=str(card_id), platform="iqiyi"))


async def test_every_kind_of_decision_replays(new_world: MakeWorld) -> None:
    """Each decision comes out as it was recorded, from a document that has been outside of the database."""
    world = await new_world()
    await live_all_lives(world)
    cases = await cases_of(world)
    assert {case.method for case in cases} == METHODS
    for case in cases:
        outcome = replay(Case.parse(case.document()))
        assert not outcome.lacks
        assert differing(outcome) == set()


async def test_tampered_receipt_is_seen(world: World) -> None:
    """What the decision went by cannot be told otherwise: not with the seal as it was, nor with one made anew."""
    card = await world.issue()
    await world.recycled(card)
    case = await case_of(world, card.account_id, "Recycle")
    forged = case.receipt.replace('"paid_minor":2999', '"paid_minor":2998')
    assert "receipt's SHA-256" in differing(replay(msgspec.structs.replace(case, receipt=forged)))
    unsealed = forged.partition(',"sha256":"')[0] + "}"
    assert "answer.recycling.compensation.amount" in differing(replay(msgspec.structs.replace(case, receipt=unsealed)))


async def test_tampered_policy_is_seen(world: World) -> None:
    """A policy document is the one that the decision went by, or its hash tells."""
    card = await world.issue()
    await world.recycled(card)
    case = await case_of(world, card.account_id, "Recycle")
    forged = msgspec.structs.replace(case, policy=case.policy | {"fee_basis_points": 500})
    assert {"policy's SHA-256", "answer.recycling.fee_minor"} <= differing(replay(forged))


async def test_tampered_answer_is_seen(world: World) -> None:
    """An answer that the decision does not give is seen, and so is a request that was not made."""
    card, other = await world.issue(), await world.issue(paid_minor=2998)
    await world.recycled(card)
    await world.recycled(other)
    case, wrong = [await case_of(world, each.account_id, "Recycle") for each in (card, other)]
    assert "answer.recycling.fee_minor" not in differing(replay(case))
    assert "answer.recycling.card_id" in differing(replay(msgspec.structs.replace(case, answer=wrong.answer)))
    assert "outcome" in differing(replay(msgspec.structs.replace(case, input_hash=wrong.input_hash)))


async def test_older_receipts_say_what_they_lack(new_world: MakeWorld) -> None:
    """A receipt from before replays as far as it reaches, and tells which members it has not."""
    world = await new_world()
    await live_all_lives(world)
    for case in await cases_of(world):
        if case.method in ("Redeem", "Exchange"):
            continue  # which have had all of it from the first
        body: dict[str, Any] = json.loads(case.receipt)
        for member in ("sha256", "request_id", "coupons", "policy_sha256", "effects", "asked_segment"):
            body.pop(member, None)
        outcome = replay(msgspec.structs.replace(case, receipt=json.dumps(body)))
        assert "policy_sha256" in outcome.lacks
        assert differing(outcome) == set()


async def test_unreadable_receipt_is_told(world: World) -> None:
    """A receipt without what every decision reads is no case."""
    card = await world.issue()
    case = await case_of(world, card.account_id, "ActivateCard")
    with pytest.raises(CaseInvalid, match="receipt"):
        replay(msgspec.structs.replace(case, receipt="{}"))


async def program(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code and the output of `recycling replay-decision`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clients.python.cli", "replay-decision", *arguments,
        cwd=Path(__file__).resolve().parents[2], env={"COLUMNS": "200", "PYTHONPATH": ".:protos", **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_program_replays_exports_and_replays_offline(new_world: MakeWorld, tmp_path: Path) -> None:
    """By the recycling's id all that was decided about it; by --all everything; and a file without any database."""
    world = await new_world()
    card = await world.issue()
    recycling = await world.settled(card)
    url, file = {"DATABASE_URL": world.server_url}, tmp_path / "decision.json"
    code, shown = await program(recycling.recycling_id, **url)
    assert code == 0 and shown.count("as recorded") == 2 and "Compensate" in shown
    code, shown = await program("--all", **url)
    assert (code, shown.splitlines()[-1]) == (0, "4 decisions replayed; 0 came out otherwise.")
    assert await program(recycling.request_id, "--export", str(file), **url) == (0, "")
    assert (await program("--file", str(file)))[0] == 0
    file.write_text(file.read_text().replace('"fee_basis_points": 1000', '"fee_basis_points": 900'))
    code, shown = await program("--file", str(file))
    assert code == 1 and "NOT AS RECORDED" in shown and "answer.recycling.fee_minor" in shown


async def test_program_sees_what_was_changed_in_the_database(new_world: MakeWorld) -> None:
    """A receipt that was changed where it is kept ends `--all` with an error."""
    world = await new_world()
    card = await world.issue()
    await world.owner.execute(
        "UPDATE command SET receipt = replace(receipt::text, '\"duration_days\":30', '\"duration_days\":31')::json"
        " WHERE account_id = $1 AND method = 'ActivateCard'",
        card.account_id,
    )
    code, shown = await program("--all", DATABASE_URL=world.server_url)
    await world.owner.execute(
        "UPDATE command SET receipt = replace(receipt::text, '\"duration_days\":31', '\"duration_days\":30')::json"
    )
    assert code == 1 and "1 came out otherwise" in shown
    assert activate(card).method in shown


@pytest.mark.parametrize("arguments", [(), ("--all", "--file", "x"), ("not-an-id",)])
async def test_program_says_how_it_is_used(arguments: tuple[str, ...]) -> None:
    """Exactly one thing to replay must be named."""
    assert (await program(*arguments))[0] == 2
