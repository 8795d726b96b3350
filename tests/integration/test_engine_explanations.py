"""Explanations in the engine: for suspects only, off the way of all others, and never at a decision's cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from card_recycling.v1 import types_pb2

from server.domain.snapshot import Score, ShadowScore
from server.engine.ports import ConversionQuestion, Explanation, Features
from server.engine.suspects import EXPLAINED_MAX
from tests.integration.world import (
    PATIENCE_S,
    FakeScorer,
    World,
    circumstances,
    explanation,
    parsed,
    recycle,
    unique,
)

SHADOW = ShadowScore(probability=0.7, medium_threshold=0.3, high_threshold=0.6, model_version="challenger")


@dataclass(kw_only=True)
class GatedScorer(FakeScorer):
    """Explains when it is let go; each score has a shadow."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def score(self, rows: Sequence[Features], questions: Sequence[ConversionQuestion] = ()) -> list[Score]:
        """As the other, with a shadow."""
        return [replace(score, shadows=(SHADOW,)) for score in await super().score(rows)]

    async def explain(self, rows: Sequence[Features], model_version: str) -> list[Explanation]:
        """Waits first."""
        self.asked.set()
        await self.go.wait()
        return await super().explain(rows, model_version)


async def receipt_of(world: World, account_id: str) -> dict[str, Any]:
    """The receipt of the account's recycle."""
    found = await world.owner.fetchval(
        "SELECT receipt FROM command WHERE account_id = $1 AND method = 'Recycle'", account_id
    )
    receipt: dict[str, Any] = json.loads(found)
    return receipt


async def test_suspect_is_told_why(world: World) -> None:
    """The strongest reasons follow the band in the decision, and the receipt has all that adds anything."""
    card = await world.issue()
    recycling = await world.recycled(card, circumstances=circumstances(emulator=True, vpn=True))
    assert [*recycling.decision.reason_codes] == ["RISK_HIGH", "EMULATOR", "VPN"]
    receipt = await receipt_of(world, card.account_id)
    told = explanation({"emulator": True, "vpn": True})
    assert receipt["explanation"]["raw_score"] == told.raw_score == 3.0
    assert [part["feature"] for part in receipt["explanation"]["contributions"]] == ["emulator", "vpn"]
    assert receipt["explanation"]["contributions"][1] == {
        "feature": "vpn",
        "reason_code": "VPN",
        "value": None,
        "contribution": 1.0,
        "sentence": "About vpn.",
    }
    assert receipt["score"]["reason_codes"] == ["EMULATOR", "VPN"]


async def test_what_speaks_against_abuse_is_no_reason(world: World) -> None:
    """Only positive contributions become reason codes."""
    recycling = await world.recycled(await world.issue(), circumstances=circumstances(emulator=True))
    assert [*recycling.decision.reason_codes] == ["RISK_MEDIUM", "EMULATOR"]


async def test_low_is_never_explained(world: World) -> None:
    """Who is approved costs no explanation, and has none in the receipt."""
    card = await world.issue()
    recycling = await world.recycled(card, circumstances=circumstances(emulator=False))
    assert [*recycling.decision.reason_codes] == [] and world.scorer.explained == []
    assert "explanation" not in await receipt_of(world, card.account_id)


async def test_missing_explanation_leaves_the_decision_as_it_is(world: World) -> None:
    """Reasons are left out, and nothing else."""
    world.scorer.mute = True
    card = await world.issue()
    recycling = await world.recycled(card, circumstances=circumstances(vpn=True))
    assert recycling.state == types_pb2.RECYCLING_STATE_REJECTED
    assert [*recycling.decision.reason_codes] == ["RISK_HIGH"]
    assert world.scorer.explained == [1]
    assert "explanation" not in await receipt_of(world, card.account_id)


async def test_few_of_a_batch_are_explained_and_mediums_first(world: World) -> None:
    """A batch of suspects costs the worker a bounded number of explanations."""
    cards = await world.issue_many(EXPLAINED_MAX + 5)
    signals: list[dict[str, Any]] = [{"vpn": True}] * (len(cards) - 1) + [{"emulator": True}]
    outcomes = await world.engine.submit(
        [recycle(card, circumstances=circumstances(**signal)) for card, signal in zip(cards, signals, strict=True)]
    )
    codes = [[*parsed(outcome).decision.reason_codes] for outcome in outcomes]
    assert world.scorer.explained == [EXPLAINED_MAX]
    assert codes[-1] == ["RISK_MEDIUM", "EMULATOR"]
    assert codes[:-1].count(["RISK_HIGH", "VPN"]) == EXPLAINED_MAX - 1
    assert codes[:-1].count(["RISK_HIGH"]) == 5


async def test_approvals_do_not_wait_for_explanations(world: World) -> None:
    """The suspect waits for its explanation, the others of its batch do not; receipts tell what challengers said."""
    cards = await world.issue_many(3)
    scorer = GatedScorer()
    engine = replace(world, scorer=scorer).engine
    signals: list[dict[str, Any]] = [{}, {"vpn": True}, {}]
    commands = [
        recycle(card, circumstances=circumstances(**signal)) for card, signal in zip(cards, signals, strict=True)
    ]
    calls = [asyncio.create_task(engine.submit([command])) for command in commands]
    await asyncio.wait_for(scorer.asked.wait(), PATIENCE_S)
    await asyncio.wait_for(asyncio.gather(calls[0], calls[2]), PATIENCE_S)
    assert not calls[1].done() and await world.count("recycling", cards[1].account_id) == 0
    receipt = await receipt_of(world, cards[0].account_id)
    assert receipt["score"]["shadows"] == [
        {"probability": 0.7, "medium_threshold": 0.3, "high_threshold": 0.6, "model_version": "challenger"}
    ]
    scorer.go.set()
    ((outcome,),) = await asyncio.wait_for(asyncio.gather(calls[1]), PATIENCE_S)
    assert [*parsed(outcome).decision.reason_codes] == ["RISK_HIGH", "VPN"]
    await engine.drain()


async def test_who_shares_something_with_a_suspect_is_recorded_after_it(world: World) -> None:
    """A later command whose features counted the suspect's attempt comes after it in the log; others need not."""
    cards = await world.issue_many(4)
    device = unique("shared")
    scorer = GatedScorer()
    engine = replace(world, scorer=scorer).engine
    commands = [
        recycle(cards[0], circumstances=circumstances(device=device)),
        recycle(cards[1], circumstances=circumstances(device=device, vpn=True)),
        recycle(cards[2], circumstances=circumstances(device=device)),
        recycle(cards[3], circumstances=circumstances(device=unique("other"))),
    ]
    call = asyncio.create_task(engine.submit(commands))
    await asyncio.wait_for(scorer.asked.wait(), PATIENCE_S)
    scorer.go.set()
    await asyncio.wait_for(call, PATIENCE_S)
    rows = await world.owner.fetch(
        "SELECT account_id FROM risk_event WHERE account_id = ANY ($1) AND kind = 'RECYCLE' ORDER BY seq",
        [card.account_id for card in cards],
    )
    numbers = [[card.account_id for card in cards].index(row["account_id"]) for row in rows]
    assert [number for number in numbers if number != 3] == [0, 1, 2]
    assert numbers.index(3) < numbers.index(1)
    await engine.drain()
