"""What a card's tier and its owner's segment change, by the letter of the policies."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from server.domain.card import DAY
from server.domain.errors import Reason
from server.domain.lists import ListHit, ListKind, SubjectKind
from server.domain.recycling import Compensation, CompensationState, RecyclingState, Unit
from server.domain.snapshot import RiskFacts, Score
from server.store.policy_document import PolicyInvalid, parse_policy
from tests.builders import (
    LOW,
    MEDIUM,
    MICROSECOND,
    NOW,
    RECYCLING_ID,
    Account,
    active,
    document,
    refused,
    shipped,
)


def test_a_premium_card_on_iqiyi_pays_a_fee_of_eight_percent() -> None:
    """base 1,799: the plain fee is 180, that of PREMIUM ceil(143.92)."""
    account = Account(active("iqiyi", unused=18 * DAY, tier="PREMIUM"))
    account.recycle()
    assert (account.recycling.fee_minor, account.compensation.amount) == (144, 1_655)


def test_a_premium_card_on_iqiyi_comes_back_for_210_days() -> None:
    """The window of PREMIUM closes a microsecond after its last moment, as the plain one does after 180 days."""
    late, in_time = (Account(active("iqiyi", unused=18 * DAY, tier="PREMIUM")) for _ in range(2))
    for account, moment in ((late, NOW + 210 * DAY), (in_time, NOW + 210 * DAY - MICROSECOND)):
        account.recycle()
        account.now = moment
    in_time.reactivate()
    assert in_time.recycling.state is RecyclingState.REVERSED
    with refused(Reason.REACTIVATION_WINDOW_CLOSED):
        late.reactivate()


def test_a_premium_card_on_tencent_earns_twelve_points_a_day() -> None:
    """30 whole days are 360 points."""
    account = Account(active("tencent", unused=31 * DAY - timedelta(minutes=1), duration_days=31, tier="PREMIUM"))
    account.recycle()
    assert account.compensation.amount == 360


def test_a_tier_without_terms_has_the_plain_ones() -> None:
    """Netflix names no tier, and BASIC is named by none."""
    assert shipped("netflix").for_tier("PREMIUM") == shipped("netflix")
    assert shipped("iqiyi").for_tier("BASIC") == shipped("iqiyi")


@pytest.mark.parametrize("platform", ["iqiyi", "tencent"])
def test_the_young_are_paid_with_the_recycle(platform: str) -> None:
    """The wallet has the compensation at once, and nothing is left to settle."""
    account = Account(active(platform, unused=18 * DAY, segment="YOUNG"))
    account.recycle()
    assert account.compensation.state is CompensationState.SETTLED
    assert account.wallet.amount(platform, account.compensation.unit) == account.compensation.amount
    with refused(Reason.ALREADY_COMPENSATED):
        account.compensate()


def test_what_the_young_were_paid_is_taken_back() -> None:
    """A reactivation finds a settled compensation, whoever settled it."""
    account = Account(active("iqiyi", unused=18 * DAY, segment="YOUNG"))
    account.recycle()
    account.reactivate()
    assert account.compensation.state is CompensationState.CLAWED_BACK
    assert account.wallet.amount("iqiyi", Unit.COIN) == 0


@pytest.mark.parametrize("segment", ["MIDDLE", "SENIOR", None])
def test_others_wait_for_compensate(segment: str | None) -> None:
    """Instant settlement is the young's."""
    account = Account(active("iqiyi", unused=18 * DAY, segment=segment))
    account.recycle()
    assert account.compensation.state is CompensationState.PENDING


def test_a_great_amount_is_not_settled_at_once() -> None:
    """Up to instant_settlement_max, and not a coin beyond."""
    for paid, state in ((11_111, CompensationState.SETTLED), (11_113, CompensationState.PENDING)):
        account = Account(active("iqiyi", unused=30 * DAY, segment="YOUNG", paid_minor=paid, face_value_minor=paid))
        account.recycle()
        assert account.compensation.state is state, account.compensation.amount


@pytest.mark.parametrize("score", [MEDIUM, None])
def test_without_a_low_band_nothing_is_settled_at_once(score: Score | None) -> None:
    """An anomaly is never refused; its settlement waits for a review."""
    account = Account(active("tencent", unused=18 * DAY, segment="YOUNG"))
    account.recycle(score)
    assert account.recycling.settlement_held
    assert account.compensation.state is CompensationState.PENDING


def test_an_allowed_request_of_a_doubtful_band_is_not_settled_at_once() -> None:
    """An ALLOW entry takes the hold back, and not the doubt."""
    account = Account(active("iqiyi", unused=18 * DAY, segment="YOUNG"))
    hit = ListHit(list=ListKind.ALLOW, subject_kind=SubjectKind.ACCOUNT, entry_id=RECYCLING_ID)
    account.facts = RiskFacts(list_hits=(hit,))
    account.recycle(MEDIUM)
    assert account.recycling.state is RecyclingState.APPROVED
    assert account.compensation.state is CompensationState.PENDING


def test_a_dry_run_shows_the_instant_settlement() -> None:
    """And moves nothing."""
    account = Account(active("iqiyi", unused=18 * DAY, segment="YOUNG"))
    change = account.recycle(dry_run=True)
    assert change.recycling is not None and change.recycling.compensation is not None
    assert change.recycling.compensation.state is CompensationState.SETTLED
    assert not account.wallet.balances


def test_the_middle_may_take_growth_value() -> None:
    """floor(1,619 x 1.05) points in place of 1,619 coins, taken back in points."""
    account = Account(active("iqiyi", unused=18 * DAY, segment="MIDDLE"))
    account.recycle(unit=Unit.GROWTH_POINT)
    assert account.compensation == Compensation(unit=Unit.GROWTH_POINT, amount=1_699, state=CompensationState.PENDING)
    account.compensate()
    account.reactivate()
    assert account.wallet.amount("iqiyi", Unit.GROWTH_POINT) == 0


def test_the_middle_has_coins_unless_it_asks() -> None:
    """The choice is the owner's."""
    account = Account(active("iqiyi", unused=18 * DAY, segment="MIDDLE"))
    account.recycle()
    assert account.compensation.unit is Unit.COIN


@pytest.mark.parametrize("segment", ["YOUNG", "SENIOR", None])
def test_growth_value_is_not_for_others(segment: str | None) -> None:
    """A unit that is not offered is a bad field."""
    account = Account(active("iqiyi", unused=18 * DAY, segment=segment))
    with refused(Reason.FIELD_INVALID):
        account.recycle(unit=Unit.GROWTH_POINT)


def test_a_quote_binds_the_unit() -> None:
    """Points that were quoted are no coins."""
    account = Account(active("iqiyi", unused=18 * DAY, segment="MIDDLE"))
    token = account.quote(unit=Unit.GROWTH_POINT).quote_token
    with refused(Reason.QUOTE_STALE):
        account.recycle(quote_token=token)
    account.recycle(unit=Unit.GROWTH_POINT, quote_token=token)
    assert account.recycling.state is RecyclingState.APPROVED


@pytest.mark.parametrize(
    ("platform", "changes"),
    [
        ("netflix", {"tiers": {"PREMIUM": {"window_days": 10}}}),
        ("netflix", {"tiers": {"PREMIUM": {"fee_basis_points": 100}}}),
        ("iqiyi", {"tiers": {"PREMIUM": {"amount_per_day": 10}}}),
        ("iqiyi", {"tiers": {"GOLD": {"fee_basis_points": 100}}}),
        ("iqiyi", {"segments": {"MIDDLE": {"units": [{"unit": "COIN", "basis_points": 9_000}]}}}),
        ("iqiyi", {"segments": {"OLD": {"settle_with_recycle": True}}}),
        ("iqiyi", {"instant_settlement_max": 0}),
        ("netflix", {"segments": {"MIDDLE": {"units": [{"unit": "COIN", "basis_points": 100}]}}}),
    ],
)
def test_senseless_terms_are_no_policy(platform: str, changes: dict[str, Any]) -> None:
    """Terms of a tier or segment that the policy cannot mean are refused with it."""
    with pytest.raises(PolicyInvalid):
        parse_policy(json.dumps(document(platform) | changes))


def test_a_revision_without_tiers_and_segments_means_what_it_meant() -> None:
    """Revisions stand for ever, and had the plain terms only."""
    old = {k: v for k, v in document("iqiyi").items() if k not in ("tiers", "segments", "instant_settlement_max")}
    account = Account(
        active("iqiyi", unused=18 * DAY, segment="YOUNG", tier="PREMIUM"),
        policies={"iqiyi": replace(parse_policy(json.dumps(old)))},
    )
    account.recycle(LOW)
    assert account.compensation == Compensation(unit=Unit.COIN, amount=1_619, state=CompensationState.PENDING)
