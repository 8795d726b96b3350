"""The decision hub: the parts of Y to the unit, priors and what a model adds to them, and which alternative wins."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.card import DAY, Card
from server.domain.commands import Recycle
from server.domain.compensation import terms
from server.domain.decision import asked_of_model
from server.domain.errors import Reason
from server.domain.hub import blended, choose, uncertain, weigh
from server.domain.policy import CostRule, Policy
from server.domain.recycling import Alternative, Disposition, ProbabilitySource
from server.domain.snapshot import Conversion, Conversions
from server.store.policy_document import PolicyInvalid, parse_policy
from tests.builders import (
    ACCOUNT_ID,
    CARD_ID,
    LOW,
    NOW,
    PLATFORMS,
    Account,
    active,
    document,
    issued,
    own_reason,
    refused,
    shipped,
)

RESET, CANCEL = Disposition.RESET_VALIDITY, Disposition.CANCEL
SEGMENTS = (None, "YOUNG", "MIDDLE", "SENIOR")


def weighed(card: Card, policy: Policy, conversions: Conversions | None = None) -> tuple[Alternative, ...]:
    """The alternatives for `card` now."""
    return weigh(card, policy, terms(card, policy, NOW), conversions)


def tencent(**reset: Any) -> Policy:
    """The shipped policy with other terms of RESET_VALIDITY; None takes one away."""
    body = document("tencent")
    rule = body["dispositions"][0] | reset
    body["dispositions"][0] = {name: value for name, value in rule.items() if value is not None}
    return parse_policy(json.dumps(body))


def told(probability: float, support: int, disposition: Disposition = RESET) -> Conversions:
    """What a model says of one disposition."""
    return Conversions(
        model_version="c1", of=(Conversion(disposition=disposition, probability=probability, support=support),)
    )


# C


def test_cost_is_the_sum_of_its_parts() -> None:
    """Work, a share of the unused value, and the damage to a segment that feels 89.4 % of it, to the hundredth."""
    cost = {"recycling_minor": 60, "opportunity_basis_points": 250, "user_damage_minor": 40}
    card = active("tencent", unused=18 * DAY, paid_minor=2_999, segment="YOUNG")
    reset, _ = weighed(card, tencent(cost=cost))
    base = 2_999 * 18 // 30
    assert (reset.recycling_cost, reset.opportunity_cost) == (60.0, base * 0.025)
    assert reset.user_damage == pytest.approx(35.76)
    assert reset.cost == pytest.approx(60 + base * 0.025 + 35.76)
    assert reset.y == reset.revenue * reset.probability - reset.cost


@pytest.mark.parametrize(("segment", "damage"), [*zip(SEGMENTS, (40.0, 35.76, 11.48, 22.72), strict=True)])
def test_damage_follows_the_segment(segment: str | None, damage: float) -> None:
    """The sensitivities of S12; owners of whom nothing is known feel all of it."""
    reset, _ = weighed(issued("tencent", segment=segment), shipped("tencent"))
    assert reset.user_damage == pytest.approx(damage)


def test_older_revisions_have_a_cost_without_parts() -> None:
    """`cost_minor` stands for the whole, and the answer to a recycle under it is what it was."""
    reset, _ = weighed(issued("tencent"), tencent(cost=None, cost_minor=100, priors=None, prior_weight=None))
    assert (reset.cost, reset.y) == (100.0, reset.revenue * 0.321 - 100)
    added = (reset.recycling_cost, reset.opportunity_cost, reset.user_damage, reset.prior, reset.probability_source)
    assert added == (None,) * 5


@pytest.mark.parametrize("costs", [{"cost": None}, {"cost_minor": 1}])
def test_cost_is_told_one_way(costs: dict[str, Any]) -> None:
    """Neither none nor two of them."""
    with pytest.raises(PolicyInvalid, match="cost or cost_minor"):
        tencent(**costs)


# P


@pytest.mark.parametrize(("segment", "prior"), [*zip(SEGMENTS, (0.321, 0.321, 0.612, 0.123), strict=True)])
def test_prior_is_the_segments(segment: str | None, prior: float) -> None:
    """Without a model P is the prior, S12's conversion potential where the segment is known, and the answer says so."""
    reset, cancel = weighed(issued("tencent", segment=segment), shipped("tencent"))
    assert (reset.probability, reset.prior, reset.probability_source) == (prior, prior, ProbabilitySource.PRIOR)
    assert (reset.model_probability, reset.support) == (None, None)
    assert (cancel.probability, cancel.probability_source) == (1.0, None)


def test_model_counts_by_what_it_has_learnt() -> None:
    """P = (n * model + k * prior) / (n + k)."""
    reset, _ = weighed(issued("tencent"), tencent(prior_weight=200), told(0.5, 600))
    assert reset.probability == pytest.approx((600 * 0.5 + 200 * 0.321) / 800)
    assert (reset.model_probability, reset.support) == (0.5, 600)
    assert reset.probability_source is ProbabilitySource.BLENDED


def test_unsupported_model_leaves_the_prior() -> None:
    """A model that has learnt of no such recycling is shown, and changes nothing."""
    reset, _ = weighed(issued("tencent"), shipped("tencent"), told(0.9, 0))
    assert (reset.probability, reset.probability_source) == (0.321, ProbabilitySource.PRIOR)
    assert (reset.model_probability, reset.support) == (0.9, 0)


def test_prior_without_weight_leaves_the_model_alone() -> None:
    """With k = 0 P is what the model says, as soon as it has learnt anything."""
    reset, _ = weighed(issued("tencent"), tencent(prior_weight=0), told(0.9, 1))
    assert (reset.probability, reset.probability_source) == (0.9, ProbabilitySource.MODEL)
    reset, _ = weighed(issued("tencent"), tencent(prior_weight=0), told(0.9, 0))
    assert (reset.probability, reset.probability_source) == (0.321, ProbabilitySource.PRIOR)


def test_model_has_no_say_where_the_policy_gives_it_none() -> None:
    """Revenue that is certain does not become a matter of conversion."""
    _, cancel = weighed(issued("tencent"), shipped("tencent"), told(0.1, 10_000, CANCEL))
    assert (cancel.probability, cancel.model_probability, cancel.probability_source) == (1.0, None, None)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**6))
def test_blend_nears_the_model_with_support(model: float, prior: float, weight: int, fewer: int, more: int) -> None:
    """The more the model has learnt the nearer P is to it, and it never leaves what lies between prior and model."""
    fewer, more = sorted((fewer, more))
    little, much = (blended(model, support, prior, weight) for support in (fewer, more))
    low, high = sorted((model, prior))
    slack = 1e-12
    assert low - slack <= little <= high + slack
    assert abs(much - model) <= abs(little - model) + slack
    assert blended(model, 0, prior, weight) == pytest.approx(prior)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_asked_is_only_what_may_change(platform: str) -> None:
    """A model is asked about dispositions whose probability it may tell better, and which are allowed."""
    asked = {"netflix": (CANCEL,), "iqiyi": (), "tencent": (RESET,)}
    assert uncertain(issued(platform), shipped(platform)) == asked[platform]
    renewed = issued("tencent", renewals_used=1)
    assert uncertain(renewed, shipped("tencent")) == ()


# The choice


@given(
    st.integers(1, 100_000),
    st.integers(1, 30 * 86_400),
    st.sampled_from(SEGMENTS),
    st.floats(0, 1),
    st.integers(0, 10_000),
)
def test_best_alternative_wins(face: int, unused_s: int, segment: str | None, model: float, support: int) -> None:
    """Whatever the card, the owner and the model: no allowed alternative is worth more than the one taken."""
    card = active(
        "tencent", unused=timedelta(seconds=unused_s), face_value_minor=face, paid_minor=face, segment=segment
    )
    account = Account(card)
    account.recycle(replace(LOW, conversions=told(model, support)))
    alternatives = account.recycling.decision.alternatives
    (taken,) = (each for each in alternatives if each.disposition is account.recycling.disposition)
    assert taken.allowed
    assert all(taken.y >= each.y - 1e-12 * max(1, each.revenue) for each in alternatives if each.allowed)


def test_first_listed_wins_among_equals() -> None:
    """Equal values leave the policy's own order."""
    one, other = weighed(issued("tencent"), shipped("tencent"))
    assert choose((replace(one, y=1.0), replace(other, y=1.0))) is RESET
    assert choose((replace(other, y=1.0), replace(one, y=1.0))) is CANCEL


@pytest.mark.parametrize(("face", "base"), [(700, 3), (2_200, 1_110), (2_700, 1_479), (5_700, 3_693)])
def test_equals_are_equal_whatever_the_rounding(face: int, base: int) -> None:
    """What comes to the same for a senior in decimals does not in doubles, which is no reason to take the other one."""
    card = issued("tencent", segment="SENIOR", face_value_minor=face, paid_minor=face)
    one, other = weigh(card, shipped("tencent"), replace(terms(card, shipped("tencent"), NOW), base_minor=base))
    assert one.y != other.y
    assert choose((one, other)) is RESET
    assert choose((other, one)) is CANCEL


@pytest.mark.parametrize(("segment", "disposition"), [*zip(SEGMENTS, (RESET, RESET, RESET, CANCEL), strict=True)])
def test_segment_decides_where_its_prior_does(segment: str | None, disposition: Disposition) -> None:
    """A fresh card of 2,999 is worth resetting unless its owner hardly ever pays again, which S12 says of seniors."""
    account = Account(issued("tencent", segment=segment))
    account.recycle()
    assert account.recycling.disposition is disposition


def test_model_can_turn_the_choice() -> None:
    """A model that knows better than the prior that nobody pays again has the card cancelled, and is named."""
    account = Account(issued("tencent"))
    account.recycle(replace(LOW, conversions=told(0.01, 5_000)))
    assert account.recycling.disposition is CANCEL
    assert account.recycling.decision.conversion_model_version == "c1"


# Quotes


def test_quote_holds_what_it_was_weighed_with() -> None:
    """Between quote and recycle the model changes its mind: the alternatives and the disposition stay as quoted."""
    account = Account(issued("tencent"))
    quote = account.quote(replace(LOW, conversions=told(0.9, 5_000)))
    assert quote.recycling is not None
    account.recycle(replace(LOW, conversions=told(0.01, 5_000)), quote_token=quote.quote_token)
    assert account.recycling.disposition is quote.recycling.disposition is RESET
    assert account.recycling.decision.alternatives == quote.recycling.decision.alternatives
    assert account.recycling.decision.conversion_model_version == "c1"


def test_quote_that_would_end_otherwise_is_stale() -> None:
    """Unused value runs down on an ACTIVE card: where that turns the choice within a quote, the quote does not hold."""
    card = active("tencent", unused=18 * DAY + timedelta(hours=12), paid_minor=398_000)
    nothing = tencent(revenue_basis_points=0, cost={"recycling_minor": 0})
    reset, cancel = nothing.dispositions
    worth = terms(card, nothing, NOW).base_minor // 10  # a tenth of the unused value is what cancelling brings
    policy = replace(nothing, dispositions=(reset, replace(cancel, cost=CostRule(recycling_minor=worth))))
    account = Account(card, policies={"tencent": policy})
    quote = account.quote()
    assert quote.recycling is not None and quote.recycling.disposition is CANCEL
    account.now += timedelta(minutes=4)
    with refused(Reason.QUOTE_STALE):
        account.recycle(quote_token=quote.quote_token)


def test_redeemed_quote_asks_no_model() -> None:
    """What the quote was told counts; asking again would be for nothing."""
    account = Account(issued("tencent"))
    command = Recycle(
        request_id=None, account_id=ACCOUNT_ID, card_id=CARD_ID, reason=own_reason(shipped("tencent")), dry_run=True
    )
    assert asked_of_model(command, account.snapshot(command)) == (RESET,)
    redeeming = replace(command, quote_token="1.x")
    assert asked_of_model(redeeming, account.snapshot(redeeming)) == ()
