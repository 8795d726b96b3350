"""A batch decides as the same commands one after the other would: the order of a call seems kept."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from card_recycling.v1 import recycling_service_pb2, types_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.api.messages import MessageRenderer
from server.domain.commands import Command
from server.domain.errors import Reason
from server.domain.recycling import RecycleReason
from server.engine.engine import GUESSES_MAX
from server.engine.issue import Issuer
from server.engine.queue import Outcome
from tests.conftest import FreshDatabase
from tests.integration.conftest import MakeWorld
from tests.integration.world import (
    World,
    activate,
    again,
    by_all_features,
    circumstances,
    numbered_ids,
    parsed,
    quote,
    reason,
    recycle,
    unique,
)

KINDS = ("recycle", "recycle", "recycle", "quote", "dry", "activate", "wrong trigger", "no card", "replay", "taken")
ACCOUNTS = 6


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a call, as a test draws it; `account` and what the device has are numbers of few."""

    kind: str
    account: int
    device: int | None = None
    ip: str | None = None
    model: str | None = None
    platform: str = "iqiyi"


steps = st.builds(
    Step,
    kind=st.sampled_from(KINDS),
    account=st.integers(0, ACCOUNTS - 1),
    device=st.sampled_from([None, 1, 1, 2]),
    ip=st.sampled_from([None, "203.0.113.1", "203.0.113.1", "203.0.113.2", "198.51.100.1"]),
    model=st.sampled_from([None, "m1", "m1", "m2"]),
    platform=st.sampled_from(["iqiyi", "tencent"]),
)


@pytest.fixture(scope="module")
async def twins(fresh_database: FreshDatabase) -> AsyncIterator[tuple[World, World]]:
    """Two worlds alike, in databases of their own, that judge by every feature and give the same ids."""
    worlds = []
    for _ in range(2):
        world = await World.create(await fresh_database(), new_id=numbered_ids(7))
        # Cards get ids of their own count: how many the engine draws depends on how often it decides.
        world.issuer = Issuer(world.store, MessageRenderer(), numbered_ids(8))
        world.scorer.probability = by_all_features
        worlds.append(world)
    yield worlds[0], worlds[1]
    broken = [await world.broken() for world in worlds]
    for world in worlds:
        await world.close()
    assert not any(broken)


async def play(world: World, story: Sequence[Step], name: str, *, as_one_call: bool) -> tuple[list[Outcome], Any]:
    """Does `story` in `world`; returns the outcomes, and what the database then holds."""
    commands = [command async for command in commands_of(world, story, name)]
    if as_one_call:
        outcomes = await world.engine.submit(commands)
    else:
        outcomes = [(await world.engine.submit([command]))[0] for command in commands]
    return outcomes, [await state(world, account) for account in accounts_of(name)]


def accounts_of(name: str) -> list[str]:
    """The accounts of one story."""
    return [f"{name}-{number}" for number in range(ACCOUNTS)]


async def commands_of(world: World, story: Sequence[Step], name: str) -> AsyncIterator[Command]:
    """The commands of a story, after their cards were issued. Ids follow from the story alone."""
    cards: dict[tuple[int, str], types_pb2.Card] = {}
    for number, account in enumerate(accounts_of(name)):
        for platform in ("iqiyi", "tencent"):
            cards[number, platform] = await world.issue(
                platform, account, active=False, request_id=identifier(name, "issue", number, platform)
            )
    earlier: list[Command] = []
    for position, step in enumerate(story):
        card = cards[step.account, step.platform]
        command: Command = recycle(
            card,
            request_id=identifier(name, position),
            circumstances=circumstances(
                device=f"{name} {step.device}" if step.device else None,
                ip=step.ip,
                model=f"{name} {step.model}" if step.model else None,
            ),
        )
        match step.kind:
            case "quote":
                command = quote(card, circumstances=command.circumstances)
            case "dry":
                command = again(command, dry_run=True)
            case "activate":
                command = activate(card, request_id=command.request_id, circumstances=command.circumstances)
            case "wrong trigger":
                command = again(command, reason=RecycleReason.EXPIRED)
            case "no card":
                command = again(command, card_id=identifier(name, "nowhere", position))
            case "replay" if earlier:
                command = again(earlier[position % len(earlier)], circumstances=command.circumstances)
            case "taken" if earlier:
                command = again(earlier[-1], request_id=command.request_id, circumstances=command.circumstances)
        if command.request_id is not None and not command.dry_run:
            earlier.append(command)
        yield command


def identifier(*parts: object) -> UUID:
    """A UUID that follows from `parts`."""
    return uuid.uuid5(uuid.NAMESPACE_OID, repr(parts))


async def state(world: World, account: str) -> Any:
    """What the database holds of an account, but for ids that count up with the order of the work."""
    rows = await world.rows_of(account)
    hidden = {
        "seq",
        "recycling_id",
        "live_recycling_id",
        "review_id",
        "response",
        "coupon_id",
        "request_id",
        "receipt",
        "xact",
    }
    # What was read of the risk history, and what was made of it; the effects behind it name ids.
    judged = {
        row["request_id"]: row["receipt"].partition('"features":')[2].partition(',"effects":')[0]
        for row in rows["command"]
    }
    return judged, {
        table: sorted(repr({key: value for key, value in row.items() if key not in hidden}) for row in found)
        for table, found in rows.items()
    }


def told(outcome: Outcome) -> Any:
    """An outcome without ids that count up."""
    if not isinstance(outcome, bytes):
        return outcome.reason
    try:
        response: Any = recycling_service_pb2.RecycleResponse.FromString(outcome)
        response.recycling.recycling_id = ""
    except Exception:  # an activation's answer
        return outcome
    return response


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(story=st.lists(steps, min_size=2, max_size=14))
async def test_one_call_decides_as_its_commands_in_sequence(twins: tuple[World, World], story: list[Step]) -> None:
    """Whatever a call holds, its outcomes, feature rows and records are those of the same commands one by one."""
    name = unique("story")
    one_by_one, records_one_by_one = await play(twins[0], story, name, as_one_call=False)
    together, records_together = await play(twins[1], story, name, as_one_call=True)
    assert list(map(told, together)) == list(map(told, one_by_one))
    assert records_together == records_one_by_one


async def test_farm_in_one_call_counts_itself(twins: tuple[World, World]) -> None:
    """Of a call for many accounts on one device, each item sees exactly the items before it, past the batch's size."""
    world = twins[0]
    cards = await world.issue_many(300)
    device = circumstances(device=unique("farm"), ip="192.0.2.77", model="farm phone")
    await world.engine.submit([recycle(card, circumstances=device) for card in cards])
    receipts = await world.owner.fetch(
        "SELECT (receipt #>> '{features,device_accounts_1h}')::int AS accounts,"
        " (receipt #>> '{features,prefix_recycles_1h}')::int AS recycles, account_id"
        " FROM command WHERE method = 'Recycle' AND account_id = ANY ($1)",
        [card.account_id for card in cards],
    )
    seen = {row["account_id"]: (row["accounts"], row["recycles"]) for row in receipts}
    wanted = [(min(n, 200), min(n, 200)) for n in range(300)]
    assert [seen[card.account_id] for card in cards] == wanted


async def test_refused_item_is_no_history_for_those_after_it(twins: tuple[World, World]) -> None:
    """What was refused before risk left no event, so that the next one on its device is judged without it."""
    world = twins[0]
    first, second = await world.issue_many(2)
    device = circumstances(device=unique("shared"))
    outcomes = await world.engine.submit(
        [recycle(first, circumstances=device, reason=RecycleReason.EXPIRED), recycle(second, circumstances=device)]
    )
    assert reason(outcomes[0]) is Reason.TRIGGER_NOT_ALLOWED
    parsed(outcomes[1])
    seen = await world.owner.fetchval(
        "SELECT receipt #>> '{features,device_accounts_1h}' FROM command WHERE account_id = $1 AND method = 'Recycle'",
        second.account_id,
    )
    assert seen == "0"


async def test_what_fails_for_want_of_a_score_is_no_history_for_those_after_it(new_world: MakeWorld) -> None:
    """It left no event either: caps, which judge where no score is to be had, must not count it."""
    world = await new_world()
    await world.add_platform("strict", without_score="REJECT", velocity=[])
    cap = {"counter": "device_accounts_24h", "max": 1, "action": "REFUSE"}
    await world.add_platform("capped", without_score="RULES_ONLY", velocity=[cap])
    cards = [await world.issue(platform) for platform in ("strict", "strict", "capped", "capped")]
    world.scorer.down = True
    device = circumstances(device=unique("shared"))
    outcomes = await world.engine.submit([recycle(card, circumstances=device) for card in cards])
    assert [reason(outcome) for outcome in outcomes[:2]] == [Reason.FRAUD_SCORE_UNAVAILABLE] * 2
    assert [[*parsed(outcome).decision.reason_codes] for outcome in outcomes[2:]] == [
        ["SCORE_UNAVAILABLE"],
        ["SCORE_UNAVAILABLE", "VELOCITY_DEVICE_ACCOUNTS_24H"],
    ]
    assert len(world.scorer.batches) == 2


async def seen_rejects(world: World, cards: Sequence[types_pb2.Card]) -> list[int]:
    """How many rejects on its device each card's recycle was judged with."""
    receipts = await world.owner.fetch(
        "SELECT account_id, (receipt #>> '{features,device_rejects_30d}')::int AS rejects"
        " FROM command WHERE method = 'Recycle' AND account_id = ANY ($1)",
        [card.account_id for card in cards],
    )
    found = {row["account_id"]: row["rejects"] for row in receipts}
    return [found[card.account_id] for card in cards]


async def test_farm_in_one_call_counts_its_rejects(world: World) -> None:
    """Outcomes of earlier items count, though nobody knows them when the features are computed; it takes few rounds."""
    world.scorer.probability = lambda row: 0.9 if (row["device_accounts_1h"] or 0) >= 20 else 0.05
    world.scorer.batches.clear()
    cards = await world.issue_many(300)
    device = circumstances(device=unique("farm"))
    await world.engine.submit([recycle(card, circumstances=device) for card in cards])
    assert await seen_rejects(world, cards) == [min(max(0, n - 20), 200) for n in range(300)]
    assert len(world.scorer.batches) <= 4


async def test_outcomes_that_nobody_can_guess_end(world: World) -> None:
    """Where every other item is rejected, each goes again a bounded number of times, and everyone gets an answer."""
    world.scorer.probability = lambda row: 0.9 if (row["device_accounts_1h"] or 0) % 2 else 0.05
    world.scorer.batches.clear()
    cards = await world.issue_many(100)
    device = circumstances(device=unique("farm"))
    outcomes = await world.engine.submit([recycle(card, circumstances=device) for card in cards])
    assert all(isinstance(outcome, bytes) for outcome in outcomes)
    assert max(await seen_rejects(world, cards[: GUESSES_MAX + 1])) == GUESSES_MAX // 2
    assert sum(world.scorer.batches) <= (GUESSES_MAX + 1) * len(cards)
