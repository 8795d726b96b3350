"""Reviews over a real database: holds, verdicts, what time does, who may claim what, and the races between them all."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from card_recycling.v1 import review_service_pb2, types_pb2

from server.api.messages import card_message
from server.domain.card import VoidReason
from server.domain.commands import OWN_REQUEST_VERSION, Command, Lapse
from server.domain.errors import Reason
from server.domain.outcome import OutcomeKind
from server.domain.recycling import CompensationState, Recycling, RecyclingState, Unit
from server.domain.review import CLAIM_LEASE, Review, ReviewKind, ReviewState, ReviewVerdict
from server.engine.outcomes import OutcomeRecorder
from server.engine.ports import DueKind
from tests.integration.conftest import MakeWorld
from tests.integration.test_engine import BeforeRecord
from tests.integration.test_engine_races import NEWEST, race, stores, tally
from tests.integration.world import (
    World,
    activate,
    again,
    circumstances,
    compensate,
    news,
    parsed,
    quote,
    reactivate,
    reason,
    recycle,
    resolve,
    unique,
    void,
)

HOLD = timedelta(days=7)
MICROSECOND = timedelta(microseconds=1)
DENY = ReviewVerdict.DENY
REVOKED = VoidReason.REVOKED
OLDEST = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


async def recycling_of(world: World, review: Review) -> Recycling:
    """The review's recycling as it stands."""
    recycling = await world.store.recycling(review.account_id, review.recycling_id)
    assert recycling is not None
    return recycling


async def card_of(world: World, review: Review) -> types_pb2.Card:
    """The review's card as callers see it now."""
    found = await world.store.card(review.account_id, review.card_id)
    assert found is not None
    return card_message(*found)


async def now_of(world: World, review: Review) -> Review:
    """The review as it stands."""
    found = await world.reviews.review(review.review_id)
    assert found is not None
    return found


# Holds


async def test_held_recycle_is_recorded_with_its_terms(world: World) -> None:
    """The answer is IN_REVIEW with the terms, the card's event tells the hold, and the attempt is counted as such."""
    card = await world.issue()
    review = await world.held(card)
    recycling = await recycling_of(world, review)
    assert (recycling.state, recycling.fee_minor) == (RecyclingState.IN_REVIEW, 300)
    assert recycling.compensation is not None and recycling.compensation.amount == 2699
    shown = await card_of(world, review)
    assert shown.state == types_pb2.CARD_STATE_ACTIVE and shown.HasField("hold_until")
    rows = await world.rows_of(card.account_id)
    assert sorted(row["kind"] for row in rows["card_event"]) == ["ACTIVATED", "HELD", "ISSUED"]
    assert [row["outcome"] for row in rows["risk_event"] if row["kind"] == "RECYCLE"] == ["IN_REVIEW"]


async def test_dry_run_holds_nothing(world: World) -> None:
    """A quote and a validation of what would be held say so, and hold nothing."""
    card = await world.issue()
    emulated = circumstances(emulator=True)
    answer = parsed(await world.run(recycle(card, dry_run=True, circumstances=emulated)))
    await world.answer(quote(card, circumstances=emulated))
    assert answer.state == types_pb2.RECYCLING_STATE_IN_REVIEW
    assert await world.count("review", card.account_id) == 0
    assert parsed(await world.run(recycle(card))).state == types_pb2.RECYCLING_STATE_APPROVED


async def test_answer_of_a_held_recycle_stays(world: World) -> None:
    """After the verdict the same request still gets the same bytes; GetRecycling tells today's state."""
    card = await world.issue()
    command = recycle(card, circumstances=circumstances(emulator=True))
    answer = await world.answer(command)
    review = await world.review_of(parsed(answer))
    await world.answer(resolve(review))
    assert await world.run(command) == answer
    assert (await recycling_of(world, review)).state is RecyclingState.APPROVED


# Verdicts


async def test_approved_recycle_pays_and_comes_back(world: World) -> None:
    """A verdict days later applies the terms of the recycle; then payment and reactivation work as ever."""
    card = await world.issue()
    review = await world.held(card)
    before = await recycling_of(world, review)
    await world.move(timedelta(days=3))
    response = review_service_pb2.ResolveReviewResponse.FromString(await world.answer(resolve(review, note="known")))
    assert response.review.state == review_service_pb2.REVIEW_STATE_APPROVED
    assert (response.review.reviewer, response.review.note) == ("anna", "known")
    assert response.card.state == types_pb2.CARD_STATE_RECYCLED and not response.card.HasField("hold_until")
    after = await recycling_of(world, review)
    assert (after.compensation, after.fee_minor, after.settle_after_time) == (
        before.compensation,
        before.fee_minor,
        before.settle_after_time,
    )
    await world.answer(compensate(response.recycling))
    await world.answer(reactivate(response.recycling))
    restored = await card_of(world, review)
    assert restored.state == types_pb2.CARD_STATE_ACTIVE
    assert (await world.store.wallet(card.account_id)).balances == ()


async def test_denied_recycle_frees_the_card(world: World) -> None:
    """The card has the validity that it had, and may be recycled again, for as much."""
    card = await world.issue()
    review = await world.held(card)
    expire = (await card_of(world, review)).expire_time.ToDatetime()
    await world.move(timedelta(days=2))
    await world.answer(resolve(review, DENY))
    freed = await card_of(world, review)
    assert freed.expire_time.ToDatetime() == expire + timedelta(days=2)
    denied = await recycling_of(world, review)
    assert denied.decision.reason_codes == ("RISK_MEDIUM", "EMULATOR", "REVIEW_DENIED")
    assert (await world.recycled(card)).compensation.amount == 2699


async def test_verdict_replays(world: World) -> None:
    """The same verdict again gives the same bytes; under the same id another is told of the reuse."""
    review = await world.held(await world.issue())
    command = resolve(review)
    answer = await world.answer(command)
    assert await world.run(command) == answer
    assert reason(await world.run(again(command, verdict=DENY))) is Reason.IDEMPOTENCY_KEY_REUSED
    assert reason(await world.run(resolve(review))) is Reason.REVIEW_STATE_INVALID


async def test_approved_reactivation_takes_back_what_was_paid(world: World) -> None:
    """The card comes back with what was unused from the verdict on, and the coins are taken back in that moment."""
    card = await world.issue()
    settled = await world.settled(card)
    review = await world.held_again(settled)
    assert reason(await world.run(reactivate(settled))) is Reason.CARD_STATE_INVALID
    moment = await world.move(timedelta(days=1))
    await world.answer(resolve(review))
    back = await card_of(world, review)
    assert back.generation == 2 and back.expire_time.ToDatetime(tzinfo=moment.tzinfo) == moment + timedelta(days=30)
    assert (await world.store.wallet(card.account_id)).balances == ()
    assert await world.count("posting", card.account_id) == 4


async def test_nothing_is_settled_while_its_card_is_held(world: World) -> None:
    """What a verdict might take back is not paid before it; after a denial it is due again."""
    recycling = await world.recycled(await world.issue())
    review = await world.held_again(recycling)
    assert reason(await world.run(compensate(recycling))) is Reason.SETTLEMENT_NOT_DUE
    await world.answer(resolve(review, DENY))
    await world.answer(compensate(recycling))


async def test_spent_coins_leave_the_review_open(world: World) -> None:
    """An approval whose conditions no longer hold fails with their reason and no effect; a denial still works."""
    card = await world.issue()
    review = await world.held_again(await world.settled(card))
    async with spent(world, card.account_id):
        before = await world.rows_of(card.account_id)
        assert reason(await world.run(resolve(review))) is Reason.COMPENSATION_SPENT
        assert await world.rows_of(card.account_id) == before
    await world.answer(resolve(review, DENY))
    assert (await now_of(world, review)).state is ReviewState.DENIED


class spent:
    """While it lasts an account's wallet is empty, as if there were something to buy."""

    def __init__(self, world: World, account_id: str) -> None:
        self._world, self._account_id = world, account_id

    async def __aenter__(self) -> None:
        await self._set("0")

    async def __aexit__(self, *_: object) -> None:
        await self._set("2699")

    async def _set(self, amount: str) -> None:
        await self._world.owner.execute(
            "UPDATE wallet_balance SET amount = $2::bigint WHERE account_id = $1", self._account_id, int(amount)
        )


async def test_settlement_waits_for_its_verdict(world: World) -> None:
    """An anomaly of high risk is taken at once; it is paid after an approval, and never after a denial."""
    for verdict, paid in ((ReviewVerdict.APPROVE, None), (DENY, Reason.COMPENSATION_BLOCKED)):
        card = await world.issue("tencent")
        recycling = await world.recycled(card, circumstances=circumstances(vpn=True))
        assert recycling.state == types_pb2.RECYCLING_STATE_APPROVED
        review = await world.review_of(recycling)
        assert (review.kind, review.hold_until) == (ReviewKind.SETTLEMENT, None)
        assert reason(await world.run(compensate(recycling))) is Reason.SETTLEMENT_NOT_DUE
        await world.move(timedelta(days=30))
        await world.answer(resolve(review, verdict))
        assert reason(await world.run(compensate(recycling))) is paid


# What is learnt of verdicts


async def labels_of(world: World, review: Review) -> list[tuple[int, str, UUID | None]]:
    """What is known of the review's account: label, source, and whose label it is."""
    found = await world.owner.fetch("SELECT * FROM risk_label WHERE account_id = $1 ORDER BY seq", review.account_id)
    assert all(row["recycling_id"] == review.recycling_id for row in found)
    return [(row["label"], row["source"], row["request_id"]) for row in found]


@pytest.mark.parametrize(("verdict", "label"), [(ReviewVerdict.APPROVE, 0), (DENY, 1)])
async def test_verdict_labels_the_request(world: World, verdict: ReviewVerdict, label: int) -> None:
    """Of each kind of review the verdict labels the request that opened it, once, from the moment it was recorded."""
    settlement = await world.recycled(await world.issue("tencent"), circumstances=circumstances(vpn=True))
    back = await world.recycled(await world.issue())
    reviews = [
        await world.held(await world.issue()),
        await world.review_of(settlement),
        await world.held_again(back),
    ]
    assert [review.kind for review in reviews] == [ReviewKind.RECYCLE, ReviewKind.SETTLEMENT, ReviewKind.REACTIVATE]
    for review in reviews:
        command = resolve(review, verdict)
        await asyncio.gather(world.answer(command), world.answer(command))
        assert await labels_of(world, review) == [(label, "review", review.request_id)]


async def test_what_ends_without_a_verdict_labels_nothing(world: World) -> None:
    """A hold that lapses, a card voided under review, and a claim say nothing of the request."""
    lapsed, voided, held = [await world.held(await world.issue()) for _ in range(3)]
    await world.reviews.claim(held.review_id, "anna", None)
    await world.answer(void(types_pb2.Card(account_id=voided.account_id, card_id=str(voided.card_id)), REVOKED))
    await world.move(HOLD)
    await world.sweep()
    assert (await now_of(world, lapsed)).state is ReviewState.EXPIRED
    assert [await labels_of(world, review) for review in (lapsed, voided, held)] == [[], [], []]


async def test_denial_marks_the_device(world: World) -> None:
    """Of whom a reviewer denies, other accounts on the device are told from then on."""
    shared = circumstances(device=unique("device"), emulator=True)
    review = await world.held(await world.issue(), circumstances=shared)
    card = await world.issue()

    async def abusers() -> int:
        (found,) = await world.store.load([recycle(card, circumstances=shared)])
        return int(found.features["device_confirmed_abuse"] or 0)

    before = await abusers()
    await world.answer(resolve(review, DENY))
    await world.move(MICROSECOND)
    assert (before, await abusers()) == (0, 1)


async def test_abuse_that_is_known_becomes_known_once(world: World) -> None:
    """A denial after a chargeback of the same request adds nothing; one of undoing it is about another request."""
    recycling = await world.recycled(await world.issue("tencent"), circumstances=circumstances(vpn=True))
    review = await world.review_of(recycling)
    await OutcomeRecorder(world.store).record(news(recycling, OutcomeKind.CHARGEBACK, timedelta(0)))
    await world.answer(resolve(review, DENY))
    assert await labels_of(world, review) == [(1, "chargeback", None)]
    await world.move(MICROSECOND)
    again_held = await world.held_again(recycling)
    await world.answer(resolve(again_held, DENY))
    assert await labels_of(world, review) == [(1, "chargeback", None), (1, "review", again_held.request_id)]


@pytest.mark.parametrize("again_held", [False, True])
async def test_chargeback_of_a_held_card_is_an_outcome(world: World, again_held: bool) -> None:
    """Voiding a card for a chargeback tells the outcome of the recycling that it is held for, or that is to be undone,
    and abuse of it is known from then on."""
    card = await world.issue()
    review = await world.held_again(await world.recycled(card)) if again_held else await world.held(card)
    await world.answer(void(card, VoidReason.CHARGEBACK))
    rows = await world.owner.fetch("SELECT * FROM outcome WHERE account_id = $1", card.account_id)
    assert [(row["recycling_id"], row["kind"]) for row in rows] == [(review.recycling_id, "CHARGEBACK")]
    assert await labels_of(world, review) == [(1, "chargeback", None)]
    recycling = await recycling_of(world, review)
    if not again_held:
        assert recycling.decision.reason_codes[-1] == "CARD_VOIDED"


# What time does


@pytest.mark.parametrize("early", [MICROSECOND, timedelta(0)])
async def test_readers_see_the_end_of_a_hold(new_world: MakeWorld, early: timedelta) -> None:
    """From hold_until on, and not a microsecond before, every reader sees the hold ended, recorded or not."""
    world = await new_world()
    review = await world.held(await world.issue())
    await world.move(HOLD - early)
    lapsed = not early
    shown, recycling = await card_of(world, review), await recycling_of(world, review)
    listed = await world.store.recyclings(review.account_id, (review.create_time + HOLD * 2, UUID(int=0)), 5)
    assert listed == [recycling]
    assert (recycling.state is RecyclingState.REJECTED) is lapsed
    assert ("REVIEW_EXPIRED" in recycling.decision.reason_codes) is lapsed
    assert shown.HasField("hold_until") is not lapsed
    assert (await now_of(world, review)).state is (ReviewState.EXPIRED if lapsed else ReviewState.OPEN)
    assert await world.count("command", review.account_id) == 3


DEEDS: dict[str, tuple[Any, Reason | None]] = {
    "recycle": (lambda card, review: recycle(card), None),
    "quote": (lambda card, review: quote(card), None),
    "void": (lambda card, review: void(card, VoidReason.REVOKED), None),
    "activate": (lambda card, review: activate(card), Reason.CARD_STATE_INVALID),
    "verdict": (lambda card, review: resolve(review), Reason.REVIEW_STATE_INVALID),
    "compensate": (
        lambda card, review: compensate(named(review)),
        Reason.RECYCLING_STATE_INVALID,
    ),
    "reactivate": (
        lambda card, review: reactivate(named(review)),
        Reason.RECYCLING_STATE_INVALID,
    ),
}


def named(review: Review) -> types_pb2.Recycling:
    """A recycling's names."""
    return types_pb2.Recycling(account_id=review.account_id, recycling_id=str(review.recycling_id))


@pytest.mark.parametrize("deed", DEEDS)
async def test_lapse_is_recorded_first(world: World, deed: str) -> None:
    """Whatever meets a lapsed hold finds it recorded as of its end, with a command and an event of its own."""
    card = await world.issue()
    review = await world.held(card)
    await world.move(HOLD + timedelta(days=1))
    unrecorded = (await card_of(world, review), await recycling_of(world, review))
    make: Callable[[types_pb2.Card, Review], Command] = DEEDS[deed][0]
    assert reason(await world.run(make(card, review))) is DEEDS[deed][1]
    if deed not in ("recycle", "void"):
        assert (await card_of(world, review), await recycling_of(world, review)) == unrecorded
    rows = await world.rows_of(card.account_id)
    (released,) = (row for row in rows["card_event"] if row["kind"] == "RELEASED")
    (lapse,) = (row for row in rows["command"] if row["method"] == "LapseHold")
    assert released["event_time"] == lapse["create_time"] == review.hold_until
    assert lapse["request_id"] == Lapse.of(review).request_id


async def test_who_takes_the_id_of_a_lapse_meets_it(world: World) -> None:
    """Another command of the lapse's own id is not taken for the lapse, which is recorded all the same."""
    card = await world.issue()
    review = await world.held(card)
    await world.move(HOLD)
    taker = void(card, VoidReason.REVOKED, request_id=Lapse.of(review).request_id)
    assert reason(await world.run(taker)) is Reason.IDEMPOTENCY_KEY_REUSED
    assert (await now_of(world, review)).state is ReviewState.EXPIRED
    await world.answer(void(card, VoidReason.REVOKED))


async def test_lapse_of_one_card_leaves_another_recycling_alone(world: World) -> None:
    """A command that names an earlier recycling of the card ends the hold of the later one, and of no other."""
    card = await world.issue()
    first = await world.recycled(card)
    await world.answer(reactivate(first))
    review = await world.held(card)
    await world.move(HOLD)
    assert reason(await world.run(compensate(first))) is Reason.RECYCLING_STATE_INVALID
    undone = await world.store.recycling(card.account_id, UUID(first.recycling_id))
    assert undone is not None and undone.state is RecyclingState.REVERSED
    assert (await recycling_of(world, review)).state is RecyclingState.REJECTED


async def test_lapsed_reactivation_leaves_the_card_waiting(world: World) -> None:
    """The window moves by the whole hold, to the microsecond."""
    card = await world.issue()
    recycling = await world.recycled(card)
    review = await world.held_again(recycling)
    await world.move(HOLD)
    shown = await card_of(world, review)
    assert shown.state == types_pb2.CARD_STATE_RECYCLED and not shown.HasField("hold_until")
    await world.move(timedelta(days=180) - MICROSECOND)
    await world.answer(reactivate(recycling))


async def test_lapses_of_many_are_met_in_one_batch(world: World) -> None:
    """Commands on lapsed and on free cards in one call are all decided, each on its own card as it really is."""
    cards = [await world.issue() for _ in range(6)]
    for card in cards[::2]:
        await world.held(card)
    await world.move(HOLD)
    outcomes = await world.engine.submit([recycle(card) for card in cards])
    assert tally(outcomes) == {None: 6}
    assert {parsed(outcome).state for outcome in outcomes} == {types_pb2.RECYCLING_STATE_APPROVED}


async def test_sweeper_records_what_is_due(new_world: MakeWorld) -> None:
    """Holds that have lapsed are recorded without anybody's command, once, and those that have not are left alone."""
    world = await new_world()
    due = [await world.held(await world.issue()) for _ in range(3)]
    await world.move(timedelta(hours=1))
    later = await world.held(await world.issue())
    await world.move(HOLD - timedelta(hours=1))
    assert await world.sweep() == {DueKind.HOLD: 3}
    assert await world.sweep() == {}
    states = await world.owner.fetch("SELECT review_id, state FROM review")
    assert {row["review_id"]: row["state"] for row in states} == {
        **{review.review_id: "EXPIRED" for review in due},
        later.review_id: "OPEN",
    }


async def test_many_sweepers_share_the_work(new_world: MakeWorld) -> None:
    """Servers that look at once take different holds; what one leaves undone comes up again after a minute."""
    world = await new_world()
    for _ in range(6):
        await world.held(await world.issue())
    await world.move(HOLD)
    taken = await asyncio.gather(*(world.due.due(DueKind.HOLD, 3) for _ in range(4)))
    ids = [command.review_id for each in taken for command in each]
    assert len(ids) == len(set(ids)) == 6
    assert await world.due.due(DueKind.HOLD, 10) == []
    await world.move(timedelta(minutes=1))
    async with stores(world, 2) as each_store:
        engines = [world.another_engine(store) for store in each_store]
        found = await asyncio.gather(*(world.sweep(engine) for engine in engines))
        assert sum(each.get(DueKind.HOLD, 0) for each in found) == 6
    assert await world.owner.fetchval("SELECT count(*) FROM review WHERE state = 'EXPIRED'") == 6


# Claims


async def test_most_pressing_comes_first_and_once(new_world: MakeWorld) -> None:
    """Reviewers who ask for work at once get different reviews, the oldest first; then there is none."""
    world = await new_world()
    held = []
    for _ in range(4):
        held.append(await world.held(await world.issue()))
        await world.move(timedelta(seconds=1))
    claims = await asyncio.gather(*(world.reviews.claim(None, f"reviewer-{n}", None) for n in range(3)))
    taken = {claim.review_id for claim in claims if claim is not None}
    assert len(taken) == 3
    last = await world.reviews.claim(None, "reviewer-3", None)
    assert last is not None and taken | {last.review_id} == {review.review_id for review in held}
    assert await world.reviews.claim(None, "reviewer-4", None) is None


async def test_held_cards_come_before_settlements(new_world: MakeWorld) -> None:
    """However old a settlement is, it can wait, and a hold ends."""
    world = await new_world()
    owed = await world.recycled(await world.issue("tencent"), circumstances=circumstances(emulator=True))
    await world.move(timedelta(seconds=1))
    held = await world.held(await world.issue())
    claims = [await world.reviews.claim(None, "anna", None) for _ in range(2)]
    assert [claim and str(claim.recycling_id) for claim in claims] == [str(held.recycling_id), owed.recycling_id]


async def test_claim_is_a_lease(world: World) -> None:
    """A claim keeps others out for 15 minutes, may be renewed by its holder, and is over at its end exactly."""
    review = await world.held(await world.issue())
    claimed = await world.reviews.claim(review.review_id, "anna", None)
    assert claimed is not None and claimed.state is ReviewState.CLAIMED
    assert await world.reviews.claim(review.review_id, "ben", None) is None
    assert reason(await world.run(resolve(review, reviewer="ben"))) is Reason.REVIEW_CLAIMED
    await world.move(CLAIM_LEASE - MICROSECOND)
    renewed = await world.reviews.claim(review.review_id, "anna", None)
    assert renewed is not None
    await world.move(CLAIM_LEASE - MICROSECOND)
    assert await world.reviews.claim(review.review_id, "ben", None) is None
    await world.move(MICROSECOND)
    assert (await now_of(world, review)).state is ReviewState.OPEN
    other = await world.reviews.claim(review.review_id, "ben", None)
    assert other is not None and other.claimed_by == "ben"
    assert reason(await world.run(resolve(review, etag=renewed.etag, reviewer="ben"))) is Reason.ETAG_MISMATCH
    await world.answer(resolve(review, etag=other.etag, reviewer="ben"))


async def test_claim_during_a_verdict_wins(world: World) -> None:
    """A claim between another reviewer's decision and its recording makes that verdict start anew, and fail."""
    review = await world.held(await world.issue())

    async def claim() -> None:
        assert await world.reviews.claim(review.review_id, "ben", None)

    engine = world.another_engine(BeforeRecord(world, claim))
    (outcome,) = await engine.submit([resolve(review)])
    assert reason(outcome) is Reason.REVIEW_CLAIMED


async def test_lists_by_state_and_platform(new_world: MakeWorld) -> None:
    """Reviews are listed oldest first, by their state as of now and by platform, in pages that leave none out."""
    world = await new_world()
    held = []
    for platform in ("iqiyi", "iqiyi", "tencent"):
        card = await world.issue(platform)
        risky = circumstances(vpn=True) if platform == "tencent" else circumstances(emulator=True)
        held.append(await world.review_of(await world.recycled(card, circumstances=risky)))
        await world.move(timedelta(seconds=1))
    first, second, settlement = held
    await world.reviews.claim(first.review_id, "anna", None)
    await world.answer(resolve(second, DENY))

    async def listed(state: ReviewState | None, platform: str | None = None) -> list[UUID]:
        return [review.review_id for review in await world.reviews.reviews(state, platform, OLDEST, 10)]

    assert await listed(None) == [review.review_id for review in held]
    assert await listed(ReviewState.CLAIMED) == [first.review_id]
    assert await listed(ReviewState.OPEN) == [settlement.review_id]
    assert await listed(ReviewState.DENIED) == [second.review_id]
    assert await listed(None, "tencent") == [settlement.review_id]
    page = await world.reviews.reviews(None, None, OLDEST, 2)
    rest = await world.reviews.reviews(None, None, (page[-1].create_time, page[-1].review_id), 2)
    assert [review.review_id for review in (*page, *rest)] == [review.review_id for review in held]
    await world.move(HOLD)
    assert await listed(ReviewState.EXPIRED) == [first.review_id]


async def test_evidence_shows_what_a_person_needs(new_world: MakeWorld) -> None:
    """Without the scorer's explanation features are told in words; other accounts on the same device and address are
    shown, and the account's own history, capped."""
    world = await new_world()
    world.scorer.mute = True
    shared: dict[str, Any] = {"device": "a shared one", "ip": "203.0.113.7"}
    other = await world.recycled(await world.issue(), circumstances=circumstances(**shared))
    card = await world.issue()
    for _ in range(25):
        await world.answer(quote(card, circumstances=circumstances(**shared)))
    review = await world.held(card, circumstances=circumstances(emulator=True, **shared))
    evidence = await world.reviews.evidence(review)
    told = {signal.feature: signal.sentence for signal in evidence.signals}
    assert told["device_accounts_24h"] == "Other accounts first seen on this device in the last 24 hours: 1."
    assert told["emulator"] == "The device is an emulator: yes."
    (similar,) = evidence.similar
    assert [str(trait) for trait in similar.shared] == ["ADDRESS", "DEVICE"]
    assert str(similar.recycling.recycling_id) == other.recycling_id
    assert [str(each.card_id) for each in evidence.cards] == [card.card_id]
    assert [each.state for each in evidence.recyclings] == [RecyclingState.IN_REVIEW]
    assert len(evidence.requests) == 20 and evidence.requests[0].outcome == "IN_REVIEW"
    assert evidence.requests[0].same_device and evidence.reviews == ()


async def test_evidence_uses_the_scorers_words(new_world: MakeWorld) -> None:
    """Where the scorer explained the score, that is what a person reads, with how much each part moved it."""
    world = await new_world()
    review = await world.held(await world.issue())
    assert [
        (told.feature, told.sentence, told.reason_code, told.contribution)
        for told in (await world.reviews.evidence(review)).signals
    ] == [("emulator", "About emulator.", "EMULATOR", 2.0), ("vpn", "About vpn.", "VPN", -0.5)]


# Races


async def outcome_of(world: World, review: Review) -> tuple[Any, ...]:
    """State of review, recycling and card, as recorded."""
    row = await world.owner.fetchrow(
        """SELECT v.state AS review, r.state AS recycling, c.state AS card, c.held_since
           FROM review AS v JOIN recycling AS r USING (account_id, recycling_id)
           JOIN card AS c ON (c.account_id, c.card_id) = (v.account_id, v.card_id) WHERE v.review_id = $1""",
        review.review_id,
    )
    assert row is not None
    return tuple(row.values())


@pytest.mark.parametrize("round_", range(3))
async def test_two_reviewers_at_once(world: World, round_: int) -> None:
    """Of two opposite verdicts decided on the same state one counts, and the other finds the review ended."""
    review = await world.held(await world.issue())
    outcomes = await race(world, [resolve(review), resolve(review, DENY, reviewer="ben")])
    assert tally(outcomes) == {None: 1, Reason.REVIEW_STATE_INVALID: 1}
    expected = ("APPROVED", "APPROVED", "RECYCLED", None) if reason(outcomes[0]) is None else (
        "DENIED", "REJECTED", "ACTIVE", None,
    )  # fmt: skip
    assert await outcome_of(world, review) == expected


async def test_same_verdict_twice_at_once(world: World) -> None:
    """One request sent to two servers is one verdict, with the same bytes for both."""
    review = await world.held(await world.issue())
    command = resolve(review)
    first, second = await race(world, [command, command])
    assert isinstance(first, bytes) and first == second


@pytest.mark.parametrize("why", list(VoidReason))
async def test_verdict_against_void(world: World, why: VoidReason) -> None:
    """Either the card was taken before it was voided, or the void closed the review: never both paid and paid back."""
    card = await world.issue()
    review = await world.held(card)
    verdict, _ = await race(world, [resolve(review), void(card, why)])
    state = await outcome_of(world, review)
    assert state[2:] == ("VOID", None)
    assert state[:2] == (("APPROVED", "APPROVED") if reason(verdict) is None else ("CLOSED", "REJECTED"))
    paid = await world.run(compensate(named(review)))
    if reason(verdict) is not None:
        assert reason(paid) is Reason.RECYCLING_STATE_INVALID
    elif why is not VoidReason.REVOKED:
        assert reason(paid) is Reason.COMPENSATION_BLOCKED


async def test_verdict_decided_before_the_end_is_not_recorded_after_it(world: World) -> None:
    """A verdict decided in the last microsecond and recorded at hold_until is none: the hold has lapsed."""
    review = await world.held(await world.issue())
    await world.move(HOLD - MICROSECOND)
    engine = world.another_engine(BeforeRecord(world, lambda: world.move(MICROSECOND)))
    (outcome,) = await engine.submit([resolve(review)])
    assert reason(outcome) is Reason.REVIEW_STATE_INVALID
    assert await outcome_of(world, review) == ("EXPIRED", "REJECTED", "ACTIVE", None)


async def test_void_decided_before_the_end_is_decided_anew_after_it(world: World) -> None:
    """A void that meets the end of the hold on its way records the lapse, and then voids the free card."""
    card = await world.issue()
    review = await world.held(card)
    await world.move(HOLD - MICROSECOND)
    engine = world.another_engine(BeforeRecord(world, lambda: world.move(MICROSECOND)))
    (outcome,) = await engine.submit([void(card, VoidReason.CHARGEBACK)])
    assert reason(outcome) is None
    assert await outcome_of(world, review) == ("EXPIRED", "REJECTED", "VOID", None)


async def test_everybody_meets_a_lapse_at_once(world: World) -> None:
    """Recycles, a verdict and the lapse itself on several servers: the lapse is recorded once, then one wins."""
    card = await world.issue()
    review = await world.held(card)
    await world.move(HOLD)
    commands: list[Command] = [recycle(card), recycle(card), resolve(review), Lapse.of(review)]
    outcomes = await race(world, commands)
    again_and_again = [
        await world.run(command) if reason(outcome) is Reason.CONFLICT_RETRY else outcome
        for command, outcome in zip(commands, outcomes, strict=True)
    ]
    assert tally(again_and_again[:2]) == {None: 1, Reason.CARD_ALREADY_RECYCLED: 1}
    assert reason(again_and_again[2]) is Reason.REVIEW_STATE_INVALID
    assert reason(again_and_again[3]) is None
    assert (await now_of(world, review)).state is ReviewState.EXPIRED
    assert await world.count("posting", card.account_id) == 0


async def test_settlement_verdict_against_reactivation(world: World) -> None:
    """A payment approved while the card is given back is not paid: the compensation lapses with the recycling."""
    card = await world.issue("tencent")
    recycling = await world.recycled(card, circumstances=circumstances(vpn=True))
    review = await world.review_of(recycling)
    await race(world, [resolve(review), reactivate(recycling)])
    assert reason(await world.run(compensate(recycling))) is Reason.RECYCLING_STATE_INVALID
    after = await recycling_of(world, review)
    assert after.compensation is not None and after.compensation.state is CompensationState.CANCELLED


async def test_reactivation_verdict_against_settlement(world: World) -> None:
    """A payment at the same moment as the approved reactivation is refused, whichever comes first."""
    card = await world.issue()
    recycling = await world.recycled(card)
    review = await world.held_again(recycling)
    verdict, paid = await race(world, [resolve(review), compensate(recycling)])
    if reason(verdict) is Reason.CONFLICT_RETRY:
        verdict = await world.run(resolve(review))
    assert reason(verdict) is None
    assert reason(paid) in (Reason.SETTLEMENT_NOT_DUE, Reason.RECYCLING_STATE_INVALID, Reason.CONFLICT_RETRY)
    assert (await world.store.wallet(card.account_id)).balances == ()


async def test_nobody_can_take_the_id_of_a_lapse(new_world: MakeWorld) -> None:
    """Whatever ids a caller makes of all that reviewers are told, the hold's lapse is recorded."""
    world = await new_world()
    card = await world.issue()
    review = await world.held(card)
    for told in (review.review_id, review.recycling_id, review.card_id, review.request_id):
        spare = await world.issue(account_id=card.account_id, active=False)
        await world.answer(void(spare, VoidReason.REVOKED, request_id=uuid.uuid5(told, Lapse.method)))
    await world.move(HOLD)
    assert await world.sweep() == {DueKind.HOLD: 1}
    (lapse,) = (row for row in (await world.rows_of(card.account_id))["command"] if row["method"] == Lapse.method)
    assert lapse["create_time"] == review.hold_until
    assert lapse["request_id"].version == OWN_REQUEST_VERSION  # which callers may not send


async def test_servers_of_two_releases_record_one_lapse(world: World) -> None:
    """One of before, which has another id for it, and one of now at the same time: the hold ends once."""
    review = await world.held(await world.issue())
    await world.move(HOLD)
    now = Lapse.of(review)
    await race(world, [now, replace(now, request_id=uuid.uuid5(review.review_id, Lapse.method))])
    rows = await world.rows_of(review.account_id)
    assert len([row for row in rows["command"] if row["method"] == Lapse.method]) == 1
    assert len([row for row in rows["card_event"] if row["kind"] == "RELEASED"]) == 1


async def test_hammered_holds_keep_every_invariant(new_world: MakeWorld) -> None:
    """Four servers do everything to cards that are held, approved, denied and lapse, over weeks; each refusal is one
    that the rules explain, and nobody ever has more than one card's worth."""
    world = await new_world()
    one = await world.issue()
    two = await world.issue("tencent", one.account_id)
    emulated = circumstances(emulator=True)
    explained = {
        None,
        Reason.CONFLICT_RETRY,
        Reason.CARD_ALREADY_RECYCLED,
        Reason.CARD_STATE_INVALID,
        Reason.ALREADY_COMPENSATED,
        Reason.SETTLEMENT_NOT_DUE,
        Reason.COMPENSATION_BLOCKED,
        Reason.RECYCLING_STATE_INVALID,
        Reason.RENEWALS_EXHAUSTED,
        Reason.REACTIVATION_NOT_ALLOWED,
        Reason.REVIEW_STATE_INVALID,
    }
    async with stores(world, 4) as each_store:
        engines = [world.another_engine(store) for store in each_store]
        for turn in range(14):
            deeds: list[Command] = [recycle(one, circumstances=emulated), recycle(two, circumstances=emulated)]
            recyclings = await world.store.recyclings(one.account_id, NEWEST, 4)
            for recycling in recyclings:
                told = types_pb2.Recycling(account_id=one.account_id, recycling_id=str(recycling.recycling_id))
                deeds += [compensate(told), reactivate(told, circumstances=emulated)]
            for review in await world.reviews.reviews(ReviewState.OPEN, None, OLDEST, 9) if turn % 8 < 3 else []:
                deeds += [resolve(review), resolve(review, DENY, reviewer="ben")]
            orders = [deeds[n:] + deeds[:n] for n in range(4)]
            work = [engine.submit(order) for engine, order in zip(engines, orders, strict=True)]
            outcomes, *_ = await asyncio.gather(
                asyncio.gather(*work), world.sweep(engines[turn % 4]), world.move(HOLD / 3)
            )
            assert {reason(outcome) for each in outcomes for outcome in each} <= explained
    ends = {review.state for review in await world.reviews.reviews(None, None, OLDEST, 500)}
    assert ReviewState.EXPIRED in ends and ends & {ReviewState.APPROVED, ReviewState.DENIED}
    coins = (await world.store.wallet(one.account_id)).amount("iqiyi", Unit.COIN)
    assert coins <= 2699
