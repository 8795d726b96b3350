"""Money, as properties: nothing is gained by splitting, by repeating or by any order of commands."""

from datetime import timedelta
from fractions import Fraction
from math import ceil, floor
from uuid import UUID

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from server.domain.card import DAY, Card, CardState, VoidReason
from server.domain.compensation import terms
from server.domain.errors import Reason, Refusal
from server.domain.policy import (
    CompensationKind,
    CompensationRule,
    DispositionRule,
    Policy,
    ReactivationRule,
    RestoredValidity,
    RevenueBasis,
    RiskRule,
    Trigger,
)
from server.domain.pump import find_pump
from server.domain.recycling import CompensationState, DegradedMode, Disposition, RecycleReason, Unit
from tests.builders import MICROSECOND, NOW, PLATFORMS, Account, active, issued, own_reason, refused, shipped

AMOUNT_MAX = 10**12

amounts = st.integers(0, AMOUNT_MAX) | st.integers(0, 5_000)
days = st.integers(1, 3_660) | st.integers(1, 40)


@st.composite
def unused_times(draw: st.DrawFn, duration_days: int) -> timedelta:
    """A validity left of a card of so many days, from one microsecond to all of it."""
    return draw(st.integers(1, duration_days * DAY // MICROSECOND)) * MICROSECOND


def payout(card: Card, policy: Policy) -> int:
    """What recycling `card` at NOW pays, a coupon at its cap."""
    compensation = terms(card, policy, NOW).compensation
    if compensation is None:
        return 0
    return compensation.max_discount_minor or compensation.amount


@given(st.data(), amounts, days)
def test_amounts_are_exact(data: st.DataObject, paid: int, duration: int) -> None:
    """Base, fee and payout are those of exact fractions, up to 10^12 minor units."""
    unused = data.draw(unused_times(duration))
    price = terms(active("iqiyi", unused=unused, duration_days=duration, paid_minor=paid), shipped("iqiyi"), NOW)
    base = floor(paid * Fraction(unused // MICROSECOND, duration * DAY // MICROSECOND))
    assert price.base_minor == base
    assert price.fee_minor == ceil(Fraction(base, 10))
    assert (price.compensation.amount if price.compensation else 0) == base - ceil(Fraction(base, 10))


@given(st.data(), amounts, days)
def test_fee_and_coins_never_exceed_the_base(data: st.DataObject, paid: int, duration: int) -> None:
    """What the owner gets and what the platform keeps come out of the paid value of the unused time."""
    unused = data.draw(unused_times(duration))
    price = terms(active("iqiyi", unused=unused, duration_days=duration, paid_minor=paid), shipped("iqiyi"), NOW)
    coins = price.compensation.amount if price.compensation else 0
    assert price.fee_minor >= 0
    assert price.fee_minor + coins <= price.base_minor <= paid


@pytest.mark.parametrize("platform", PLATFORMS)
@given(data=st.data(), paid=amounts, duration=days)
def test_amount_lies_between_one_and_the_cap(platform: str, data: st.DataObject, paid: int, duration: int) -> None:
    """There is no compensation of 0, and none above the policy's cap."""
    policy = shipped(platform)
    compensation = terms(
        active(platform, unused=data.draw(unused_times(duration)), duration_days=duration, paid_minor=paid), policy, NOW
    ).compensation
    if compensation is not None:
        assert 1 <= compensation.amount <= policy.compensation.amount_max


@pytest.mark.parametrize("platform", PLATFORMS)
@given(data=st.data(), paid=amounts, duration=days)
def test_less_unused_time_never_pays_more(platform: str, data: st.DataObject, paid: int, duration: int) -> None:
    """Waiting never raises the price of a card."""
    early, late = sorted(data.draw(st.tuples(unused_times(duration), unused_times(duration))), reverse=True)
    cards = [active(platform, unused=unused, duration_days=duration, paid_minor=paid) for unused in (early, late)]
    assert payout(cards[0], shipped(platform)) >= payout(cards[1], shipped(platform))


@pytest.mark.parametrize("platform", ["netflix", "iqiyi"])
@given(data=st.data(), duration=days, parts=st.lists(st.integers(0, 10**10), min_size=1, max_size=20))
def test_splitting_a_price_never_gains(platform: str, data: st.DataObject, duration: int, parts: list[int]) -> None:
    """Many cheap cards never pay more than the one dear card that costs as much."""
    unused = data.draw(unused_times(duration))
    policy = shipped(platform)
    many = [active(platform, unused=unused, duration_days=duration, paid_minor=part) for part in parts]
    one = active(platform, unused=unused, duration_days=duration, paid_minor=sum(parts))
    assert sum(payout(card, policy) for card in many) <= payout(one, policy)


@given(st.data(), st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_splitting_a_validity_never_gains(data: st.DataObject, parts: list[int]) -> None:
    """Many short cards never earn more points than the one long card with as much unused time."""
    policy = shipped("tencent")
    times = [data.draw(unused_times(part)) for part in parts]
    many = [active("tencent", unused=unused, duration_days=part) for unused, part in zip(times, parts, strict=True)]
    one = active("tencent", unused=sum(times, timedelta()), duration_days=sum(parts))
    assert sum(payout(card, policy) for card in many) <= payout(one, policy)


@given(st.data(), amounts, days)
def test_price_holds_until_its_change_time(data: st.DataObject, paid: int, duration: int) -> None:
    """`change_time` is the very microsecond at which the price steps, not one earlier or later."""
    platform = data.draw(st.sampled_from(["iqiyi", "tencent"]))
    card = active(platform, unused=data.draw(unused_times(duration)), duration_days=duration, paid_minor=paid)
    price = terms(card, shipped(platform), NOW)
    if price.change_time is None:
        assert price.compensation is None
        return
    before = terms(card, shipped(platform), price.change_time - MICROSECOND)
    assert (before.fee_minor, before.compensation) == (price.fee_minor, price.compensation)
    if price.compensation is not None:
        after = terms(card, shipped(platform), price.change_time)
        assert (after.fee_minor, after.compensation) != (price.fee_minor, price.compensation)


@given(st.data(), st.sampled_from(["iqiyi", "tencent"]), amounts, days, st.booleans(), st.integers(0, 179))
def test_recycling_again_never_pays_more(
    data: st.DataObject, platform: str, paid: int, duration: int, settles: bool, days_away: int
) -> None:
    """Recycle, settle or not, reactivate, recycle: the second time pays at most the first, and nothing else is left."""
    account = Account(
        active(
            platform,
            unused=data.draw(unused_times(duration)),
            duration_days=duration,
            paid_minor=paid,
            face_value_minor=AMOUNT_MAX,
        )
    )
    account.recycle()
    first = account.recycling.compensation
    if settles and first is not None:
        account.compensate()
    account.now += days_away * DAY
    account.reactivate()
    assert account.wallet.balances == ()
    account.recycle()
    second = account.recycling.compensation
    assert (second.amount if second else 0) <= (first.amount if first else 0)


def test_amount_just_above_the_cap_is_refused() -> None:
    """The cap itself is paid, one unit more is LIMIT_EXCEEDED."""
    rule = CompensationRule(kind=CompensationKind.REFUND, unit=Unit.COIN, amount_max=90)
    policy = sound_policy(compensation=rule, fee_basis_points=1_000)
    assert payout(issued(paid_minor=100), policy) == 90
    with refused(Reason.LIMIT_EXCEEDED):
        terms(issued(paid_minor=102), policy, NOW)


# Any order of commands, any policy


def sound_policy(**changes: object) -> Policy:
    """A policy of a platform of its own. Raises ValueError where `changes` make it unsound."""
    fields: dict[str, object] = {
        "platform": "fourth",
        "currency": "CNY",
        "trigger": Trigger(
            reasons=(RecycleReason.VOLUNTARY,), card_states=(CardState.ISSUED, CardState.ACTIVE, CardState.EXPIRED)
        ),
        "fee_basis_points": 0,
        "compensation": CompensationRule(kind=CompensationKind.REFUND, unit=Unit.COIN, amount_max=AMOUNT_MAX),
        "dispositions": (
            DispositionRule(
                disposition=Disposition.VOUCHER,
                revenue_basis=RevenueBasis.FACE_VALUE,
                revenue_basis_points=0,
                probability=1.0,
                cost_minor=0,
            ),
        ),
        "reactivation": ReactivationRule(
            dispositions=(Disposition.VOUCHER,), window_days=180, validity=RestoredValidity.AS_TAKEN
        ),
        "settle_after_days": 0,
        "risk": RiskRule(never_refused_reasons=(), without_score=DegradedMode.REJECT),
    }
    return Policy(**(fields | changes))  # type: ignore[arg-type]


UNITS = {
    CompensationKind.REFUND: [Unit.COIN],
    CompensationKind.PER_UNUSED_DAY: [Unit.COIN, Unit.GROWTH_POINT],
    CompensationKind.DISCOUNT: [Unit.COUPON],
}


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """A policy that the domain accepts."""
    kind = draw(st.sampled_from(CompensationKind))
    rule = CompensationRule(
        kind=kind,
        unit=draw(st.sampled_from(UNITS[kind])),
        amount_max=AMOUNT_MAX,
        amount_per_day=draw(st.integers(1, 20)),
        renewed_card_earns=draw(st.booleans()),
        basis_points=draw(st.integers(1, 10_000)),
        valid_days=draw(st.integers(1, 90)),
    )
    offered = draw(st.lists(st.sampled_from(Disposition), min_size=1, unique=True))
    waiting = tuple(disposition for disposition in offered if disposition is not Disposition.CANCEL)
    reactivation = None
    if waiting and kind is not CompensationKind.DISCOUNT:
        reactivation = ReactivationRule(
            dispositions=waiting,
            window_days=draw(st.integers(1, 60)),
            validity=draw(st.sampled_from(RestoredValidity)),
            renewals_max=draw(st.integers(0, 3)),
        )
    try:
        policy = sound_policy(
            compensation=rule,
            fee_basis_points=draw(st.sampled_from([0, 1_000])) if kind is CompensationKind.REFUND else 0,
            dispositions=tuple(
                DispositionRule(
                    disposition=disposition,
                    revenue_basis=draw(st.sampled_from(RevenueBasis)),
                    revenue_basis_points=draw(st.integers(0, 10_000)),
                    probability=draw(st.floats(0, 1)),
                    cost_minor=draw(st.integers(0, 100)),
                )
                for disposition in offered
            ),
            reactivation=reactivation,
        )
    except ValueError:
        reject()
    assume(find_pump([policy]) is None)
    return policy


def value(account: Account) -> int:
    """The wallet, what is pending, and what each card at hand would pay now, or later for a card not activated."""
    total = sum(balance.amount for balance in account.wallet.balances if balance.unit is not Unit.COUPON)
    total += sum(coupon.max_discount_minor for coupon in account.wallet.coupons)
    for recycling in account.recyclings.values():
        owed = recycling.compensation
        if owed is not None and owed.state is CompensationState.PENDING:
            total += owed.max_discount_minor or owed.amount
    for card in account.cards.values():
        if card.state in (CardState.ISSUED, CardState.ACTIVE):
            compensation = terms(card, account.policies[card.platform], account.now).compensation
            if compensation is not None:
                total += compensation.max_discount_minor or compensation.amount
    return total


STEPS = ("recycle", "reactivate", "compensate", "wait", "recycle", "reactivate", "activate", "void")


def take_step(data: st.DataObject, account: Account, step: str) -> None:
    """Tries one command on any card of the account or its live recycling, or lets time pass."""
    card = data.draw(st.sampled_from(list(account.cards.values())))
    recycling = account.recyclings.get(card.live_recycling_id) if card.live_recycling_id else None
    try:
        match step:
            case "activate":
                account.activate(card=card)
            case "recycle":
                account.recycle(card=card, reason=own_reason(account.policies[card.platform]))
            case "compensate" if recycling is not None:
                account.compensate(recycling=recycling)
            case "reactivate" if recycling is not None:
                account.reactivate(recycling=recycling)
            case "void":
                account.void(data.draw(st.sampled_from(VoidReason)), card=card)
            case "wait":
                account.now += data.draw(st.sampled_from([MICROSECOND, DAY, 7 * DAY, 31 * DAY]))
    except Refusal:
        pass


def never_gains(data: st.DataObject, account: Account) -> None:
    """Takes any steps, and watches the account's value."""
    before = value(account)
    for step in data.draw(st.lists(st.sampled_from(STEPS), min_size=5, max_size=25)):
        take_step(data, account, step)
        after = value(account)
        assert after <= before, f"{step} gained"
        assert all(balance.amount >= 0 for balance in account.wallet.balances)
        before = after


@given(st.data())
def test_no_order_of_commands_gains_on_the_shipped_policies(data: st.DataObject) -> None:
    """Whatever an account does with its cards, its value never rises and no balance falls below zero."""
    never_gains(
        data,
        Account(
            *(
                issued(platform, card_id=UUID(int=number), paid_minor=data.draw(st.integers(0, 5_000)))
                for number, platform in enumerate(data.draw(st.lists(st.sampled_from(PLATFORMS), min_size=1)))
            )
        ),
    )


@given(st.data(), policies())
def test_no_order_of_commands_gains_on_any_sound_policy(data: st.DataObject, policy: Policy) -> None:
    """No policy that the domain and the pump check accept lets an account's value rise."""
    never_gains(
        data,
        Account(
            issued("fourth", card_id=UUID(int=1), activate_by_time=data.draw(st.none() | st.just(NOW + DAY))),
            active("fourth", card_id=UUID(int=2), unused=data.draw(st.sampled_from([-DAY, DAY, 29 * DAY]))),
            policies={"fourth": policy},
        ),
    )


@pytest.mark.parametrize(
    "card",
    [issued(activate_by_time=NOW - DAY, platform="fourth"), active("fourth", unused=-DAY)],
    ids=["issued", "active"],
)
def test_expired_card_comes_back_expired(card: Card) -> None:
    """Where a policy takes expired cards and gives them back as taken, the wait did not renew anything."""
    account = Account(card, policies={"fourth": sound_policy()})
    account.recycle()
    account.now += DAY
    account.reactivate()
    assert account.card.state_at(account.now) is CardState.EXPIRED
    assert account.card.unused_at(account.now) == timedelta(0)
    assert account.card.state is card.state
    assert (account.card.activate_time is None) == (account.card.state is CardState.ISSUED)
