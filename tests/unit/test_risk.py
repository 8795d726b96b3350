"""What risk asks for: the table of score, lists, caps and policies, and how the slice that is explored is drawn."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from math import sqrt
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_worker.registry import FEATURE_NAMES
from server.domain.card import DAY
from server.domain.errors import Reason, Refusal
from server.domain.lists import ListHit, ListKind, SubjectKind
from server.domain.lottery import Lottery
from server.domain.policy import CapAction, Counter, ExplorationRule, Policy, VelocityCap, WithoutDevice
from server.domain.recycling import CompensationState, Decision, DegradedMode, RecycleReason, RecyclingState, RiskBand
from server.domain.risk import Action, Verdict, judge
from server.domain.snapshot import RiskFacts, Score
from server.store.policy_document import PolicyInvalid, parse_policy
from tests.builders import HIGH, LOW, MEDIUM, NOW, Account, active, document, refused, shipped

ALLOW, DENY, WATCH = ListKind.ALLOW, ListKind.DENY, ListKind.WATCH
HELD = VelocityCap(counter=Counter.ACCOUNT_RECYCLES_24H, max=3, action=CapAction.HOLD)
STOPPED = VelocityCap(counter=Counter.DEVICE_ACCOUNTS_24H, max=5, action=CapAction.REFUSE)
EXPLORED = ExplorationRule(share_basis_points=50, amount_max_minor=2_000, settle_after_days=14)
LOTTERY = Lottery(b"a lottery key of tests")
FAILS = "FAILS"


def policy_with(mode: DegradedMode = DegradedMode.RULES_ONLY, exploration: ExplorationRule | None = EXPLORED) -> Policy:
    """iqiyi's policy with other rules of risk."""
    policy = shipped("iqiyi")
    risk = replace(policy.risk, without_score=mode, velocity=(HELD, STOPPED), exploration=exploration)
    return replace(policy, risk=risk)


def facts(
    *kinds: ListKind,
    held: bool = False,
    stopped: bool = False,
    without_device: bool = False,
    lot: float | None = None,
    **counts: float | None,
) -> RiskFacts:
    """What risk goes by beside the score."""
    counts = {"account_recycles_24h": 3 if held else 2, "device_accounts_24h": 5 if stopped else 4} | counts
    hits = tuple(ListHit(list=kind, subject_kind=SubjectKind.DEVICE, entry_id=UUID(int=1)) for kind in kinds)
    return RiskFacts(list_hits=hits, counts=counts, without_device=without_device, lot=lot)


def asked(
    score: Score | None, found: RiskFacts, mode: DegradedMode = DegradedMode.RULES_ONLY, *, may_refuse: bool = True
) -> str:
    """What is done: the action, HELD for an approval whose settlement waits, FAILS for no answer at all."""
    try:
        verdict = judge(score, found, policy_with(mode), may_refuse=may_refuse, explorable_minor=2_000)
    except Refusal as refusal:
        return FAILS if refusal.reason is Reason.FRAUD_SCORE_UNAVAILABLE else refusal.reason
    return "HELD" if verdict.settlement_held else verdict.action


# The table


@pytest.mark.parametrize(
    ("score", "kinds", "held", "stopped", "expected"),
    [
        (LOW, (), False, False, "APPROVE"),
        (MEDIUM, (), False, False, "HOLD"),
        (HIGH, (), False, False, "REFUSE"),
        (LOW, (), True, False, "HOLD"),
        (LOW, (), False, True, "REFUSE"),
        (MEDIUM, (), False, True, "REFUSE"),
        (HIGH, (), True, False, "REFUSE"),
        (LOW, (WATCH,), False, False, "HOLD"),
        (HIGH, (WATCH,), False, False, "REFUSE"),
        (LOW, (WATCH,), False, True, "REFUSE"),
        (LOW, (DENY,), False, False, "REFUSE"),
        (LOW, (DENY, ALLOW, WATCH), False, False, "REFUSE"),
        (MEDIUM, (ALLOW,), False, False, "APPROVE"),
        (HIGH, (ALLOW,), True, True, "APPROVE"),
        (HIGH, (ALLOW, WATCH), True, True, "HOLD"),
    ],
)
def test_strictest_of_lists_band_and_caps_is_done(
    score: Score, kinds: tuple[ListKind, ...], held: bool, stopped: bool, expected: str
) -> None:
    """DENY over WATCH over ALLOW, which takes back band and caps only."""
    assert asked(score, facts(*kinds, held=held, stopped=stopped)) == expected


@pytest.mark.parametrize(
    ("mode", "found", "expected"),
    [
        (DegradedMode.RULES_ONLY, facts(), "HELD"),
        (DegradedMode.RULES_ONLY, facts(held=True), "HOLD"),
        (DegradedMode.RULES_ONLY, facts(stopped=True), "REFUSE"),
        (DegradedMode.RULES_ONLY, facts(WATCH), "HOLD"),
        (DegradedMode.RULES_ONLY, facts(ALLOW, stopped=True), "HELD"),
        (DegradedMode.HOLD, facts(), "HOLD"),
        (DegradedMode.HOLD, facts(stopped=True), "REFUSE"),
        (DegradedMode.HOLD, facts(ALLOW), "HOLD"),
        (DegradedMode.REJECT, facts(), FAILS),
        (DegradedMode.REJECT, facts(ALLOW), FAILS),
        (DegradedMode.REJECT, facts(WATCH, stopped=True), FAILS),
        *((mode, facts(DENY, ALLOW), "REFUSE") for mode in DegradedMode),
    ],
)
def test_missing_score_does_what_the_policy_says(mode: DegradedMode, found: RiskFacts, expected: str) -> None:
    """Lists and caps speak without a score too; an ALLOW entry does not stand in for one."""
    assert asked(None, found, mode) == expected


@pytest.mark.parametrize("mode", DegradedMode)
@pytest.mark.parametrize(
    ("score", "found", "expected"),
    [
        (LOW, facts(), "APPROVE"),
        (MEDIUM, facts(), "HELD"),
        (HIGH, facts(), "HELD"),
        (LOW, facts(DENY), "HELD"),
        (LOW, facts(WATCH), "HELD"),
        (LOW, facts(held=True), "HELD"),
        (HIGH, facts(ALLOW), "APPROVE"),
        (None, facts(), "HELD"),
        (None, facts(ALLOW), "HELD"),
        (None, facts(DENY), "HELD"),
    ],
)
def test_what_is_never_refused_is_held_back_instead(
    mode: DegradedMode, score: Score | None, found: RiskFacts, expected: str
) -> None:
    """For reasons that are never refused only settlement waits, and no call fails."""
    assert asked(score, found, mode, may_refuse=False) == expected


@pytest.mark.parametrize(("count", "expected"), [(2, "APPROVE"), (3, "HOLD"), (200, "HOLD"), (None, "APPROVE")])
def test_cap_is_reached_by_earlier_requests(count: float | None, expected: str) -> None:
    """With a cap of three the fourth request is held; what is not known reaches no cap."""
    assert asked(LOW, facts(account_recycles_24h=count)) == expected


def test_codes_tell_all_that_bore_on_it() -> None:
    """Lists, band and caps are named each once, also where another outweighed them."""
    verdict = judge(HIGH, facts(DENY, DENY, ALLOW, held=True, stopped=True), policy_with(), may_refuse=True)
    assert verdict.reason_codes == (
        "DENY_LISTED_DEVICE",
        "ALLOW_LISTED_DEVICE",
        "RISK_HIGH",
        "VELOCITY_ACCOUNT_RECYCLES_24H",
        "VELOCITY_DEVICE_ACCOUNTS_24H",
    )


@pytest.mark.parametrize(
    ("mode", "may_refuse", "named"),
    [
        (DegradedMode.HOLD, True, DegradedMode.HOLD),
        (DegradedMode.RULES_ONLY, True, DegradedMode.RULES_ONLY),
        (DegradedMode.HOLD, False, DegradedMode.RULES_ONLY),
        (DegradedMode.REJECT, False, DegradedMode.RULES_ONLY),
    ],
)
def test_degraded_mode_is_named(mode: DegradedMode, may_refuse: bool, named: DegradedMode) -> None:
    """The verdict names what was done for want of a score, and nothing when there was one."""
    assert judge(None, facts(), policy_with(mode), may_refuse=may_refuse).degraded_mode is named
    assert judge(LOW, facts(), policy_with(mode), may_refuse=may_refuse).degraded_mode is None


# Without a device


def nameless(
    rule: WithoutDevice, *kinds: ListKind, score: Score | None = LOW, may_refuse: bool = True, settles: bool = True
) -> Verdict:
    """The verdict on a request that names no device, where that is the policy's rule."""
    policy = policy_with()
    minding = replace(policy, risk=replace(policy.risk, without_device=rule))
    found = facts(*kinds, without_device=True, lot=0.0)
    return judge(
        score, found, minding, may_refuse=may_refuse, settles=settles, explorable_minor=2_000 if settles else None
    )


@pytest.mark.parametrize(
    ("rule", "action", "settlement_held"),
    [
        (WithoutDevice.APPROVE, Action.APPROVE, False),
        (WithoutDevice.HOLD_SETTLEMENT, Action.APPROVE, True),
        (WithoutDevice.HOLD, Action.HOLD, False),
        (WithoutDevice.REFUSE, Action.REFUSE, False),
    ],
)
def test_missing_device_does_what_the_policy_says(rule: WithoutDevice, action: Action, settlement_held: bool) -> None:
    """However low the score, and the code says so; where the policy does not mind, nothing is said."""
    verdict = nameless(rule)
    assert (verdict.action, verdict.settlement_held) == (action, settlement_held)
    assert verdict.reason_codes == (() if rule is WithoutDevice.APPROVE else ("WITHOUT_DEVICE",))


@pytest.mark.parametrize("rule", [WithoutDevice.HOLD_SETTLEMENT, WithoutDevice.HOLD, WithoutDevice.REFUSE])
def test_missing_device_never_refuses_what_is_never_refused(rule: WithoutDevice) -> None:
    """Only settlement waits, with a score and without."""
    for score in (LOW, None):
        verdict = nameless(rule, score=score, may_refuse=False)
        assert verdict.action is Action.APPROVE and verdict.settlement_held


def test_card_given_back_without_a_device_is_held() -> None:
    """What settles nothing has no settlement to hold, so the card itself is."""
    verdict = nameless(WithoutDevice.HOLD_SETTLEMENT, settles=False)
    assert verdict.action is Action.HOLD and not verdict.settlement_held


@pytest.mark.parametrize("rule", WithoutDevice)
def test_allow_entry_takes_back_the_missing_device(rule: WithoutDevice) -> None:
    """Who is trusted, by account or address, needs no device; WATCH and DENY hold all the same."""
    allowed = nameless(rule, ALLOW)
    assert allowed.action is Action.APPROVE and not allowed.settlement_held
    assert nameless(rule, ALLOW, WATCH).action is Action.HOLD
    assert nameless(rule, ALLOW, DENY).action is Action.REFUSE


@pytest.mark.parametrize("rule", WithoutDevice)
def test_missing_device_is_never_explored(rule: WithoutDevice) -> None:
    """A HIGH band stays refused, even with a lot that would have won."""
    verdict = nameless(rule, score=HIGH)
    assert verdict.action is Action.REFUSE and verdict.exploration is None


def test_reactivation_without_a_device_is_held() -> None:
    """The rule holds for giving back as for taking, by the recycling's own policy."""
    account = Account(active("iqiyi", unused=18 * DAY))
    account.recycle()
    account.facts = facts(without_device=True)
    change = account.reactivate()
    assert change.held and change.decision is not None and change.decision.reason_codes == ("WITHOUT_DEVICE",)


# The properties

scores = st.sampled_from([None, LOW, MEDIUM, HIGH])
modes = st.sampled_from(DegradedMode)
all_facts = st.builds(
    lambda kinds, held, stopped, nameless, lot: facts(
        *kinds, held=held, stopped=stopped, without_device=nameless, lot=None if nameless else lot
    ),
    st.lists(st.sampled_from(ListKind), max_size=3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 0.0, 0.004, 0.9]),
)
STRICTNESS = ("APPROVE", "HELD", "HOLD", FAILS, "REFUSE")


@given(scores, all_facts, modes)
def test_deny_always_wins(score: Score | None, found: RiskFacts, mode: DegradedMode) -> None:
    """Whatever else is true, a denied request is refused, or its settlement held where it may not be."""
    denied = replace(found, list_hits=(*found.list_hits, *facts(DENY).list_hits))
    assert asked(score, denied, mode) == "REFUSE"
    assert asked(score, denied, mode, may_refuse=False) == "HELD"


@given(all_facts, modes, st.booleans())
def test_nothing_is_approved_silently_without_a_score(found: RiskFacts, mode: DegradedMode, may_refuse: bool) -> None:
    """Without a score an approval holds settlement, and says so by mode and code."""
    outcome = asked(None, found, mode, may_refuse=may_refuse)
    assert outcome != "APPROVE"
    if outcome != FAILS:
        verdict = judge(None, found, policy_with(mode), may_refuse=may_refuse)
        assert verdict.degraded_mode is not None and "SCORE_UNAVAILABLE" in verdict.reason_codes


@given(
    scores,
    all_facts,
    modes,
    st.booleans(),
    st.sampled_from([facts(DENY), facts(WATCH), facts(held=True), facts(stopped=True)]),
)
def test_more_against_a_request_is_never_milder(
    score: Score | None, found: RiskFacts, mode: DegradedMode, may_refuse: bool, more: RiskFacts
) -> None:
    """One more DENY or WATCH entry, or cap reached, never makes the outcome milder, explored or not."""
    counts = {name: max(found.counts[name] or 0, more.counts[name] or 0) for name in more.counts}
    worse = replace(found, list_hits=(*found.list_hits, *more.list_hits), counts=counts)
    before, after = (asked(score, each, mode, may_refuse=may_refuse) for each in (found, worse))
    assert STRICTNESS.index(after) >= STRICTNESS.index(before)


@given(scores, all_facts, modes, st.booleans())
def test_leaving_the_device_out_is_never_milder(
    score: Score | None, found: RiskFacts, mode: DegradedMode, may_refuse: bool
) -> None:
    """All else being equal, naming no device is worth nothing."""
    named = replace(found, without_device=False, lot=None)
    nameless = replace(found, without_device=True, lot=None)
    before, after = (asked(score, each, mode, may_refuse=may_refuse) for each in (named, nameless))
    assert STRICTNESS.index(after) >= STRICTNESS.index(before)


@given(all_facts, modes, st.booleans())
def test_higher_score_is_never_milder(found: RiskFacts, mode: DegradedMode, may_refuse: bool) -> None:
    """But for the explored slice, a higher band never makes the outcome milder."""
    unlucky = replace(found, lot=None)
    outcomes = [STRICTNESS.index(asked(score, unlucky, mode, may_refuse=may_refuse)) for score in (LOW, MEDIUM, HIGH)]
    assert outcomes == sorted(outcomes)


# Exploration


def explored(
    score: Score | None = HIGH,
    found: RiskFacts = facts(lot=0.0),  # noqa: B008 - frozen
    paid_minor: int | None = 2_000,
    *,
    may_refuse: bool = True,
) -> Verdict:
    """The verdict on a request whose lot has won."""
    return judge(score, found, policy_with(), may_refuse=may_refuse, explorable_minor=paid_minor)


def test_winner_is_let_through_late_and_says_so() -> None:
    """A would-be refusal by the HIGH band is approved, settled later, and named with its propensity."""
    account = Account(active("iqiyi", unused=18 * DAY, paid_minor=1_999), policies={"iqiyi": policy_with()})
    account.facts = facts(lot=0.00499)
    account.recycle(HIGH)
    decision = account.recycling.decision
    assert account.recycling.state is RecyclingState.APPROVED and not account.recycling.settlement_held
    assert (decision.explored, decision.propensity, decision.risk_band) == (True, 0.005, RiskBand.HIGH)
    assert decision.reason_codes == ("RISK_HIGH", "EXPLORED")
    account.now += 14 * DAY - timedelta(microseconds=1)
    with refused(Reason.SETTLEMENT_NOT_DUE):
        account.compensate()
    account.now += timedelta(microseconds=1)
    account.compensate()
    assert account.compensation.state is CompensationState.SETTLED


@pytest.mark.parametrize(
    "verdict",
    [
        lambda: explored(found=facts(lot=0.005)),
        lambda: explored(found=facts(lot=None)),
        lambda: explored(found=facts(DENY, lot=0.0)),
        lambda: explored(found=facts(WATCH, lot=0.0)),
        lambda: explored(found=facts(held=True, lot=0.0)),
        lambda: explored(found=facts(stopped=True, lot=0.0)),
        lambda: explored(paid_minor=2_001),
        lambda: explored(paid_minor=None),
        lambda: judge(HIGH, facts(lot=0.0), policy_with(exploration=None), may_refuse=True, explorable_minor=2_000),
    ],
    ids=["lost", "no device", "denied", "watched", "held", "stopped", "dear", "no recycle", "no rule"],
)
def test_only_the_band_s_own_refusals_are_explored(verdict: Callable[[], Verdict]) -> None:
    """Never what lists or caps are against, without a device, above the amount, nor where the policy has no rule."""
    found = verdict()
    assert found.action is Action.REFUSE and found.exploration is None and "EXPLORED" not in found.reason_codes


@pytest.mark.parametrize(
    "verdict",
    [
        explored(LOW),
        explored(MEDIUM),
        explored(None),
        explored(may_refuse=False),
        explored(found=facts(ALLOW, lot=0.0)),
    ],
    ids=["low", "medium", "no score", "never refused", "allowed"],
)
def test_what_would_not_be_refused_is_not_explored(verdict: Verdict) -> None:
    """Exploration has a say in would-be refusals only."""
    assert verdict.exploration is None


def test_reactivation_is_not_explored() -> None:
    """A card given back has no settlement that could wait."""
    account = Account(active("iqiyi", unused=18 * DAY, paid_minor=1_999), policies={"iqiyi": policy_with()})
    account.recycle()
    account.facts = facts(lot=0.0)
    change = account.reactivate(HIGH)
    assert change.refused and change.decision is not None and not change.decision.explored


def test_explored_share_is_the_policy_s() -> None:
    """Of many accounts 0.5 % win, within four standard deviations, and the lots are even over their range."""
    accounts = 40_000
    lots = [LOTTERY.lot(f"account-{number}", bytes(16), NOW) or 0.0 for number in range(accounts)]
    for share in (0.005, 0.25, 0.5, 0.75):
        won = sum(lot < share for lot in lots)
        assert abs(won - share * accounts) < 4 * sqrt(accounts * share * (1 - share))


def test_lot_is_kept_for_thirty_days() -> None:
    """In 30 days an account's lot changes once, at a moment of its own; accounts do not change together."""
    changes = []
    for number in range(200):
        moments = [NOW + hours * timedelta(hours=6) for hours in range(121)]
        lots = [LOTTERY.lot(f"account-{number}", bytes(16), moment) for moment in moments]
        changed = [place for place, (lot, after) in enumerate(itertools.pairwise(lots)) if lot != after]
        assert len(changed) == 1
        changes += changed
    assert len(set(changes)) > 60


def test_lot_depends_on_account_and_key() -> None:
    """Another account or key has another lot; another device has not, so that nobody draws anew by making one up."""
    device, other = bytes(16), bytes(15) + b"\1"
    lots = {
        LOTTERY.lot("a", device, NOW),
        LOTTERY.lot("b", device, NOW),
        Lottery(b"another key of the lottery").lot("a", device, NOW),
    }
    assert len(lots) == 3
    assert LOTTERY.lot("a", device, NOW) == LOTTERY.lot("a", other, NOW)
    assert LOTTERY.lot("a", None, NOW) is None


def test_short_lottery_key_is_refused() -> None:
    """A key that can be guessed would tell who is let through."""
    with pytest.raises(ValueError, match="16 bytes"):
        Lottery(b"short")


# Lists and settlement


@pytest.mark.parametrize(
    ("kinds", "due"), [((DENY,), False), ((DENY, ALLOW), False), ((WATCH,), True), ((ALLOW,), True), ((), True)]
)
def test_denied_account_or_payout_is_not_settled(kinds: tuple[ListKind, ...], due: bool) -> None:
    """A DENY entry makes settlement not due; when it ends the same compensation is due again."""
    account = Account(active("iqiyi", unused=18 * DAY))
    account.recycle()
    account.facts = facts(*kinds)
    if not due:
        with refused(Reason.SETTLEMENT_NOT_DUE):
            account.compensate()
        account.facts = facts()
    account.compensate()
    assert account.compensation.state is CompensationState.SETTLED


def test_allowed_recycle_is_settled_whatever_its_band() -> None:
    """An ALLOW entry approves in spite of the band, and holds nothing back."""
    account = Account(active("iqiyi", unused=18 * DAY))
    account.facts = facts(ALLOW)
    account.recycle(HIGH)
    assert account.recycling.decision.list_hits == account.facts.list_hits
    account.compensate()
    assert account.compensation.state is CompensationState.SETTLED


# The policies


def test_former_name_of_reject_is_read() -> None:
    """Revisions that stand for ever say REFUSE."""
    body = document("iqiyi")
    body["risk"] = {"never_refused_reasons": [], "without_score": "REFUSE"}
    policy = parse_policy(json.dumps(body))
    assert policy.risk.without_score is DegradedMode.REJECT
    assert policy.risk.velocity == () and policy.risk.exploration is None
    assert policy.risk.without_device is WithoutDevice.APPROVE


def test_decision_of_before_is_read() -> None:
    """Decisions that were stored before there were lists or exploration have none."""
    stored = {
        "risk_score": None, "risk_band": None, "reason_codes": ["SCORE_UNAVAILABLE"], "alternatives": [],
        "policy_revision": "netflix@1", "model_version": "", "degraded": True, "valid_until": None,
    }  # fmt: skip
    decision = msgspec.convert(stored, Decision)
    assert (decision.degraded_mode, decision.list_hits, decision.explored, decision.propensity) == (
        None,
        (),
        False,
        None,
    )


def test_counters_are_features() -> None:
    """Caps count what the database computes for the model anyway."""
    assert set(Counter) <= set(FEATURE_NAMES)


def test_schema_knows_every_counter() -> None:
    """The schema lists the counters of the domain, no more and no less."""
    for counter in Counter:
        body = document("netflix")
        body["risk"]["velocity"] = [{"counter": counter, "max": 1, "action": "HOLD"}]
        assert parse_policy(json.dumps(body)).risk.velocity[0].counter is counter
    body["risk"]["velocity"][0]["counter"] = "device_accounts_ever"
    with pytest.raises(PolicyInvalid, match="device_accounts_ever"):
        parse_policy(json.dumps(body))


@pytest.mark.parametrize("value", [0, 201, 1.5])
def test_cap_must_lie_within_what_is_counted(value: float) -> None:
    """Counts end at 200, so that a cap beyond would never be reached."""
    body = document("iqiyi")
    body["risk"]["velocity"][0]["max"] = value
    with pytest.raises(PolicyInvalid, match=r"velocity\[0\]\.max"):
        parse_policy(json.dumps(body))


def test_counter_may_have_one_cap_for_each_action() -> None:
    """HOLD at one count and REFUSE at another are fine; two of the same are a mistake."""
    body = document("iqiyi")
    first = body["risk"]["velocity"][0]
    body["risk"]["velocity"] = [first, first | {"max": 40, "action": "REFUSE"}]
    assert len(parse_policy(json.dumps(body)).risk.velocity) == 2
    body["risk"]["velocity"] = [first, first | {"max": 40}]
    with pytest.raises(PolicyInvalid, match="one cap for each action"):
        parse_policy(json.dumps(body))


@pytest.mark.parametrize("platform", ["netflix", "iqiyi", "tencent"])
def test_shipped_caps_let_a_campus_pass(platform: str) -> None:
    """Hundreds of people behind one address, 150 of them within the hour, with one phone each of the same model."""
    counts: dict[str, float | None] = dict.fromkeys(map(str, Counter), 0.0)
    counts |= {
        Counter.ADDRESS_ACCOUNTS_1H: 150.0,
        Counter.ADDRESS_ACCOUNTS_24H: 200.0,
        Counter.PREFIX_RECYCLES_1H: 200.0,
        Counter.LOOK_ALIKE_ACCOUNTS_1H: 200.0,
        Counter.LOOK_ALIKE_ACCOUNTS_24H: 200.0,
        Counter.DEVICE_ACCOUNTS_30D: 4.0,
        Counter.ACCOUNT_RECYCLES_24H: 3.0,
    }
    verdict = judge(LOW, RiskFacts(counts=counts), shipped(platform), may_refuse=True)
    assert verdict.action is Action.APPROVE and verdict.reason_codes == ()


def test_anomaly_of_a_denied_account_is_taken_and_not_paid() -> None:
    """tencent takes an abnormal account's card whatever the lists say, and holds the points."""
    account = Account(active("tencent", unused=18 * DAY))
    account.facts = facts(DENY)
    account.recycle(LOW, reason=RecycleReason.SYSTEM_ANOMALY, request_id=uuid4())
    assert account.recycling.state is RecyclingState.APPROVED and account.recycling.settlement_held
