"""Candidates tried on what a real database has recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from card_recycling.v1 import types_pb2

from server.domain.backtest import DecisionClass, Difference, Group, Skip
from server.domain.errors import Reason, Refusal
from server.domain.outcome import OutcomeKind
from server.domain.recycling import Unit
from server.domain.review import ReviewVerdict
from server.engine.backtest import PAGE_ROWS, BacktestEnd, BacktestQuestion, BacktestReport, PolicyBacktester
from server.engine.policies import PolicyKeeper
from server.store.backtest import PostgresBacktests
from server.store.policies import PostgresPolicies
from server.store.policy_document import parse_policy, read_document
from tests.builders import document
from tests.integration.conftest import MakeWorld
from tests.integration.world import UNMINDED, World, circumstances, compensate, news, reactivate, resolve

VOUCHER, HELD, REFUSED = DecisionClass.VOUCHER, DecisionClass.HELD, DecisionClass.REFUSED


@pytest.fixture
async def world(new_world: MakeWorld) -> World:
    """A world of its own, since a back-test looks at all that is on record."""
    return await new_world()


def iqiyi(**changes: Any) -> str:
    """The shipped policy as the tests' worlds have it, and changed."""
    body = document("iqiyi")
    return json.dumps(body | {"risk": body["risk"] | UNMINDED} | changes)


def risk(**changes: Any) -> dict[str, Any]:
    """The rules of risk of `iqiyi`, changed."""
    usual: dict[str, Any] = document("iqiyi")["risk"]
    return usual | UNMINDED | changes


async def backtest(world: World, text: str = "", *, time_left_s: float = 60.0, **asked: Any) -> BacktestReport:
    """The report on a document, or on what is `named`."""
    keeper = PolicyKeeper(PostgresPolicies(world.store), read_document)
    backtester = PolicyBacktester(PostgresBacktests(world.store), keeper, parse_policy)
    await world.move(timedelta(microseconds=1))  # the window ends before now
    return await backtester.run(BacktestQuestion(document=text, **asked), time_left_s)


async def test_the_policy_of_the_time_changes_nothing(world: World) -> None:
    """What governed decides everything again as it is on record, whatever became of it since."""
    await world.settled(await world.issue(segment="SENIOR", active=False, tier="PREMIUM"))
    card = await world.issue()
    await world.answer(reactivate(await world.settled(card)))
    await world.recycled(card)
    await world.recycled(await world.issue(), circumstances=circumstances("phone", vpn=True))
    await world.held(await world.issue())
    await world.answer(resolve(await world.held(await world.issue())))
    await world.answer(resolve(await world.held(await world.issue()), ReviewVerdict.DENY))
    await world.recycled(await world.issue("tencent"))
    report = await backtest(world, iqiyi())
    tally = report.tally
    assert (tally.replayed, tally.changed, dict(tally.skipped)) == (7, 0, {})
    assert (report.scanned, report.end, report.pump) == (8, BacktestEnd.WINDOW, None)
    assert dict(tally.moves) == {(VOUCHER, VOUCHER): 3, (REFUSED, REFUSED): 1, (HELD, HELD): 3}
    assert report.checked_with == ("iqiyi@1", "netflix@1", "tencent@1")


async def test_money_is_summed_by_segment_tier_and_unit(world: World) -> None:
    """Fees and compensations of both sides, those of held ones apart."""
    terms: dict[str, Any] = {"active": False, "paid_minor": 3_000, "face_value_minor": 3_000}
    await world.recycled(await world.issue(segment="MIDDLE", **terms), unit=Unit.GROWTH_POINT)
    await world.recycled(await world.issue(segment="MIDDLE", **terms))
    await world.recycled(await world.issue(tier="PREMIUM", **terms))
    await world.held(await world.issue(**terms))
    report = await backtest(world, iqiyi(fee_basis_points=2_000, segments={}))
    groups = {(group.segment, group.tier): group for group in report.tally.groups()}
    middle, premium, plain = groups["MIDDLE", "BASIC"], groups[None, "PREMIUM"], groups[None, "BASIC"]
    assert (middle.recorded.fee_minor, dict(middle.recorded.amounts)) == (
        600,
        {Unit.COIN: 2_700, Unit.GROWTH_POINT: 2_835},
    )
    assert (middle.candidate.fee_minor, dict(middle.candidate.amounts)) == (600, {Unit.COIN: 2_400})
    assert (premium.recorded.fee_minor, premium.candidate.fee_minor, premium.changed) == (240, 240, 0)
    assert (plain.candidate.fee_minor, dict(plain.candidate.held_amounts)) == (0, {Unit.COIN: 2_400})
    assert dict(report.tally.refusals) == {Reason.FIELD_INVALID: 1}
    total = report.tally.total()
    assert total.recorded.fee_minor == 840 and dict(total.candidate.amounts) == {Unit.COIN: 2_400 + 2_760}
    assert (total.decisions, total.changed) == (4, 3)


CANDIDATES: list[tuple[str, dict[str, Any], set[Difference], DecisionClass]] = [
    ("trigger", {"trigger": {"reasons": ["EXPIRED"], "card_states": ["EXPIRED"]}}, {Difference.OUTCOME}, REFUSED),
    ("device", {"risk": risk(without_device="HOLD")}, {Difference.OUTCOME}, HELD),
    ("fee", {"fee_basis_points": 0, "pricing": None}, {Difference.FEE, Difference.AMOUNT}, VOUCHER),
    ("settlement", {"settle_after_days": 3}, {Difference.SETTLEMENT}, VOUCHER),
    ("limit", {"compensation": {"kind": "REFUND", "unit": "COIN", "amount_max": 1}}, {Difference.OUTCOME}, REFUSED),
    (
        "disposition",
        {"dispositions": document("netflix")["dispositions"], "reactivation": None, "tiers": {}},
        {Difference.DISPOSITION},
        DecisionClass.CANCEL,
    ),
    (
        "unit",
        {"compensation": document("tencent")["compensation"], "fee_basis_points": 0, "tiers": {}, "segments": {}},
        {Difference.UNIT, Difference.FEE},
        VOUCHER,
    ),
]


@pytest.mark.parametrize(
    ("changes", "differences", "now"), [row[1:] for row in CANDIDATES], ids=[row[0] for row in CANDIDATES]
)
async def test_each_kind_of_change_is_told(
    world: World, changes: dict[str, Any], differences: set[Difference], now: DecisionClass
) -> None:
    """In what it differs, and into which class it falls."""
    recycling = await world.recycled(await world.issue(active=False))
    tally = (await backtest(world, iqiyi(**changes))).tally
    assert set(tally.differences) == differences
    assert dict(tally.moves) == {(VOUCHER, now): 1}
    (example,) = tally.examples()
    assert example.recycling_id == UUID(recycling.recycling_id)


async def test_caps_go_by_recorded_counts(world: World) -> None:
    """A cap of the candidate reaches what its receipts counted, and no more."""
    for _ in range(4):
        await world.recycled(await world.issue(), circumstances=circumstances("shared phone"))
    cap = {"counter": "device_accounts_24h", "max": 2, "action": "REFUSE"}
    tally = (await backtest(world, iqiyi(risk=risk(velocity=[cap])))).tally
    assert dict(tally.moves) == {(VOUCHER, VOUCHER): 2, (VOUCHER, REFUSED): 2}


async def test_scores_are_those_recorded(world: World) -> None:
    """No worker is asked; a candidate that needs a score refuses what had none."""
    world.scorer.down = True
    await world.recycled(await world.issue())
    tally = (await backtest(world, iqiyi(risk=risk(without_score="REJECT")))).tally
    assert dict(tally.refusals) == {Reason.FRAUD_SCORE_UNAVAILABLE: 1}


async def test_revisions_of_the_time_are_kept_apart(world: World) -> None:
    """Decisions of two revisions are each replayed by their own, and the candidate is named by its number."""
    terms: dict[str, Any] = {"active": False, "paid_minor": 3_000, "face_value_minor": 3_000}
    await world.recycled(await world.issue(**terms))
    await world.put_in_force(json.loads(iqiyi(fee_basis_points=2_000)))
    await world.recycled(await world.issue(**terms))
    report = await backtest(world, named=("iqiyi", 1))
    total = report.tally.total()
    assert (report.revision, total.recorded.fee_minor, total.candidate.fee_minor) == (1, 900, 600)


async def test_window_pages_and_rows_bound_what_is_looked_at(world: World) -> None:
    """Half-open in time, the newest first, over as many pages as it takes."""
    for card in await world.issue_many(PAGE_ROWS // 2 + 1):
        await world.recycled(card)
    middle = await world.move(timedelta(seconds=1))
    for card in await world.issue_many(PAGE_ROWS // 2 + 1):
        await world.recycled(card)
    await world.move(timedelta(seconds=1))
    report = await backtest(world, iqiyi())
    assert (report.tally.replayed, report.end) == (PAGE_ROWS + 2, BacktestEnd.WINDOW)
    late, early = await backtest(world, iqiyi(), from_time=middle), await backtest(world, iqiyi(), to_time=middle)
    assert (late.tally.replayed, early.tally.replayed) == (PAGE_ROWS // 2 + 1, PAGE_ROWS // 2 + 1)
    newest = await backtest(world, iqiyi(), rows_max=7)
    assert (newest.tally.replayed, newest.end, newest.tally.oldest_time) == (7, BacktestEnd.ROWS, middle)


async def test_too_little_time_ends_it_early(world: World) -> None:
    """It tells what it has got instead of missing the deadline."""
    await world.recycled(await world.issue())
    assert (await backtest(world, iqiyi(), time_left_s=0.2)).end is BacktestEnd.DEADLINE


async def test_expected_complaints_come_from_rates_on_record(world: World) -> None:
    """By class and segment where enough are old enough; what is too young or too little says nothing."""
    cards = await world.issue_many(50, segment="YOUNG", paid_minor=3_000, face_value_minor=3_000)
    old = [await world.recycled(card) for card in cards]
    for recycling in old[:5]:
        await complain(world, recycling)
    await world.move(timedelta(days=20))
    for recycling in old[5:7]:
        await complain(world, recycling)  # too late to count
    await complain(world, await world.recycled(await world.issue(segment="SENIOR")))  # too young
    tally = (await backtest(world, iqiyi(risk=risk(without_device="HOLD")))).tally
    rates = {(name, segment): rate for name, segment, rate in tally.rates()}
    assert (rates[VOUCHER, "YOUNG"].decisions, rates[VOUCHER, "YOUNG"].complaints) == (50, 5)
    assert set(rates) == {(VOUCHER, "YOUNG"), (VOUCHER, None)}
    groups: dict[str | None, Group] = {group.segment: group for group in tally.groups()}
    young, senior = groups["YOUNG"], groups["SENIOR"]
    assert young.complaints == 5 and young.recorded.complaints.value == pytest.approx(5)
    assert young.recorded.complaints.low < 5 < young.recorded.complaints.high
    assert senior.recorded.complaints.value == pytest.approx(0.1)  # by the rate of all
    assert (young.candidate.complaints.value, young.candidate.complaints.unknown) == (0, 50)


async def complain(world: World, recycling: types_pb2.Recycling) -> None:
    """A complaint, now."""
    await world.store.record_outcome(
        recycling.account_id, news(recycling, OutcomeKind.COMPLAINT, time=await world.store.now())
    )


def unsealed(text: str, old: str, new: str) -> str:
    """A receipt without its seal, and with something else in it."""
    return text.partition(',"sha256":"')[0].replace(old, new) + "}"


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (lambda text: text.replace('"paid_minor":2999', '"paid_minor":2998'), Skip.RECEIPT_ALTERED),
        (lambda text: unsealed(text, '"card_id":"', '"card_id":"x'), Skip.RECEIPT_UNREADABLE),
        (lambda text: unsealed(text, '"paid_minor":2999', '"paid_minor":1'), Skip.NOT_AS_RECORDED),
    ],
    ids=["altered", "unreadable", "otherwise"],
)
async def test_what_cannot_be_trusted_is_skipped(world: World, tamper: Callable[[str], str], why: Skip) -> None:
    """A receipt that is not whole, or does not lead to what is on record, is counted apart."""
    card = await world.issue()
    await world.recycled(card)
    where = "WHERE account_id = $1 AND method = 'Recycle'"
    text = await world.owner.fetchval(f"SELECT receipt::text FROM command {where}", card.account_id)
    update = f"UPDATE command SET receipt = $2::text::json {where}"
    await world.owner.execute(update, card.account_id, tamper(text))
    tally = (await backtest(world, iqiyi())).tally
    await world.owner.execute(update, card.account_id, text)
    assert (tally.replayed, dict(tally.skipped)) == (0, {why: 1})


async def test_a_candidate_that_pumps_is_told(world: World) -> None:
    """With the steps that activation would be refused for; the trial goes on."""
    await world.recycled(await world.issue())
    report = await backtest(world, iqiyi(fee_basis_points=200))
    assert report.pump is not None and report.pump.steps[-1] == "recycled for iqiyi COIN"
    assert report.tally.replayed == 1


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"named": ("iqiyi", 99)}, Reason.POLICY_NOT_FOUND),
        ({"text": "{}"}, Reason.FIELD_INVALID),
    ],
)
async def test_bad_candidates_are_refused(world: World, asked: dict[str, Any], reason: Reason) -> None:
    """A revision that is not there, and a document that is none."""
    with pytest.raises(Refusal) as caught:
        await backtest(world, **asked)
    assert caught.value.reason is reason


async def test_a_backtest_leaves_no_trace(world: World) -> None:
    """Nothing that is on record has changed, and no risk event was left."""
    recycling = await world.recycled(await world.issue())
    before = await world.rows_of(recycling.account_id)
    await backtest(world, iqiyi(fee_basis_points=5_000))
    assert await world.rows_of(recycling.account_id) == before
    assert isinstance(await world.run(compensate(recycling)), bytes)
