"""Holds and verdicts, by the letter: what a held card allows, and what each end of a hold makes of it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from server.domain.card import DAY, Card, CardEventKind, CardState, VoidReason
from server.domain.errors import Reason
from server.domain.recycling import CompensationState, RecyclingState
from server.domain.review import ReviewKind, ReviewState, ReviewVerdict
from tests.builders import HIGH, LOW, MEDIUM, MICROSECOND, NOW, Account, active, issued, refused

HOLD = 7 * DAY
DENY = ReviewVerdict.DENY


def held(card: Card | None = None) -> Account:
    """An account whose card is held for a recycle since NOW."""
    account = Account(card or active("iqiyi", unused=18 * DAY))
    account.recycle(MEDIUM)
    return account


def held_again() -> Account:
    """An account whose waiting card, recycled and paid for at NOW, is held for a reactivation since ten days later."""
    account = Account(active("iqiyi", unused=18 * DAY))
    account.recycle()
    account.compensate()
    account.now += 10 * DAY
    account.reactivate(MEDIUM)
    return account


def anomaly(score: object = HIGH) -> Account:
    """An account whose card was taken for an anomaly, its payment held."""
    account = Account(active("tencent", unused=18 * DAY))
    account.recycle(score)  # type: ignore[arg-type]
    return account


# What a hold is


def test_suspicious_recycle_is_held_on_its_terms() -> None:
    """IN_REVIEW has disposition, fee and compensation as priced, and the card is held, its state as it was."""
    account, plain = held(), Account(active("iqiyi", unused=18 * DAY))
    plain.recycle()
    recycling = account.recycling
    assert recycling.state is RecyclingState.IN_REVIEW
    assert (recycling.disposition, recycling.fee_minor, recycling.compensation) == (
        plain.recycling.disposition,
        plain.recycling.fee_minor,
        plain.recycling.compensation,
    )
    assert recycling.decision.reason_codes == ("RISK_MEDIUM",)
    assert (account.card.held_since, account.card.hold_until) == (NOW, NOW + HOLD)
    assert account.card.live_recycling_id is None
    assert (account.review.kind, account.review.state) == (ReviewKind.RECYCLE, ReviewState.OPEN)


def test_held_card_can_only_be_voided() -> None:
    """Neither recycle nor activation nor reactivation nor payment works on a held card."""
    account = held(issued("iqiyi"))
    with refused(Reason.CARD_STATE_INVALID):
        account.recycle()
    with refused(Reason.CARD_STATE_INVALID):
        account.activate()
    with refused(Reason.RECYCLING_STATE_INVALID):
        account.reactivate()
    with refused(Reason.RECYCLING_STATE_INVALID):
        account.compensate()
    account.void()
    assert account.card.state is CardState.VOID


def test_held_card_does_not_expire() -> None:
    """While it is held its state is that in which the hold found it, though its bound has passed."""
    card = held(active("iqiyi", unused=DAY)).card
    assert card.state_at(NOW + 2 * DAY) is CardState.ACTIVE
    assert card.unused_at(NOW + 2 * DAY) == DAY


def test_held_waiting_card_is_not_given_back() -> None:
    """While a reactivation is in review another one does not go around it."""
    account = held_again()
    with refused(Reason.CARD_STATE_INVALID):
        account.reactivate(LOW)


@pytest.mark.parametrize(("since", "lapsed"), [(HOLD - MICROSECOND, False), (HOLD, True)])
def test_hold_ends_with_its_last_microsecond(since: timedelta, lapsed: bool) -> None:
    """From hold_until on, and not before, card, recycling and review are as after a denial, recorded or not."""
    account = held()
    moment = NOW + since
    card, recycling, review = account.card.at(moment), account.recycling.at(moment), account.review.at(moment)
    assert card.is_held_at(moment) is not lapsed
    assert (recycling.state is RecyclingState.REJECTED) is lapsed
    assert (review.state is ReviewState.EXPIRED) is lapsed
    assert ("REVIEW_EXPIRED" in recycling.decision.reason_codes) is lapsed


# How it ends


def test_approval_applies_the_terms_of_the_recycle() -> None:
    """However late the verdict, the card is taken and owed as at the recycle's own moment."""
    account = held()
    before = account.recycling
    account.now += HOLD - MICROSECOND
    change = account.resolve()
    assert change.card_event is CardEventKind.RECYCLED
    assert account.recycling == replace(before, state=RecyclingState.APPROVED, hold_until=None, version=2)
    assert account.card.state is CardState.RECYCLED
    assert account.card.live_recycling_id == before.recycling_id
    assert account.card.hold_until is None
    assert account.review.state is ReviewState.APPROVED
    account.compensate()
    assert account.compensation.state is CompensationState.SETTLED


@pytest.mark.parametrize("days", [0, 3])
def test_denial_gives_back_what_there_was(days: int) -> None:
    """The card is free with the validity that it had, nothing is owed, and the recycling says why."""
    account = held()
    account.now += days * DAY
    account.resolve(DENY)
    assert account.card.expire_time == NOW + (18 + days) * DAY
    assert account.card.unused_at(account.now) == 18 * DAY
    assert account.recycling.state is RecyclingState.REJECTED
    assert account.recycling.compensation is None
    assert account.recycling.decision.reason_codes == ("RISK_MEDIUM", "REVIEW_DENIED")
    assert not account.recycle().refused


def test_denial_moves_the_time_to_be_activated() -> None:
    """An ISSUED card's activate_by_time moves as expire_time does."""
    account = held(issued("iqiyi", activate_by_time=NOW + DAY))
    account.now += 3 * DAY
    account.resolve(DENY)
    assert account.card.activate_by_time == NOW + 4 * DAY
    account.activate()


def test_expired_card_stays_as_long_expired_as_it_is() -> None:
    """A bound that had passed before the hold does not move: the owner need not wait anew, nor does the card revive."""
    account = Account(active("netflix", unused=-30 * DAY))
    account.recycle(MEDIUM)
    account.now += 3 * DAY
    account.resolve(DENY)
    assert account.card.expire_time == NOW - 30 * DAY
    account.recycle(LOW)
    assert account.recycling.state is RecyclingState.APPROVED


def test_lapse_is_recorded_before_the_next_command() -> None:
    """Who meets a lapsed hold finds it ended as of its own end, whenever that is."""
    account = held()
    account.now += HOLD + DAY
    account.recycle()
    assert account.recycling.state is RecyclingState.APPROVED
    first = next(iter(account.recyclings.values()))
    assert first.decision.reason_codes == ("RISK_MEDIUM", "REVIEW_EXPIRED")
    assert (account.review.state, account.review.resolve_time) == (ReviewState.EXPIRED, NOW + HOLD)
    assert account.card.expire_time == NOW + (18 + 7) * DAY


def test_verdict_comes_too_late() -> None:
    """At hold_until there is nothing left to decide, and a microsecond before there is."""
    account = held()
    account.now += HOLD
    with refused(Reason.REVIEW_STATE_INVALID):
        account.resolve()
    late = held()
    late.now += HOLD - MICROSECOND
    assert late.resolve().valid_until == NOW + HOLD


@pytest.mark.parametrize("reason", list(VoidReason))
def test_void_ends_the_hold_of_a_recycle(reason: VoidReason) -> None:
    """The recycle is rejected, nothing is owed, and no verdict can follow."""
    account = held()
    account.void(reason)
    assert account.recycling.state is RecyclingState.REJECTED
    assert account.recycling.decision.reason_codes == ("RISK_MEDIUM", "CARD_VOIDED")
    assert account.recycling.compensation is None
    assert account.review.state is ReviewState.CLOSED
    assert account.card.hold_until is None
    with refused(Reason.REVIEW_STATE_INVALID):
        account.resolve()


# Reactivation


def test_approved_reactivation_is_as_of_the_verdict() -> None:
    """The card comes back with what was unused, from the verdict on, and what was paid is taken back then."""
    account = held_again()
    assert account.wallet.balances
    account.now += 3 * DAY
    account.resolve()
    assert account.card.state is CardState.ACTIVE
    assert account.card.expire_time == account.now + 18 * DAY
    assert account.card.generation == 2
    assert account.card.hold_until is None
    assert account.compensation.state is CompensationState.CLAWED_BACK
    assert account.wallet.balances == ()


def test_approval_needs_the_conditions_of_its_moment() -> None:
    """Coins that are spent meanwhile fail the verdict, and the review stays open."""
    account = held_again()
    account.wallet = replace(account.wallet, balances=())
    with refused(Reason.COMPENSATION_SPENT):
        account.resolve()
    assert account.review.state is ReviewState.OPEN
    account.resolve(DENY)
    assert account.card.state is CardState.RECYCLED


@pytest.mark.parametrize("days", [3, 7])
def test_window_moves_by_the_time_held(days: int) -> None:
    """After a denial, or the end of the hold, the card may come back as much later as it was held, and no later."""
    late, in_time = held_again(), held_again()
    for account in (late, in_time):
        account.now += days * DAY
        if days < 7:
            account.resolve(DENY)
        account.now = NOW + (180 + days) * DAY
    with refused(Reason.REACTIVATION_WINDOW_CLOSED):
        late.reactivate()
    in_time.now -= MICROSECOND
    in_time.reactivate()
    assert in_time.card.state is CardState.ACTIVE


def test_window_does_not_close_while_held() -> None:
    """A reactivation asked for in time can be approved after the window's end."""
    account = Account(active("iqiyi", unused=18 * DAY))
    account.recycle()
    account.now += 180 * DAY - MICROSECOND
    account.reactivate(MEDIUM)
    account.now += HOLD - MICROSECOND
    account.resolve()
    assert account.card.state is CardState.ACTIVE


def test_void_ends_the_hold_of_a_reactivation() -> None:
    """The card ends; what was settled stays, and the reactivation is off."""
    account = held_again()
    account.void()
    assert (account.card.state, account.recycling.state) == (CardState.VOID, RecyclingState.APPROVED)
    assert account.compensation.state is CompensationState.SETTLED
    assert account.review.state is ReviewState.CLOSED


# Settlement


def test_approval_lets_an_anomaly_be_paid() -> None:
    """A held settlement opens a review without end, and is due from its approval on."""
    account = anomaly()
    assert (account.review.kind, account.review.hold_until) == (ReviewKind.SETTLEMENT, None)
    assert account.card.hold_until is None
    account.now += 100 * DAY
    account.resolve()
    account.compensate()
    assert account.compensation.state is CompensationState.SETTLED


def test_denial_blocks_the_payment() -> None:
    """What a review denied is never paid; the card stays taken."""
    account = anomaly()
    account.resolve(DENY)
    assert account.compensation.state is CompensationState.BLOCKED
    assert account.card.state is CardState.RECYCLED
    with refused(Reason.COMPENSATION_BLOCKED):
        account.compensate()


def test_missing_score_holds_settlement_for_a_review() -> None:
    """Where the rules decide alone a person decides on the payment."""
    account = Account(active("netflix", unused=-30 * DAY))
    account.recycle(None)
    assert account.review.kind is ReviewKind.SETTLEMENT
    assert account.review.risk_band is None


def test_nothing_to_settle_needs_no_review() -> None:
    """An anomaly that earns nothing waits for nobody."""
    account = Account(active("tencent", unused=18 * DAY, renewals_used=1))
    account.recycle(HIGH)
    assert account.reviews == {}


def test_card_given_back_closes_the_review_of_its_payment() -> None:
    """When the card has come back there is nothing left to pay, nor to decide."""
    account = anomaly()
    account.reactivate()
    assert account.compensation.state is CompensationState.CANCELLED
    assert account.review.state is ReviewState.CLOSED


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (VoidReason.CHARGEBACK, ReviewState.CLOSED),
        (VoidReason.REFUNDED, ReviewState.CLOSED),
        (VoidReason.REVOKED, ReviewState.OPEN),
    ],
)
def test_void_closes_a_review_only_with_its_payment(reason: VoidReason, state: ReviewState) -> None:
    """What a void blocks needs no verdict; a revoked card's payment still does."""
    account = anomaly()
    account.void(reason)
    assert account.review.state is state


def test_reactivation_in_review_beside_a_settlement_in_review() -> None:
    """Approving the reactivation also closes the review of the payment, which lapses with it."""
    account = anomaly()
    settlement = account.review
    account.now += DAY
    account.reactivate(MEDIUM)
    account.resolve()
    assert account.compensation.state is CompensationState.CANCELLED
    assert account.reviews[settlement.review_id].state is ReviewState.CLOSED


# Reviewers


def test_only_the_claims_holder_resolves() -> None:
    """While the lease runs nobody else may; from its end on anyone."""
    account = held()
    review = replace(account.review, claimed_by="reviewer-2", claim_until=NOW + timedelta(minutes=15), version=2)
    account.reviews[review.review_id] = review
    account.now += timedelta(minutes=15) - MICROSECOND
    with refused(Reason.REVIEW_CLAIMED):
        account.resolve()
    account.now += MICROSECOND
    account.resolve()
    assert account.review.reviewer == "reviewer-1"


def test_etag_of_another_time_is_refused() -> None:
    """A verdict upon what the reviewer no longer sees is ETAG_MISMATCH."""
    account = held()
    with refused(Reason.ETAG_MISMATCH):
        account.resolve(etag="r7")
    account.resolve(etag=account.review.etag)


def test_verdict_is_given_once() -> None:
    """A second verdict finds the review ended."""
    account = held()
    account.resolve(DENY)
    with refused(Reason.REVIEW_STATE_INVALID):
        account.resolve()


def test_unknown_review_is_not_found() -> None:
    """A review of another card, or of none, is REVIEW_NOT_FOUND."""
    account = held()
    foreign = replace(account.review, review_id=account.new_id())
    with refused(Reason.REVIEW_NOT_FOUND):
        account.resolve(review=foreign)
