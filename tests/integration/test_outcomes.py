"""What became of recyclings: recorded once, with how they had been decided; and the labels that follow from it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from card_recycling.v1 import types_pb2

from server.domain.card import VoidReason
from server.domain.errors import Reason, Refusal
from server.domain.outcome import NewOutcome, Outcome, OutcomeKind
from server.domain.recycling import RecyclingState
from server.domain.review import ReviewVerdict
from server.engine.outcomes import OutcomeRecorder
from server.engine.ports import OutcomeContext
from tests.integration.world import (
    World,
    circumstances,
    compensate,
    news,
    quote,
    reactivate,
    reason,
    resolve,
    void,
    voided,
)

DAY = timedelta(days=1)
MATURE = timedelta(days=30)


async def recorded(world: World, told: NewOutcome) -> Outcome:
    """The outcome, recorded."""
    return await OutcomeRecorder(world.store).record(told)


async def recycled(world: World, platform: str = "iqiyi") -> types_pb2.Recycling:
    """A recycling of two days ago."""
    recycling = await world.recycled(await world.issue(platform))
    await world.move(2 * DAY)
    return recycling


async def label(
    world: World, recycling: types_pb2.Recycling, *, approved: bool = True, request_id: UUID | None = None
) -> tuple[int, str, timedelta] | None:
    """The label of the recycling's own request, or of the one named, with its source, and how long after the recycling
    it was known."""
    made = recycling.create_time.ToDatetime(UTC)
    query = "SELECT * FROM request_label($1, $2, $3, $4, $5, $6, service_clock())"
    named = (recycling.account_id, UUID(recycling.recycling_id), request_id or UUID(recycling.request_id))
    row = await world.owner.fetchrow(query, *named, approved, made, MATURE)
    return (row["label"], row["source"], row["label_time"] - made) if row else None


# Recording


async def test_outcome_tells_what_had_decided(world: World) -> None:
    """An outcome has the recycling's platform, policy revision, model, score and state, and when it became known."""
    recycling = await recycled(world)
    outcome = await recorded(world, news(recycling, OutcomeKind.CONVERSION))
    assert (outcome.platform, outcome.policy_revision, outcome.model_version) == ("iqiyi", 1, "fake")
    assert (outcome.risk_score, outcome.state) == (0.05, RecyclingState.APPROVED)
    assert (outcome.record_time - outcome.time, outcome.account_id) == (DAY, recycling.account_id)


async def test_outcome_without_a_score_has_none(world: World) -> None:
    """What was decided without the worker is attributed to no model."""
    world.scorer.down = True
    outcome = await recorded(world, news(await recycled(world, "tencent"), OutcomeKind.CONVERSION))
    assert (outcome.model_version, outcome.risk_score) == ("", None)


async def test_same_outcome_is_recorded_once(world: World) -> None:
    """The same recycling, kind and time again is the same answer, also later and when told twice at once."""
    recycling = await recycled(world)
    told = news(recycling, OutcomeKind.COMPLAINT)
    first, second = await asyncio.gather(recorded(world, told), recorded(world, told))
    await world.move(DAY)
    assert first == second == await recorded(world, told)
    assert await world.count("outcome", recycling.account_id) == 1


async def test_overtaken_outcome_is_the_first(world: World) -> None:
    """Who is overtaken between looking and recording gets what the other one recorded."""

    class Overtaken:
        """A store where somebody else records the same just before."""

        async def load_outcome(self, told: NewOutcome) -> OutcomeContext | None:
            """See the port."""
            return await world.store.load_outcome(told)

        async def record_outcome(self, account_id: str, told: NewOutcome) -> None:
            """See the port."""
            await world.store.record_outcome(account_id, told)
            await world.move(DAY)
            await world.store.record_outcome(account_id, told)

    recycling = await recycled(world)
    outcome = await OutcomeRecorder(Overtaken()).record(news(recycling, OutcomeKind.COMPLAINT))
    assert outcome.record_time - outcome.time == DAY
    assert await world.count("outcome", recycling.account_id) == 1


async def test_other_times_and_kinds_are_other_outcomes(world: World) -> None:
    """A second complaint is a second outcome."""
    recycling = await recycled(world)
    for told in (
        news(recycling, OutcomeKind.COMPLAINT),
        news(recycling, OutcomeKind.COMPLAINT, DAY / 2),
        news(recycling, OutcomeKind.CHARGEBACK),
    ):
        await recorded(world, told)
    assert await world.count("outcome", recycling.account_id) == 3


async def test_account_may_be_left_out(world: World) -> None:
    """Who knows the recycling's id only gets the outcome of its account."""
    recycling = await recycled(world)
    outcome = await recorded(world, news(recycling, OutcomeKind.CONVERSION, account_id=None))
    assert outcome == await recorded(world, news(recycling, OutcomeKind.CONVERSION))
    assert outcome.account_id == recycling.account_id


@pytest.mark.parametrize(
    "wrong", [{"account_id": "nobody"}, {"recycling_id": uuid4()}, {"recycling_id": uuid4(), "account_id": None}]
)
async def test_unknown_recycling_is_not_found(world: World, wrong: dict[str, Any]) -> None:
    """Another's recycling, and one that is not there, are the same to the caller."""
    with pytest.raises(Refusal) as refused:
        await recorded(world, news(await recycled(world), OutcomeKind.COMPLAINT, **wrong))
    assert refused.value.reason is Reason.RECYCLING_NOT_FOUND


@pytest.mark.parametrize("after", [-timedelta(microseconds=1), 2 * DAY + timedelta(microseconds=1)])
async def test_impossible_time_is_invalid(world: World, after: timedelta) -> None:
    """Nothing becomes of a recycling before it was made, nor tomorrow."""
    recycling = await recycled(world)
    with pytest.raises(Refusal) as refused:
        await recorded(world, news(recycling, OutcomeKind.COMPLAINT, after))
    assert (refused.value.reason, refused.value.fields[0][0]) == (Reason.FIELD_INVALID, "time")
    assert await world.count("outcome", recycling.account_id) == 0


async def test_outcome_without_a_time_is_of_now(world: World) -> None:
    """What is told without a time happened now, by the service's clock, however far that is from ours; told again, even
    by several at once, it is the same."""
    recycling = await recycled(world)
    told = news(recycling, OutcomeKind.COMPLAINT, time=None)
    outcomes = await asyncio.gather(*(recorded(world, told) for _ in range(4)))
    now = await world.store.now()
    assert {(outcome.time, outcome.record_time) for outcome in outcomes} == {(now, now)}
    await world.move(DAY)
    assert await recorded(world, told) == outcomes[0]
    assert await world.count("outcome", recycling.account_id) == 1
    earlier = await recorded(world, news(recycling, OutcomeKind.COMPLAINT))
    assert earlier != outcomes[0] and await recorded(world, told) == outcomes[0]


async def test_outcome_moves_no_value(world: World) -> None:
    """A chargeback that is only told changes neither card nor recycling nor wallet."""
    recycling = await recycled(world)
    before = await world.rows_of(recycling.account_id)
    await recorded(world, news(recycling, OutcomeKind.CHARGEBACK))
    assert await world.rows_of(recycling.account_id) == before


async def test_complaint_is_an_event_of_its_account(world: World) -> None:
    """Features count a complaint from the moment when it became known; it has no device."""
    recycling = await recycled(world)
    outcome = await recorded(world, news(recycling, OutcomeKind.COMPLAINT))
    (event,) = [row for row in (await world.rows_of(recycling.account_id))["risk_event"] if row["kind"] == "COMPLAINT"]
    assert (event["event_time"], event["card_id"], event["device_hash"]) == (
        outcome.record_time,
        recycling.card_id,
        None,
    )


async def test_abuse_becomes_known_once(world: World) -> None:
    """Features know of a recycling's abuse since it was first told, however often; a complaint alone tells none."""
    recycling = await recycled(world)
    await recorded(world, news(recycling, OutcomeKind.COMPLAINT))
    first = await recorded(world, news(recycling, OutcomeKind.CHARGEBACK))
    await world.move(DAY)
    await recorded(world, news(recycling, OutcomeKind.CONFIRMED_FRAUD))
    known = await world.owner.fetch("SELECT * FROM risk_label WHERE account_id = $1", recycling.account_id)
    assert [(row["label"], row["source"], row["label_time"]) for row in known] == [(1, "chargeback", first.record_time)]
    assert str(known[0]["recycling_id"]) == recycling.recycling_id


async def test_void_for_a_chargeback_is_an_outcome(world: World) -> None:
    """VoidCard(CHARGEBACK) tells the outcome of the card's live recycling; a refund none. Without a recycling there is
    none that it could be told of."""
    refunded, recycling = await recycled(world), await recycled(world)
    idle = await world.issue()
    for account, why in (
        (recycling, VoidReason.CHARGEBACK),
        (refunded, VoidReason.REFUNDED),
        (idle, VoidReason.CHARGEBACK),
    ):
        await world.answer(void(account, why))  # type: ignore[arg-type]
    assert await label(world, recycling) == (1, "CHARGEBACK", 2 * DAY)
    assert [await world.count("outcome", each.account_id) for each in (recycling, refunded, idle)] == [1, 0, 0]


@pytest.mark.parametrize("ended", ["no", "refunded", "given back"])
async def test_chargeback_without_a_recycling_labels_the_account(world: World, ended: str) -> None:
    """What speaks against no recycling speaks against its account: features of its later requests, and of others on its
    device, know of it, and its requests of which nothing else is known are abuse. It is told once."""
    card = await world.issue()
    recycling = await world.recycled(await world.issue(account_id=card.account_id), circumstances=circumstances(ended))
    await world.move(2 * DAY)
    if ended == "refunded":
        await world.answer(void(card, VoidReason.REFUNDED))
    if ended == "given back":
        await world.answer(reactivate(await world.recycled(card)))
    engines = [world.another_engine() for _ in range(3)]
    found = await asyncio.gather(*(engine.submit([void(card, VoidReason.CHARGEBACK)]) for engine in engines))
    assert sorted(str(reason(outcome)) for (outcome,) in found) == ["CARD_STATE_INVALID", "CARD_STATE_INVALID", "None"]
    known = await world.owner.fetch(
        "SELECT label, source, recycling_id, request_id, label_time FROM risk_label WHERE account_id = $1",
        card.account_id,
    )
    assert [tuple(row) for row in known] == [(1, "chargeback", None, None, await world.store.now())]
    assert await world.count("outcome", card.account_id) == 0
    assert await label(world, recycling) == (1, "ACCOUNT", 2 * DAY)
    await world.move(DAY)
    later = await world.recycled(await world.issue(account_id=card.account_id), circumstances=circumstances(ended))
    other = await world.recycled(await world.issue(), circumstances=circumstances(ended))
    counts = [await features_of(world, each) for each in (later, other)]
    assert [(row["account_confirmed_abuse"], row["device_confirmed_abuse"]) for row in counts] == [(1, 0), (0, 1)]


async def features_of(world: World, recycling: types_pb2.Recycling) -> dict[str, Any]:
    """What was known of the request that made `recycling`."""
    found: str = await world.owner.fetchval(
        "SELECT receipt -> 'features' FROM command WHERE account_id = $1 AND request_id = $2",
        recycling.account_id,
        UUID(recycling.request_id),
    )
    features: dict[str, Any] = json.loads(found)
    return features


@pytest.mark.parametrize("ended", ["recycled", "settled", "refunded"])
async def test_chargeback_of_an_ended_card_is_an_outcome(world: World, ended: str) -> None:
    """A card that recycling or a refund has ended may still be charged back, once; nothing pending is paid then."""
    card = await world.issue("iqiyi" if ended == "refunded" else "netflix", paid_minor=2999)
    await world.move(timedelta(days=29 if ended == "refunded" else 60))
    recycling = await (world.settled(card) if ended == "settled" else world.recycled(card))
    if ended == "refunded":
        await world.answer(void(card, VoidReason.REFUNDED))
    charged = void(card, VoidReason.CHARGEBACK)
    first = await world.answer(charged)
    assert voided(first).state == types_pb2.CARD_STATE_VOID
    assert await world.answer(charged) == first
    assert reason(await world.run(void(card, VoidReason.CHARGEBACK))) is Reason.CARD_STATE_INVALID
    rows = await world.rows_of(card.account_id)
    (told,) = await world.owner.fetch("SELECT kind FROM outcome WHERE account_id = $1", card.account_id)
    (known,) = await world.owner.fetch("SELECT label, source FROM risk_label WHERE account_id = $1", card.account_id)
    assert (told["kind"], known["label"], known["source"]) == ("CHARGEBACK", 1, "chargeback")
    assert rows["recycling"][0]["compensation_state"] == ("SETTLED" if ended == "settled" else "BLOCKED")
    owed = await world.run(compensate(recycling))
    assert reason(owed) is (Reason.ALREADY_COMPENSATED if ended == "settled" else Reason.COMPENSATION_BLOCKED)


async def test_chargeback_of_an_ended_card_is_told_once_by_many(world: World) -> None:
    """Of several at once one is told; the others learn that it was."""
    card = await world.issue("netflix")
    await world.move(timedelta(days=60))
    await world.settled(card)
    engines = [world.another_engine() for _ in range(3)]
    found = await asyncio.gather(*(engine.submit([void(card, VoidReason.CHARGEBACK)]) for engine in engines))
    assert sorted(str(reason(outcome)) for (outcome,) in found) == ["CARD_STATE_INVALID", "CARD_STATE_INVALID", "None"]
    assert await world.count("outcome", card.account_id) == 1


async def test_events_name_their_commands(world: World) -> None:
    """The event of a request names it, so that a label finds it; that of a dry run does not."""
    card = await world.issue()
    await world.answer(quote(card))
    recycling = await world.recycled(card)
    events = [row for row in (await world.rows_of(card.account_id))["risk_event"] if row["kind"] == "RECYCLE"]
    assert {row["request_id"] for row in events} == {None, UUID(recycling.request_id)}


# Labels


async def test_labels_of_each_kind(world: World) -> None:
    """A chargeback and fraud found speak against a request, a conversion and none found for it, a complaint neither."""
    found = {}
    for kind in OutcomeKind:
        recycling = await recycled(world)
        await recorded(world, news(recycling, kind))
        found[kind] = await label(world, recycling)
    assert found == {
        OutcomeKind.COMPLAINT: None,
        OutcomeKind.CONVERSION: (0, "CONVERSION", 2 * DAY),
        OutcomeKind.CHARGEBACK: (1, "CHARGEBACK", 2 * DAY),
        OutcomeKind.CONFIRMED_FRAUD: (1, "CONFIRMED_FRAUD", 2 * DAY),
        OutcomeKind.CONFIRMED_GENUINE: (0, "CONFIRMED_GENUINE", 2 * DAY),
    }


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("CHARGEBACK", "CONVERSION"), (1, "CHARGEBACK")),
        (("CONFIRMED_GENUINE", "CHARGEBACK"), (0, "CONFIRMED_GENUINE")),
        (("CONFIRMED_GENUINE", "CONFIRMED_FRAUD"), (1, "CONFIRMED_FRAUD")),
        (("CONFIRMED_FRAUD", "CONFIRMED_GENUINE"), (0, "CONFIRMED_GENUINE")),
    ],
)
async def test_newest_of_the_strongest_wins(world: World, kinds: tuple[str, str], expected: tuple[int, str]) -> None:
    """A finding outweighs a chargeback, a chargeback a conversion; of two findings the later one holds."""
    recycling = await recycled(world)
    for kind in kinds:
        await recorded(world, news(recycling, OutcomeKind(kind)))
        await world.move(DAY)
    assert (await label(world, recycling) or ())[:2] == expected


async def test_verdict_is_weaker_than_an_outcome(world: World) -> None:
    """A reviewer's verdict labels a request of either kind, until an outcome tells better."""
    recycling = await recycled(world)
    for verdict in (1, 0):
        await world.owner.execute(
            "INSERT INTO risk_label (account_id, recycling_id, label, source, label_time)"
            " VALUES ($1, $2, $3, 'review', service_clock())",
            recycling.account_id,
            UUID(recycling.recycling_id),
            verdict,
        )
        assert (await label(world, recycling) or ())[:2] == (verdict, "REVIEW")
        await world.move(DAY)
    await recorded(world, news(recycling, OutcomeKind.CHARGEBACK))
    assert (await label(world, recycling) or ())[:2] == (1, "CHARGEBACK")


async def test_verdict_is_about_the_request_that_was_reviewed(world: World) -> None:
    """Who is not given a card back for abuse is not an abuser for having handed it in, and the other way round."""
    recycling = await recycled(world)
    review = await world.held_again(recycling)
    await world.answer(resolve(review, ReviewVerdict.DENY))
    assert await label(world, recycling) is None
    assert (await label(world, recycling, request_id=review.request_id) or ())[:2] == (1, "REVIEW")


async def test_silence_speaks_for_the_approved(world: World) -> None:
    """An approved request of which nothing was said within the window is honest; a refused one is not known to be."""
    recycling = await recycled(world)
    young = await label(world, recycling)
    await world.move(MATURE)
    assert (young, await label(world, recycling)) == (None, (0, "SILENCE", MATURE))
    assert await label(world, recycling, approved=False) is None


async def test_complaint_breaks_the_silence(world: World) -> None:
    """Whoever was complained of is not taken for honest because time has passed."""
    recycling = await recycled(world)
    await recorded(world, news(recycling, OutcomeKind.COMPLAINT))
    await world.move(MATURE)
    assert await label(world, recycling) is None


async def test_outcome_knows_the_state_of_its_time(world: World) -> None:
    """What is told after the card went back says that the recycling was REVERSED by then."""
    recycling = await recycled(world)
    await world.answer(reactivate(recycling))
    outcome = await recorded(world, news(recycling, OutcomeKind.CONFIRMED_GENUINE))
    assert outcome.state is RecyclingState.REVERSED
