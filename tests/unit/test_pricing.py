"""Dynamic pricing: bounded, smooth, in the market's direction, and replayable."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from server.domain.card import DAY
from server.domain.compensation import terms
from server.domain.policy import PricingRule
from server.domain.pricing import SCALE, Market, next_bonus, period_of
from server.domain.pump import find_pump
from server.store.policy_document import PolicyInvalid, parse_policy
from tests.builders import NOW, active, document

RULE = PricingRule(bonus_max_basis_points=300, period_minutes=60, pool_capacity=1_000, smoothing_basis_points=2_500)
counts = st.integers(0, 10**9)
markets = st.builds(Market, demand=counts, supply=counts, waiting=counts)
rules = st.builds(
    PricingRule,
    bonus_max_basis_points=st.integers(1, 10_000),
    period_minutes=st.integers(1, 1_440),
    pool_capacity=st.integers(1, 10**9),
    smoothing_basis_points=st.integers(1, 10_000),
)


def test_the_bonus_goes_a_share_of_the_way() -> None:
    """Three bought for one handed in, half of the pool free: 300 x 1/2 x 1/2 = 75, and a quarter of the way there."""
    market = Market(demand=300, supply=100, waiting=500)
    first = next_bonus(0, market, RULE)
    assert first == 18_750_000
    assert next_bonus(first, market, RULE) == 32_812_500


def test_an_idle_market_lets_the_bonus_fade() -> None:
    """Nothing happened, so nothing is wanted."""
    assert next_bonus(100 * SCALE, Market(demand=0, supply=0, waiting=0), RULE) == 75 * SCALE


@given(rules, st.lists(markets, max_size=30))
def test_the_bonus_stays_within_its_bounds(rule: PricingRule, seen: list[Market]) -> None:
    """Whatever the markets are like."""
    bonus = 0
    for market in seen:
        bonus = next_bonus(bonus, market, rule)
        assert 0 <= bonus <= rule.bonus_max_basis_points * SCALE


@given(rules, markets, st.integers(0, 10_000 * SCALE), counts)
def test_more_demand_never_lowers_and_more_waiting_never_raises_it(
    rule: PricingRule, market: Market, prior: int, more: int
) -> None:
    """The direction is that of the market."""
    there = next_bonus(prior, market, rule)
    busier = Market(demand=market.demand + more, supply=market.supply, waiting=market.waiting)
    fuller = Market(demand=market.demand, supply=market.supply, waiting=market.waiting + more)
    assert next_bonus(prior, busier, rule) >= there >= next_bonus(prior, fuller, rule)


@given(st.datetimes(timezones=st.just(UTC)), rules)
def test_every_moment_lies_in_its_period(at: datetime, rule: PricingRule) -> None:
    """Half-open, and as long as the rule says."""
    assume(1 < at.year < 9_999)
    begin, end = period_of(at, rule)
    assert begin <= at < end
    assert end - begin == timedelta(minutes=rule.period_minutes)
    assert period_of(end, rule)[0] == end


def test_a_refund_has_the_bonus_on_its_base() -> None:
    """base 1,799, fee 180, bonus 2 %: 1,799 - 180 + 35."""
    policy = parse_policy(json.dumps(document("iqiyi") | {"pricing": _pricing(200)}))
    price = terms(active("iqiyi", unused=18 * DAY), policy, NOW, bonus_basis_points=200)
    assert price.compensation is not None
    assert (price.fee_minor, price.compensation.amount) == (180, 1_654)


def test_points_have_the_bonus_on_their_number() -> None:
    """18 days at 10 points, and 5 % more."""
    policy = parse_policy(json.dumps(document("tencent") | {"pricing": _pricing(500)}))
    price = terms(active("tencent", unused=18 * DAY), policy, NOW, bonus_basis_points=500)
    assert price.compensation is not None and price.compensation.amount == 189


def test_no_bonus_goes_beyond_the_policy() -> None:
    """A price of a former revision is cut to what the present one allows."""
    policy = parse_policy(json.dumps(document("iqiyi") | {"pricing": _pricing(100)}))
    card = active("iqiyi", unused=18 * DAY)
    assert terms(card, policy, NOW, bonus_basis_points=900) == terms(card, policy, NOW, bonus_basis_points=100)
    plain = parse_policy(json.dumps({k: v for k, v in document("iqiyi").items() if k != "pricing"}))
    assert terms(card, plain, NOW, bonus_basis_points=900).bonus_basis_points == 0


@pytest.mark.parametrize(("bonus_max", "sound"), [(800, True), (801, False)])
def test_a_bonus_beyond_the_fee_is_a_pump(bonus_max: int, sound: bool) -> None:
    """PREMIUM keeps back 8 %; the middle's growth value is worth nothing here, as nothing is given for it."""
    alone = document("iqiyi") | {"offers": [], "exchange": []}
    policy = parse_policy(json.dumps(alone | {"pricing": _pricing(bonus_max)}))
    assert (find_pump([policy]) is None) is sound


def test_a_coupon_has_no_bonus() -> None:
    """What is not counted cannot be added to."""
    with pytest.raises(PolicyInvalid, match="coupon"):
        parse_policy(json.dumps(document("netflix") | {"pricing": _pricing(100)}))


def _pricing(bonus_max: int) -> dict[str, int]:
    return {
        "bonus_max_basis_points": bonus_max,
        "period_minutes": 60,
        "pool_capacity": 1_000,
        "smoothing_basis_points": 2_500,
    }
