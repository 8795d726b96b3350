"""The money-pump check against planted pumps, and against searching all that an account can do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from server.domain.compensation import terms
from server.domain.policy import Policy
from server.domain.pump import find_pump
from server.domain.recycling import Compensation, Unit
from server.store.policy_document import parse_policy
from tests.builders import NOW, PLATFORMS, document, issued, shipped

Bodies = dict[str, dict[str, Any]]


def bare(platform: str) -> dict[str, Any]:
    """A shipped policy without what its units can be used for."""
    return document(platform) | {"offers": [], "exchange": [], "face_value_per_day_min": 0}


def policies(bodies: Bodies) -> tuple[Policy, ...]:
    return tuple(parse_policy(json.dumps(body)) for body in bodies.values())


def way(unit: str, to: str, give: int, get: int, spread: int = 0) -> dict[str, Any]:
    """An exchange; `to` is "PLATFORM UNIT"."""
    platform, to_unit = to.split()
    return {
        "unit": unit, "to_platform": platform, "to_unit": to_unit, "give": give, "get": get,
        "spread_basis_points": spread, "amount_max": 10**12,
    }  # fmt: skip


def offer(unit: str, price: int, value: int) -> dict[str, Any]:
    benefit = {"kind": "COUPON", "value_minor": value, "basis_points": 5_000, "valid_days": 30}
    return {"offer_id": "a-coupon", "partner": "shop", "title": "A coupon", "unit": unit, "price": price,
            "benefit": benefit}  # fmt: skip


def test_the_shipped_policies_hold_water() -> None:
    """One by one and together."""
    assert find_pump(shipped(platform) for platform in PLATFORMS) is None


def coupon_worth_more_than_the_fee(bodies: Bodies) -> None:
    bodies["iqiyi"]["offers"] = [offer("COIN", 100, 101)]


def reactivation_without_clawback(bodies: Bodies) -> None:
    bodies["iqiyi"] |= {
        "fee_basis_points": 0,
        "compensation": bodies["netflix"]["compensation"],
        "segments": {},
        "pricing": None,
        "tiers": {},
    }


def points_earned_again_each_cycle(bodies: Bodies) -> None:
    bodies["tencent"]["compensation"]["renewed_card_earns"] = True


def premium_fee_against_a_segment_multiplier(bodies: Bodies) -> None:
    """0.92 x 1.05 = 0.966 is sound while a point is worth a coin, 0.98 x 1.05 is not."""
    bodies["iqiyi"]["pricing"] = None
    bodies["iqiyi"]["exchange"] = [way("GROWTH_POINT", "iqiyi COIN", 1, 1)]
    bodies["iqiyi"]["tiers"]["PREMIUM"]["fee_basis_points"] = 200


def exchange_rates_with_a_gaining_loop(bodies: Bodies) -> None:
    bodies["iqiyi"]["exchange"] = [way("GROWTH_POINT", "tencent GROWTH_POINT", 10, 11)]
    bodies["tencent"]["exchange"] = [way("GROWTH_POINT", "iqiyi GROWTH_POINT", 10, 10, 500)]


def a_loop_through_three_units(bodies: Bodies) -> None:
    bodies["iqiyi"]["exchange"] = [way("COIN", "netflix COIN", 1, 1), way("GROWTH_POINT", "iqiyi COIN", 10, 1)]
    bodies["netflix"]["exchange"] = [way("COIN", "iqiyi GROWTH_POINT", 1, 11)]


def points_of_cheap_cards(bodies: Bodies) -> None:
    """Without a least price a day, a card for nothing earns points that are worth something."""
    bodies["tencent"]["offers"] = [offer("GROWTH_POINT", 100, 1)]


def renewal_of_what_was_paid_for(bodies: Bodies) -> None:
    bodies["iqiyi"]["reactivation"] |= {"validity": "FULL", "renewals_max": 1}
    bodies["iqiyi"]["dispositions"].append(bodies["iqiyi"]["dispositions"][0] | {"disposition": "CANCEL"})


def another_currency(bodies: Bodies) -> None:
    bodies["iqiyi"]["exchange"] = [way("COIN", "netflix COIN", 1, 1)]
    bodies["netflix"]["currency"] = "USD"


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (coupon_worth_more_than_the_fee, "iqiyi COIN -> offer a-coupon (1 becomes 1.01)"),
        (
            reactivation_without_clawback,
            (
                "iqiyi card -> recycled for iqiyi COUPON -> reactivated, the coupon kept -> "
                "recycled for iqiyi COUPON again (without end)"
            ),
        ),
        (
            points_earned_again_each_cycle,
            (
                "used tencent card -> recycled for tencent GROWTH_POINT -> reactivated with its full validity -> "
                "recycled for tencent GROWTH_POINT again (without end)"
            ),
        ),
        (
            premium_fee_against_a_segment_multiplier,
            (
                "iqiyi PREMIUM card, MIDDLE segment -> recycled for iqiyi GROWTH_POINT -> exchanged for iqiyi COIN "
                "(1 becomes 1.029)"
            ),
        ),
        (
            exchange_rates_with_a_gaining_loop,
            (
                "iqiyi GROWTH_POINT -> exchanged for tencent GROWTH_POINT -> exchanged for iqiyi GROWTH_POINT "
                "(1 becomes 1.045)"
            ),
        ),
        (
            a_loop_through_three_units,
            (
                "iqiyi COIN -> exchanged for netflix COIN -> exchanged for iqiyi GROWTH_POINT -> "
                "exchanged for iqiyi COIN (1 becomes 1.1)"
            ),
        ),
        (
            points_of_cheap_cards,
            "tencent BASIC card, no segment -> recycled for tencent GROWTH_POINT -> offer a-coupon (without end)",
        ),
        (
            renewal_of_what_was_paid_for,
            (
                "used iqiyi card -> recycled for iqiyi COIN -> reactivated with its full validity -> "
                "recycled for iqiyi COIN again (without end)"
            ),
        ),
        (another_currency, "iqiyi COIN -> exchanged for netflix COIN, which is of another currency (without end)"),
    ],
)
def test_a_planted_pump_is_spelled_out(plant: Callable[[Bodies], None], words: str) -> None:
    """Each of the ways to gain is found, and named step by step."""
    bodies = {platform: bare(platform) for platform in PLATFORMS}
    plant(bodies)
    assert str(find_pump(policies(bodies))) == words


def test_a_margin_of_nothing_is_sound() -> None:
    """What comes out as it went in gains nobody anything."""
    bodies = {platform: bare(platform) for platform in PLATFORMS}
    bodies["iqiyi"]["exchange"] = [way("COIN", "tencent COIN", 1, 1)]
    bodies["tencent"]["exchange"] = [way("COIN", "iqiyi COIN", 1, 1)]
    bodies["iqiyi"]["offers"] = [offer("COIN", 100, 100)]
    assert find_pump(policies(bodies)) is None


def test_an_older_revision_counts() -> None:
    """A rate that another live revision has closes the loop of this one."""
    older, newer, other = bare("iqiyi"), bare("iqiyi"), bare("tencent")
    older["exchange"] = [way("COIN", "tencent COIN", 10, 11)]
    other["exchange"] = [way("COIN", "iqiyi COIN", 1, 1)]
    assert find_pump(policies({"new": newer, "other": other})) is None
    assert find_pump(policies({"old": older, "new": newer, "other": other})) is not None


def test_a_card_renewed_by_a_former_revision_must_not_earn() -> None:
    """What came back with its full validity under the old rules would be paid for again under the new."""
    former, new = shipped("tencent"), bare("tencent")
    new["compensation"]["renewed_card_earns"] = True
    new["reactivation"] |= {"validity": "AS_TAKEN"}
    (governs,) = policies({"new": new})
    assert find_pump([governs]) is None
    assert find_pump([governs], lingering=[former]) is not None


# Against searching all that an account can do

NAMES = ("one", "two")
HOLDINGS = tuple((platform, unit) for platform in NAMES for unit in (Unit.COIN, Unit.GROWTH_POINT))
MUCH = 10**15
"""So much is put in that rounding down hides no gain."""
STEPS_MAX = 5
"""A loop through all four units, and something bought."""

ratio = st.integers(1, 12)
ways = st.builds(
    lambda unit, to, give, get, spread: way(unit, f"{to[0]} {to[1]}", give, get, spread),
    st.sampled_from(["COIN", "GROWTH_POINT"]), st.sampled_from(HOLDINGS), ratio, ratio, st.sampled_from([0, 200, 3000]),
)  # fmt: skip
offers = st.builds(offer, st.sampled_from(["COIN", "GROWTH_POINT"]), ratio, ratio)


@st.composite
def policy_sets(draw: st.DrawFn) -> tuple[Policy, ...]:
    """Two platforms, one that refunds and one that pays by the day, with random rates."""
    bodies: Bodies = {}
    for name, model in zip(NAMES, ("iqiyi", "tencent"), strict=True):
        found = draw(st.lists(ways, max_size=2, unique_by=lambda w: (w["unit"], w["to_platform"], w["to_unit"])))
        body = document(model) | {"platform": name, "face_value_per_day_min": draw(st.integers(1, 20))}
        body["exchange"] = [w for w in found if (w["to_platform"], w["to_unit"]) != (name, w["unit"])]
        body["offers"] = draw(st.lists(offers, max_size=1))
        bodies[name] = body
    bodies["one"]["fee_basis_points"] = draw(st.sampled_from([0, 500, 1_000, 3_000]))
    bodies["one"]["tiers"] = {"PREMIUM": {"fee_basis_points": draw(st.sampled_from([0, 800]))}}
    return policies(bodies)


def best_value(policy_set: Mapping[str, Policy], holding: tuple[str, Unit], amount: int, steps: int) -> int:
    """The most that `amount` can be made into, in minor units, in so many steps."""
    platform, unit = holding
    best = amount if unit is Unit.COIN else 0
    if not steps or not amount:
        return best
    for deal in policy_set[platform].offers:
        if deal.unit is unit:
            best = max(best, amount // deal.price * deal.benefit.value_minor)
    for rate in policy_set[platform].exchange:
        if rate.unit is unit:
            there = (rate.to_platform, rate.to_unit)
            best = max(best, best_value(policy_set, there, rate.changed(amount), steps - 1))
    return best


def most_of(policy_set: Mapping[str, Policy], start: tuple[str, Unit]) -> int:
    """The most of `start` that can be come back to with, from MUCH of it."""
    held, most = {start: MUCH}, 0
    for _ in range(len(HOLDINGS)):
        further: dict[tuple[str, Unit], int] = {}
        for (platform, unit), amount in held.items():
            for rate in policy_set[platform].exchange:
                if rate.unit is unit:
                    there = (rate.to_platform, rate.to_unit)
                    further[there] = max(further.get(there, 0), rate.changed(amount))
        held, most = further, max(most, further.get(start, 0))
    return most


def payouts(policy: Policy) -> Iterator[tuple[int, Compensation]]:
    """What unused cards of the least price pay, for each tier, segment and unit, with that price."""
    days = 3_000
    price = max(policy.face_value_per_day_min, 1) * days
    for tier in ("BASIC", "PREMIUM"):
        for segment in (None, "YOUNG", "MIDDLE", "SENIOR"):
            for unit in Unit:
                own = policy.for_tier(tier)
                if own.share_of_unit(unit, segment) is None:
                    continue
                card = issued(
                    policy.platform, tier=tier, segment=segment, paid_minor=price, face_value_minor=price,
                    duration_days=days,
                )  # fmt: skip
                paid = terms(card, own, NOW, unit, bonus_basis_points=own.bonus_max_basis_points).compensation
                if paid is not None:
                    yield price, paid


def gains(policy_set: tuple[Policy, ...]) -> bool:
    """Whether some sequence of exchanges, offers, purchases and recycles makes more of what was put in."""
    by_name = {policy.platform: policy for policy in policy_set}
    if any(most_of(by_name, holding) > MUCH for holding in HOLDINGS):
        return True
    if any(best_value(by_name, h, MUCH, STEPS_MAX) > MUCH for h in HOLDINGS if h[1] is Unit.COIN):
        return True
    scale = 10**9  # so many cards at once: rounding down hides nothing
    return any(
        best_value(by_name, (policy.platform, paid.unit), paid.amount * scale, STEPS_MAX) > price * scale
        for policy in policy_set
        for price, paid in payouts(policy)
    )


@settings(max_examples=150, deadline=None)
@given(policy_sets())
def test_the_check_agrees_with_searching(policy_set: tuple[Policy, ...]) -> None:
    """A policy set is refused exactly when searching all that an account can do finds a gain."""
    pump = find_pump(policy_set)
    event("pumpable" if pump else "sound")
    assert (pump is not None) == gains(policy_set), pump
