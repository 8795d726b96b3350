"""The three shipped policies, by the letter: boundaries to the microsecond, amounts to the unit."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from server.domain.card import DAY, Card, CardEventKind, CardState, VoidReason
from server.domain.commands import Activate, Compensate, Reactivate, Recycle, Void
from server.domain.errors import Reason
from server.domain.outcome import OutcomeKind
from server.domain.recycling import (
    Compensation,
    CompensationState,
    DegradedMode,
    Disposition,
    Priority,
    RecycleReason,
    RecyclingState,
    RiskBand,
    Unit,
)
from server.domain.snapshot import Score
from tests.builders import (
    ACCOUNT_ID,
    CARD_ID,
    HIGH,
    LOW,
    MEDIUM,
    MICROSECOND,
    NOW,
    PLATFORMS,
    Account,
    active,
    issued,
    refused,
    scored,
    shipped,
)

UNKNOWN_ID = UUID(int=1)


def takeable(platform: str) -> Card:
    """A card that its platform takes back at NOW."""
    unused = -30 * DAY if platform == "netflix" else 18 * DAY
    return active(platform, unused=unused)


def coins(amount: int) -> Compensation:
    return Compensation(unit=Unit.COIN, amount=amount, state=CompensationState.PENDING)


def points(amount: int) -> Compensation:
    return Compensation(unit=Unit.GROWTH_POINT, amount=amount, state=CompensationState.PENDING)


# The worked examples


def test_iqiyi_pays_the_worked_example() -> None:
    """2,999 for 30 days, activated 12 days ago: a fee of 180 and 1,619 coins."""
    account = Account(active("iqiyi", unused=18 * DAY, paid_minor=2_999))
    account.recycle()
    assert account.recycling.fee_minor == 180
    assert account.compensation == coins(1_619)


def test_tencent_pays_the_worked_example() -> None:
    """30 d 23 h 59 m unused of 31 days are 30 whole days: 300 points, and no fee."""
    account = Account(active("tencent", unused=31 * DAY - timedelta(minutes=1), duration_days=31))
    account.recycle()
    assert account.recycling.fee_minor == 0
    assert account.compensation == points(300)


def test_netflix_pays_the_worked_example() -> None:
    """Paid 1,990: one coupon of 5 %, good for 90 days and at most 99 off, and no money."""
    account = Account(active("netflix", unused=-30 * DAY, paid_minor=1_990))
    account.recycle()
    assert account.recycling.fee_minor == 0
    assert account.compensation == Compensation(
        unit=Unit.COUPON,
        amount=1,
        state=CompensationState.PENDING,
        basis_points=500,
        expire_time=NOW + 90 * DAY,
        max_discount_minor=99,
    )


# Who may trigger what


def test_netflix_refuses_a_microsecond_too_early() -> None:
    """The wait of 30 days after expiry is not over until it is."""
    account = Account(active("netflix", unused=-30 * DAY + MICROSECOND))
    with refused(Reason.TRIGGER_NOT_ALLOWED):
        account.recycle()


def test_netflix_takes_a_card_exactly_after_thirty_days() -> None:
    """The bound itself belongs to the time after."""
    account = Account(active("netflix", unused=-30 * DAY))
    account.recycle()
    assert account.recycling.state is RecyclingState.APPROVED


def test_netflix_takes_an_expired_card_however_late() -> None:
    """There is no end to the time in which an expired card is taken."""
    account = Account(active("netflix", unused=-3_000 * DAY))
    account.recycle()
    assert account.recycling.prior_state is CardState.EXPIRED


def test_expiry_follows_the_clock_and_not_a_sweeper() -> None:
    """At its expire_time a card is EXPIRED, a microsecond before it is not, whatever its row says."""
    card = active("iqiyi", unused=timedelta(0))
    assert card.state is CardState.ACTIVE
    with refused(Reason.CARD_STATE_INVALID):
        Account(card).recycle()
    assert card.state_at(NOW - MICROSECOND) is CardState.ACTIVE


def test_unactivated_card_past_its_bound_is_expired() -> None:
    """An ISSUED card can no longer be activated or handed back voluntarily from activate_by_time on."""
    account = Account(issued("iqiyi", activate_by_time=NOW))
    with refused(Reason.CARD_STATE_INVALID):
        account.recycle()
    with refused(Reason.CARD_STATE_INVALID):
        account.activate()


@pytest.mark.parametrize(
    ("platform", "own"),
    [
        ("netflix", RecycleReason.EXPIRED),
        ("iqiyi", RecycleReason.VOLUNTARY),
        ("tencent", RecycleReason.SYSTEM_ANOMALY),
    ],
)
def test_platform_recycles_for_its_own_reason_only(platform: str, own: RecycleReason) -> None:
    """One reason is accepted, each other one is TRIGGER_NOT_ALLOWED."""
    for reason in set(RecycleReason) - {own}:
        with refused(Reason.TRIGGER_NOT_ALLOWED):
            Account(takeable(platform)).recycle(reason=reason)
    account = Account(takeable(platform))
    account.recycle(reason=own)
    assert account.recycling.reason is own


@pytest.mark.parametrize("platform", ["iqiyi", "tencent"])
def test_issued_card_is_taken_with_all_its_validity(platform: str) -> None:
    """All of an ISSUED card's duration is unused."""
    account = Account(issued(platform))
    account.recycle()
    assert account.recycling.prior_state is CardState.ISSUED
    assert account.recycling.unused == 30 * DAY
    assert account.compensation == (coins(2_699) if platform == "iqiyi" else points(300))


@pytest.mark.parametrize("card", [issued("netflix"), active("netflix", unused=DAY)])
def test_netflix_takes_expired_cards_only(card: Card) -> None:
    """A card with validity left is in the wrong state there."""
    with refused(Reason.CARD_STATE_INVALID):
        Account(card).recycle()


@pytest.mark.parametrize("platform", ["iqiyi", "tencent"])
def test_expired_card_is_taken_by_netflix_only(platform: str) -> None:
    """The other two do not take a card whose validity has run out."""
    with refused(Reason.CARD_STATE_INVALID):
        Account(active(platform, unused=-30 * DAY)).recycle()


@pytest.mark.parametrize(
    ("platform", "priority"),
    [("netflix", Priority.PERSON), ("iqiyi", Priority.PERSON), ("tencent", Priority.ANOMALY)],
)
def test_priority_follows_the_reason(platform: str, priority: Priority) -> None:
    """Anomalies come before what people ask for, whatever their reason."""
    account = Account(takeable(platform))
    account.recycle()
    assert account.recycling.priority is priority


# The order of the checks


def test_unknown_card_speaks_before_everything() -> None:
    """Existence comes first: the reason given does not matter then."""
    command = Recycle(
        request_id=UNKNOWN_ID, account_id=ACCOUNT_ID, card_id=UNKNOWN_ID, reason=RecycleReason.EXPIRED, quote_token="x"
    )
    with refused(Reason.CARD_NOT_FOUND):
        Account(takeable("iqiyi")).run(command, HIGH)


def test_state_speaks_before_the_trigger() -> None:
    """A card in the wrong state handed back for the wrong reason is in the wrong state."""
    with refused(Reason.CARD_STATE_INVALID):
        Account(active("netflix", unused=DAY)).recycle(reason=RecycleReason.VOLUNTARY)


def test_trigger_speaks_before_risk() -> None:
    """A wrong reason is an error even for a request that risk would refuse, and leaves no rejected recycling."""
    account = Account(takeable("iqiyi"))
    with refused(Reason.TRIGGER_NOT_ALLOWED):
        account.recycle(HIGH, reason=RecycleReason.SYSTEM_ANOMALY)
    assert not account.recyclings


def test_trigger_speaks_before_a_missing_score() -> None:
    """Without a score a wrong reason is still a wrong reason."""
    with refused(Reason.TRIGGER_NOT_ALLOWED):
        Account(takeable("iqiyi")).recycle(None, reason=RecycleReason.EXPIRED)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_second_recycle_finds_the_card_recycled_already(platform: str) -> None:
    """Whatever became of the card, recycling it again is CARD_ALREADY_RECYCLED."""
    account = Account(takeable(platform))
    account.recycle()
    with refused(Reason.CARD_ALREADY_RECYCLED):
        account.recycle()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_voided_card_is_in_the_wrong_state(platform: str) -> None:
    """A card that ended outside of recycling was not recycled: CARD_STATE_INVALID."""
    account = Account(takeable(platform))
    account.void()
    with refused(Reason.CARD_STATE_INVALID):
        account.recycle()


def test_already_recycled_speaks_before_the_trigger() -> None:
    """A recycled card is that, whatever reason comes with the second request."""
    account = Account(takeable("iqiyi"))
    account.recycle()
    with refused(Reason.CARD_ALREADY_RECYCLED):
        account.recycle(reason=RecycleReason.EXPIRED)


def test_unit_that_the_policy_does_not_pay_is_a_wrong_field() -> None:
    """Only the policy's own unit may be asked for."""
    account = Account(takeable("iqiyi"))
    with refused(Reason.FIELD_INVALID):
        account.recycle(unit=Unit.GROWTH_POINT)
    account.recycle(unit=Unit.COIN)
    assert account.compensation.unit is Unit.COIN


# Amounts


@pytest.mark.parametrize(
    ("unused", "amount"),
    [
        (30 * DAY, 300),
        (30 * DAY - MICROSECOND, 290),
        (DAY, 10),
        (DAY + MICROSECOND, 10),
        (2 * DAY - MICROSECOND, 10),
    ],
)
def test_tencent_counts_whole_unused_days(unused: timedelta, amount: int) -> None:
    """A day that has begun is not unused."""
    account = Account(active("tencent", unused=unused))
    account.recycle()
    assert account.compensation == points(amount)


def test_tencent_pays_nothing_for_less_than_a_day() -> None:
    """Zero points mean no compensation at all; the card is taken all the same."""
    account = Account(active("tencent", unused=DAY - MICROSECOND))
    account.recycle()
    assert account.recycling.state is RecyclingState.APPROVED
    assert account.recycling.compensation is None


@pytest.mark.parametrize(
    ("paid", "fee", "amount"),
    [(10, 1, 9), (11, 2, 9), (19, 2, 17), (20, 2, 18), (21, 3, 18), (2, 1, 1)],
)
def test_iqiyi_rounds_the_fee_up(paid: int, fee: int, amount: int) -> None:
    """10 % of the base, and any fraction of a minor unit is the platform's."""
    account = Account(issued("iqiyi", paid_minor=paid))
    account.recycle()
    assert account.recycling.fee_minor == fee
    assert account.compensation == coins(amount)


def test_iqiyi_rounds_the_base_down() -> None:
    """A microsecond less than half of the validity is worth less than half of the price."""
    half = active("iqiyi", unused=15 * DAY, paid_minor=1_000)
    less = active("iqiyi", unused=15 * DAY - MICROSECOND, paid_minor=1_000)
    for card, amount, fee in ((half, 450, 50), (less, 449, 50)):
        account = Account(card)
        account.recycle()
        assert account.compensation == coins(amount)
        assert account.recycling.fee_minor == fee


@pytest.mark.parametrize("paid", [0, 1])
def test_iqiyi_pays_nothing_where_the_fee_eats_it(paid: int) -> None:
    """A free card, and one whose whole base is the fee, earn no compensation."""
    account = Account(issued("iqiyi", paid_minor=paid))
    account.recycle()
    assert account.recycling.compensation is None
    assert account.recycling.fee_minor == paid


def test_payout_derives_from_the_price_paid() -> None:
    """The face value of a discounted card plays no part in what its owner gets."""
    account = Account(issued("iqiyi", face_value_minor=10_000, paid_minor=1_000))
    account.recycle()
    assert account.compensation == coins(900)


@pytest.mark.parametrize(("paid", "cap"), [(20, 1), (39, 1), (40, 2), (1_999, 99), (2_000, 100)])
def test_netflix_rounds_the_cap_down(paid: int, cap: int) -> None:
    """The coupon takes off at most 5 % of what was paid, floored."""
    account = Account(active("netflix", unused=-30 * DAY, paid_minor=paid))
    account.recycle()
    assert account.compensation.max_discount_minor == cap


@pytest.mark.parametrize("paid", [0, 19])
def test_netflix_gives_no_coupon_that_takes_nothing_off(paid: int) -> None:
    """A cap of 0 means no compensation."""
    account = Account(active("netflix", unused=-30 * DAY, paid_minor=paid))
    account.recycle()
    assert account.recycling.compensation is None


def test_amount_above_the_cap_is_refused() -> None:
    """A recycle that would pay more than the policy's amount_max is LIMIT_EXCEEDED."""
    account = Account(issued("iqiyi", paid_minor=2 * 10**12, face_value_minor=2 * 10**12))
    with refused(Reason.LIMIT_EXCEEDED):
        account.recycle()


# Dispositions


@pytest.mark.parametrize(
    ("platform", "disposition", "state"),
    [
        ("netflix", Disposition.CANCEL, CardState.VOID),
        ("iqiyi", Disposition.VOUCHER, CardState.RECYCLED),
        ("tencent", Disposition.RESET_VALIDITY, CardState.RECYCLED),
    ],
)
def test_disposition_decides_the_card(platform: str, disposition: Disposition, state: CardState) -> None:
    """CANCEL ends the card at once; the others leave it waiting."""
    account = Account(takeable(platform))
    change = account.recycle()
    assert account.recycling.disposition is disposition
    assert account.card.state is state
    assert account.card.live_recycling_id == account.recycling.recycling_id
    assert change.card_event is CardEventKind.RECYCLED


def test_tencent_takes_the_disposition_of_greater_value() -> None:
    """Cheap cards are cancelled, dear ones reset; both values are shown."""
    cheap, dear = Account(issued("tencent", face_value_minor=600, paid_minor=600)), Account(issued("tencent"))
    cheap.recycle()
    dear.recycle()
    assert cheap.recycling.disposition is Disposition.CANCEL
    assert dear.recycling.disposition is Disposition.RESET_VALIDITY
    for account in (cheap, dear):
        values = {a.disposition: a.y for a in account.recycling.decision.alternatives}
        assert len(values) == 2
        assert max(values, key=values.__getitem__) is account.recycling.disposition


def test_expected_value_is_revenue_times_probability_less_cost() -> None:
    """Y = R * P - C, in minor units, from the policy's own numbers."""
    account = Account(issued("tencent", face_value_minor=3_000, paid_minor=2_000))
    account.recycle()
    reset, cancel = account.recycling.decision.alternatives
    assert (reset.revenue, reset.probability, reset.cost) == (1_800.0, 0.321, 100.0)
    assert reset.y == pytest.approx(1_800 * 0.321 - 100)
    assert (cancel.revenue, cancel.probability, cancel.cost, cancel.y) == (200.0, 1.0, 40.0, 160.0)


# Reactivation


def test_netflix_never_reactivates() -> None:
    """Its cards are cancelled for good: REACTIVATION_NOT_ALLOWED."""
    account = Account(takeable("netflix"))
    account.recycle()
    with refused(Reason.REACTIVATION_NOT_ALLOWED):
        account.reactivate()


@pytest.mark.parametrize("platform", ["iqiyi", "tencent"])
@pytest.mark.parametrize("after", [timedelta(0), 180 * DAY - MICROSECOND])
def test_card_comes_back_within_the_window(platform: str, after: timedelta) -> None:
    """From the recycle itself up to 180 days after it, the end excluded."""
    account = Account(takeable(platform))
    account.recycle()
    account.now += after
    account.reactivate()
    assert account.card.state is CardState.ACTIVE
    assert account.recycling.state is RecyclingState.REVERSED


@pytest.mark.parametrize("platform", ["iqiyi", "tencent"])
@pytest.mark.parametrize("after", [180 * DAY, 1_000 * DAY])
def test_window_closes(platform: str, after: timedelta) -> None:
    """180 days after the recycle the card is lost: REACTIVATION_WINDOW_CLOSED."""
    account = Account(takeable(platform))
    account.recycle()
    account.now += after
    with refused(Reason.REACTIVATION_WINDOW_CLOSED):
        account.reactivate()


def test_iqiyi_gives_an_active_card_back_as_it_was() -> None:
    """State and unused time to the microsecond; no renewal is used, and the next generation begins."""
    unused = 18 * DAY + timedelta(hours=5, microseconds=7)
    before = active("iqiyi", unused=unused)
    account = Account(before)
    account.recycle()
    account.now += 100 * DAY + timedelta(microseconds=3)
    account.reactivate()
    assert account.card.state_at(account.now) is CardState.ACTIVE
    assert account.card.unused_at(account.now) == unused
    assert account.card.activate_time == before.activate_time
    assert (account.card.generation, account.card.renewals_used) == (2, 0)
    assert account.card.live_recycling_id is None


@pytest.mark.parametrize("time_left", [None, 5 * DAY])
def test_iqiyi_gives_an_issued_card_back_as_it_was(time_left: timedelta | None) -> None:
    """Still ISSUED, with all its validity, and as much time to activate it as was left."""
    account = Account(issued("iqiyi", activate_by_time=time_left and NOW + time_left))
    account.recycle()
    account.now += 90 * DAY
    account.reactivate()
    assert account.card.state_at(account.now) is CardState.ISSUED
    assert account.card.unused_at(account.now) == 30 * DAY
    assert account.card.activate_by_time == (time_left and account.now + time_left)
    assert (account.card.activate_time, account.card.expire_time) == (None, None)


def test_restored_card_can_be_recycled_again() -> None:
    """A new generation is as good as the first, and pays the same for the same unused time."""
    account = Account(active("iqiyi", unused=18 * DAY))
    account.recycle()
    first = account.compensation
    account.reactivate()
    account.recycle()
    assert account.compensation == first
    assert account.recycling.generation == 2


@pytest.mark.parametrize("card", [issued("tencent"), active("tencent", unused=3 * DAY)])
def test_tencent_gives_the_full_duration_from_now(card: Card) -> None:
    """The card is ACTIVE with all its days from the reactivation on, and one renewal is used."""
    account = Account(card)
    account.recycle()
    account.now += 40 * DAY
    account.reactivate()
    assert account.card.state is CardState.ACTIVE
    assert account.card.expire_time == account.now + 30 * DAY
    assert (account.card.generation, account.card.renewals_used) == (2, 1)


def test_renewed_generation_earns_no_points() -> None:
    """The days that a renewal gave are not paid for."""
    account = Account(issued("tencent"))
    account.recycle()
    account.reactivate()
    account.recycle()
    assert account.recycling.state is RecyclingState.APPROVED
    assert account.recycling.compensation is None


def test_second_renewal_is_exhausted() -> None:
    """Validity is renewed once in a card's life, over all its generations."""
    account = Account(issued("tencent"))
    account.recycle()
    account.reactivate()
    account.recycle()
    with refused(Reason.RENEWALS_EXHAUSTED):
        account.reactivate()


def test_renewed_card_is_cancelled_next_time() -> None:
    """What cannot be renewed again is not offered a reset; the decision says why."""
    account = Account(issued("tencent"))
    account.recycle()
    account.reactivate()
    account.recycle()
    reset = account.recycling.decision.alternatives[0]
    assert (reset.disposition, reset.allowed) == (Disposition.RESET_VALIDITY, False)
    assert reset.why
    assert account.recycling.disposition is Disposition.CANCEL
    assert account.card.state is CardState.VOID


def test_cancelled_tencent_card_does_not_come_back() -> None:
    """Only a reset can be undone; a card cancelled in its first generation has renewals left and still does not."""
    account = Account(issued("tencent", face_value_minor=600, paid_minor=600))
    account.recycle()
    assert account.recycling.disposition is Disposition.CANCEL
    with refused(Reason.REACTIVATION_NOT_ALLOWED):
        account.reactivate()


def test_unknown_recycling_speaks_before_everything() -> None:
    """Existence comes first for reactivation and settlement, too."""
    for kind in (Reactivate, Compensate):
        with refused(Reason.RECYCLING_NOT_FOUND):
            Account(takeable("iqiyi")).run(kind(request_id=UNKNOWN_ID, account_id=ACCOUNT_ID, recycling_id=UNKNOWN_ID))


def test_undone_recycling_cannot_be_undone_again() -> None:
    """A REVERSED recycling is in the wrong state."""
    account = Account(takeable("iqiyi"))
    account.recycle()
    account.reactivate()
    with refused(Reason.RECYCLING_STATE_INVALID):
        account.reactivate()


def test_rejected_recycling_cannot_be_undone() -> None:
    """There is nothing to give back."""
    account = Account(takeable("iqiyi"))
    account.recycle(HIGH)
    with refused(Reason.RECYCLING_STATE_INVALID):
        account.reactivate()


def test_voided_card_does_not_come_back() -> None:
    """A waiting card that was paid back elsewhere is gone."""
    account = Account(takeable("iqiyi"))
    account.recycle()
    account.void(VoidReason.REVOKED)
    with refused(Reason.CARD_STATE_INVALID):
        account.reactivate()


# Clawback


@pytest.mark.parametrize(("platform", "unit"), [("iqiyi", Unit.COIN), ("tencent", Unit.GROWTH_POINT)])
def test_reactivation_takes_back_exactly_what_was_settled(platform: str, unit: Unit) -> None:
    """Settled value is posted back in the same change, and the compensation becomes CLAWED_BACK."""
    account = Account(takeable(platform))
    account.recycle()
    account.compensate()
    paid = account.wallet.amount(platform, unit)
    change = account.reactivate()
    assert paid > 0
    assert change.transfer is not None
    assert change.transfer.amount == -paid
    assert account.compensation.state is CompensationState.CLAWED_BACK
    assert account.wallet.amount(platform, unit) == 0


@pytest.mark.parametrize("platform", ["iqiyi", "tencent"])
def test_reactivation_cancels_what_is_pending(platform: str) -> None:
    """Nothing moves, and nothing can be settled afterwards."""
    account = Account(takeable(platform))
    account.recycle()
    change = account.reactivate()
    assert change.transfer is None
    assert account.compensation.state is CompensationState.CANCELLED
    with refused(Reason.RECYCLING_STATE_INVALID):
        account.compensate()


@pytest.mark.parametrize(("platform", "unit"), [("iqiyi", Unit.COIN), ("tencent", Unit.GROWTH_POINT)])
def test_spent_compensation_keeps_the_card_away(platform: str, unit: Unit) -> None:
    """With one unit too few in the wallet nothing changes: COMPENSATION_SPENT."""
    account = Account(takeable(platform))
    account.recycle()
    account.compensate()
    account.wallet = account.wallet.after(platform, unit, -1)
    before = (account.card, account.recycling, account.wallet)
    with refused(Reason.COMPENSATION_SPENT):
        account.reactivate()
    assert (account.card, account.recycling, account.wallet) == before


def test_coins_of_another_platform_do_not_pay_the_clawback() -> None:
    """Each platform's coins are their own."""
    account = Account(takeable("iqiyi"))
    account.recycle()
    account.compensate()
    account.wallet = account.wallet.after("iqiyi", Unit.COIN, -1).after("other", Unit.COIN, 10_000)
    with refused(Reason.COMPENSATION_SPENT):
        account.reactivate()


# Settlement


@pytest.mark.parametrize("platform", PLATFORMS)
def test_compensation_is_settled_once(platform: str) -> None:
    """The first settlement pays the pending amount, the second is ALREADY_COMPENSATED."""
    account = Account(takeable(platform))
    account.recycle()
    owed = account.compensation
    account.compensate()
    assert account.compensation.state is CompensationState.SETTLED
    assert account.wallet.amount(platform, owed.unit) == owed.amount
    with refused(Reason.ALREADY_COMPENSATED):
        account.compensate()


def test_settled_coupon_has_the_recyclings_terms() -> None:
    """The coupon in the wallet is the one that was promised, under the recycling's id."""
    account = Account(takeable("netflix"))
    account.recycle()
    account.now += 10 * DAY
    account.compensate()
    (coupon,) = account.wallet.coupons
    assert coupon.coupon_id == account.recycling.recycling_id
    assert (coupon.basis_points, coupon.max_discount_minor, coupon.expire_time) == (500, 149, NOW + 90 * DAY)


def test_rejected_recycling_pays_nothing() -> None:
    """A refused recycle owes nothing."""
    account = Account(takeable("iqiyi"))
    account.recycle(HIGH)
    with refused(Reason.RECYCLING_STATE_INVALID):
        account.compensate()


def test_recycling_without_compensation_pays_nothing() -> None:
    """Where the amount came out as 0 there is nothing to settle."""
    account = Account(issued("iqiyi", paid_minor=0))
    account.recycle()
    with refused(Reason.RECYCLING_STATE_INVALID):
        account.compensate()


# Risk


@pytest.mark.parametrize("platform", ["netflix", "iqiyi"])
def test_high_risk_recycle_is_rejected(platform: str) -> None:
    """The attempt is recorded with its own reason code, the card stays as it was, and nothing is owed."""
    before = takeable(platform)
    account = Account(before)
    change = account.recycle(HIGH)
    assert change.refused
    assert change.card_event is None
    assert account.card == before.at(account.now)
    assert account.recycling.state is RecyclingState.REJECTED
    assert account.recycling.disposition is None
    assert account.recycling.compensation is None
    assert account.recycling.fee_minor == 0
    assert account.recycling.decision.risk_band is RiskBand.HIGH
    assert account.recycling.decision.reason_codes == ("RISK_HIGH",)


def test_rejected_card_may_be_tried_again() -> None:
    """A rejection does not use the generation up."""
    account = Account(takeable("iqiyi"))
    account.recycle(HIGH)
    account.recycle(LOW)
    assert account.recycling.state is RecyclingState.APPROVED


@pytest.mark.parametrize(("score", "band"), [(MEDIUM, RiskBand.MEDIUM), (HIGH, RiskBand.HIGH)])
def test_anomaly_is_never_rejected_but_holds_settlement(score: Score, band: RiskBand) -> None:
    """An abnormal account is what the trigger is for: the card is taken, and payment waits for a review."""
    account = Account(takeable("tencent"))
    account.recycle(score)
    assert account.recycling.state is RecyclingState.APPROVED
    assert account.recycling.settlement_held
    assert account.recycling.decision.reason_codes == (f"RISK_{band}",)
    with refused(Reason.SETTLEMENT_NOT_DUE):
        account.compensate()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_low_risk_is_approved_without_a_word(platform: str) -> None:
    """A LOW band gives no reason codes and holds nothing."""
    account = Account(takeable(platform))
    account.recycle(LOW)
    assert account.recycling.decision.reason_codes == ()
    assert not account.recycling.settlement_held


@pytest.mark.parametrize(
    ("probability", "band"),
    [
        (0.0, RiskBand.LOW),
        (0.4999999, RiskBand.LOW),
        (0.5, RiskBand.MEDIUM),
        (0.8999999, RiskBand.MEDIUM),
        (0.9, RiskBand.HIGH),
        (1.0, RiskBand.HIGH),
    ],
)
def test_bands_begin_at_their_thresholds(probability: float, band: RiskBand) -> None:
    """MEDIUM and HIGH include the threshold they begin at."""
    assert scored(probability).band is band


def test_iqiyi_pays_nobody_unjudged() -> None:
    """What is money is not paid out without a score, for recycling and for reactivating; the decision says why."""
    account = Account(takeable("iqiyi"))
    account.recycle(None)
    assert account.recycling.state is not RecyclingState.APPROVED
    assert account.recycling.decision.degraded_mode is DegradedMode.HOLD
    another = Account(takeable("iqiyi"))
    another.recycle()
    change = another.reactivate(None)
    assert change.card_event is not CardEventKind.REACTIVATED
    assert change.decision is not None and change.decision.degraded_mode is DegradedMode.HOLD


def test_policy_may_need_a_score() -> None:
    """With REJECT the call fails, FRAUD_SCORE_UNAVAILABLE, for recycling and for reactivating."""
    policy = shipped("iqiyi")
    strict = replace(policy, risk=replace(policy.risk, without_score=DegradedMode.REJECT))
    account = Account(takeable("iqiyi"), policies={"iqiyi": strict})
    with refused(Reason.FRAUD_SCORE_UNAVAILABLE):
        account.recycle(None)
    account.recycle()
    with refused(Reason.FRAUD_SCORE_UNAVAILABLE):
        account.reactivate(None)


@pytest.mark.parametrize("platform", ["netflix", "tencent"])
def test_rules_alone_decide_where_the_policy_says_so(platform: str) -> None:
    """Without a score the card is taken, the decision says `degraded`, and settlement is held."""
    account = Account(takeable(platform))
    account.recycle(None)
    decision = account.recycling.decision
    assert account.recycling.state is RecyclingState.APPROVED
    assert account.recycling.settlement_held
    assert (decision.degraded, decision.risk_score, decision.risk_band, decision.model_version) == (
        True,
        None,
        None,
        "",
    )
    assert decision.reason_codes == ("SCORE_UNAVAILABLE",)
    assert decision.degraded_mode is DegradedMode.RULES_ONLY


def test_high_risk_reactivation_changes_nothing() -> None:
    """The card stays where it is, the recycling stands, and what was paid stays paid."""
    account = Account(takeable("iqiyi"))
    account.recycle()
    account.compensate()
    before = (account.card, account.recycling, account.wallet)
    change = account.reactivate(HIGH)
    assert change.refused
    assert change.transfer is None
    assert (account.card, account.recycling, account.wallet) == before


# validate_only


def test_dry_run_decides_and_keeps_nothing() -> None:
    """The answer is that of the real call, without an id, and everything stays as it was."""
    account = Account(takeable("iqiyi"))
    dry = account.recycle(dry_run=True).recycling
    assert not account.recyclings
    real = account.recycle().recycling
    assert dry is not None and real is not None
    assert dry.recycling_id is None
    assert (dry.state, dry.compensation, dry.disposition) == (real.state, real.compensation, real.disposition)


def test_dry_run_fails_where_the_real_call_would() -> None:
    """Each refusal speaks in a dry run, too."""
    account = Account(takeable("iqiyi"))
    account.recycle()
    with refused(Reason.CARD_ALREADY_RECYCLED):
        account.recycle(dry_run=True)
    account.compensate()
    with refused(Reason.ALREADY_COMPENSATED):
        account.compensate(dry_run=True)
    account.now += 180 * DAY
    with refused(Reason.REACTIVATION_WINDOW_CLOSED):
        account.reactivate(dry_run=True)


# ActivateCard and VoidCard


def test_activation_starts_the_full_validity() -> None:
    """From now on, for all its days."""
    account = Account(issued("iqiyi", activate_by_time=NOW + MICROSECOND))
    change = account.activate()
    assert change.card_event is CardEventKind.ACTIVATED
    assert (account.card.state, account.card.activate_time) == (CardState.ACTIVE, NOW)
    assert account.card.expire_time == NOW + 30 * DAY


def test_card_is_activated_once() -> None:
    """An ACTIVE, RECYCLED or VOID card cannot be activated."""
    account = Account(issued("iqiyi"))
    account.activate()
    with refused(Reason.CARD_STATE_INVALID):
        account.activate()
    account.recycle()
    with refused(Reason.CARD_STATE_INVALID):
        account.activate()
    account.void()
    with refused(Reason.CARD_STATE_INVALID):
        account.activate()


@pytest.mark.parametrize("kind", ["activate", "void"])
def test_etag_must_match_when_given(kind: str) -> None:
    """A stale etag is ETAG_MISMATCH, the present one passes."""
    account = Account(issued("iqiyi"))
    run = account.activate if kind == "activate" else account.void
    with refused(Reason.ETAG_MISMATCH):
        run(etag="v0")
    run(etag=account.card.etag)
    assert account.card.version == 2


@pytest.mark.parametrize("kind", ["activate", "void"])
def test_unknown_card_is_not_found(kind: str) -> None:
    """Existence comes first, before the etag."""
    account = Account(issued("iqiyi"))
    command: Activate | Void = (
        Activate(request_id=UNKNOWN_ID, account_id=ACCOUNT_ID, card_id=UNKNOWN_ID, etag="x")
        if kind == "activate"
        else Void(request_id=UNKNOWN_ID, account_id=ACCOUNT_ID, card_id=UNKNOWN_ID, etag="x", reason=VoidReason.REVOKED)
    )
    with refused(Reason.CARD_NOT_FOUND):
        account.run(command)


@pytest.mark.parametrize("reason", list(VoidReason))
@pytest.mark.parametrize("card", [issued(), active(unused=DAY), active(unused=-DAY)])
def test_void_ends_a_card_in_any_state(reason: VoidReason, card: Card) -> None:
    """An issued, an active and an expired card can all be ended."""
    account = Account(card)
    assert account.void(reason).card_event is CardEventKind.VOIDED
    assert account.card.state is CardState.VOID
    with refused(Reason.CARD_STATE_INVALID):
        account.void(reason)


@pytest.mark.parametrize("reason", [VoidReason.CHARGEBACK, VoidReason.REFUNDED])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_card_paid_back_elsewhere_blocks_its_compensation(platform: str, reason: VoidReason) -> None:
    """What is pending will not be paid: COMPENSATION_BLOCKED, also for a card that recycling has cancelled before."""
    account = Account(takeable(platform))
    account.recycle()
    account.void(reason)
    assert account.card.state is CardState.VOID
    assert account.compensation.state is CompensationState.BLOCKED
    with refused(Reason.COMPENSATION_BLOCKED):
        account.compensate()


@pytest.mark.parametrize("settled", [False, True], ids=["pending", "settled"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_chargeback_of_a_card_that_has_ended_is_told_once(platform: str, settled: bool) -> None:
    """By recycling or by a refund: the first chargeback is an outcome and changes no card, the second tells nothing."""
    account = Account(takeable(platform))
    account.recycle()
    if settled:
        account.compensate()
    if account.card.state is not CardState.VOID:
        account.void(VoidReason.REFUNDED)
    card = account.card
    change = account.void(VoidReason.CHARGEBACK)
    assert (change.outcome, change.card_event, account.card) == (OutcomeKind.CHARGEBACK, None, card)
    assert account.compensation.state is (CompensationState.SETTLED if settled else CompensationState.BLOCKED)
    for reason in VoidReason:
        with refused(Reason.CARD_STATE_INVALID):
            account.void(reason)


@pytest.mark.parametrize("before", [None, VoidReason.REFUNDED, VoidReason.REVOKED])
def test_chargeback_of_a_card_without_a_recycling_is_told_once(before: VoidReason | None) -> None:
    """It speaks against the account, whatever has ended the card."""
    account = Account(issued("iqiyi"))
    if before is not None:
        account.void(before)
    change = account.void(VoidReason.CHARGEBACK)
    assert (change.outcome, change.recycling) == (OutcomeKind.CHARGEBACK, None)
    for reason in VoidReason:
        with refused(Reason.CARD_STATE_INVALID):
            account.void(reason)


def test_withdrawn_card_keeps_its_compensation() -> None:
    """REVOKED pays nothing back elsewhere, so what is owed stays owed."""
    account = Account(takeable("iqiyi"))
    account.recycle()
    account.void(VoidReason.REVOKED)
    account.compensate()
    assert account.compensation.state is CompensationState.SETTLED


# What follows from every change


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_change_raises_the_cards_version(platform: str) -> None:
    """Versions rise by one with each change of the card, and not otherwise."""
    account = Account(takeable(platform))
    first = account.card.at(account.now).version
    account.recycle()
    assert account.card.version == first + 1
    account.compensate()
    assert account.card.version == first + 1
    assert account.recycling.version == 2


@pytest.mark.parametrize(
    ("card", "bound"),
    [
        (active("iqiyi", unused=18 * DAY), NOW + 18 * DAY),
        (issued("iqiyi", activate_by_time=NOW + DAY), NOW + DAY),
        (issued("iqiyi"), None),
        (active("netflix", unused=-30 * DAY), None),
    ],
)
def test_recycle_must_be_recorded_before_the_card_expires(card: Card, bound: datetime | None) -> None:
    """A decision about a card that time will change holds until then; one about an expired card has no bound."""
    policies = {platform: replace(shipped(platform), pricing=None) for platform in PLATFORMS}
    assert Account(card, policies=policies).recycle().valid_until == bound


def test_recycle_must_be_recorded_before_the_price_changes() -> None:
    """A bonus stands for its hour."""
    assert Account(issued("iqiyi")).recycle().valid_until == NOW + timedelta(minutes=30)


def test_reactivation_must_be_recorded_before_its_window_closes() -> None:
    """The window's end bounds the decision."""
    account = Account(takeable("iqiyi"))
    account.recycle()
    account.now += 179 * DAY
    assert account.reactivate().valid_until == NOW + 180 * DAY


def test_activation_must_be_recorded_before_its_bound() -> None:
    """An activation decided in time and recorded too late does not count."""
    assert Account(issued(activate_by_time=NOW + DAY)).activate().valid_until == NOW + DAY


def test_decision_names_its_policy_revision() -> None:
    """Callers see which revision decided."""
    account = Account(takeable("iqiyi"))
    account.recycle()
    assert account.recycling.decision.policy_revision == "iqiyi@1"
    assert account.recycling.card_id == CARD_ID


def test_reactivation_of_an_anomaly_is_judged() -> None:
    """The band never refuses to take an anomalous account's card, but it may refuse to give it back."""
    account = Account(issued("tencent"))
    account.recycle()
    assert account.reactivate(HIGH).refused


def test_decision_says_when_its_price_steps() -> None:
    """`valid_until` is the next whole day that the owner loses, where that comes before the card's expiry."""
    account = Account(active("tencent", unused=18 * DAY + timedelta(minutes=2)))
    account.recycle()
    assert account.recycling.decision.valid_until == account.now + timedelta(minutes=2, microseconds=1)
