"""What time does by itself: recorded as of its moment, whenever that is, and no different for those who look."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.messages import card_message
from server.domain.card import DAY, Card, CardEventKind, CardState
from server.domain.commands import (
    OWN_REQUEST_VERSION,
    CloseWindow,
    Command,
    Expire,
    ExpireCoupon,
    OwnCommand,
    Recycle,
    own_request_id,
)
from server.domain.elapsed import overdue
from server.domain.errors import Reason, Refusal
from server.domain.recycling import Priority, RecyclingState
from server.domain.snapshot import Change, Score
from tests.builders import ACCOUNT_ID, HIGH, LOW, MEDIUM, MICROSECOND, NOW, Account, active, issued, refused

DEEDS = ("recycle", "suspicious", "reactivate", "reactivate suspicious", "compensate", "activate", "void", "resolve")


class Counting(Account):
    """An account whose ids count what callers make, whenever time's work is recorded: that makes nothing new."""

    def run(self, command: Command, score: Score | None = LOW) -> Change:
        """See Account."""
        last_id = self._last_id
        try:
            return super().run(command, score)
        finally:
            if isinstance(command, OwnCommand):
                self._last_id = last_id


def sweep(account: Account) -> int:
    """Records all that is overdue of the first card; how much that was."""
    count = 0
    while True:
        snapshot = account.snapshot(Expire.of(account.card))
        due = overdue(snapshot)
        if due is None:
            return count
        account.run(due)
        count += 1


def shown(account: Account) -> Any:
    """What readers are told now: card and recyclings, and of the wallet what has not expired."""
    recyclings = [recycling.at(account.now) for recycling in account.recyclings.values()]
    reviews = [replace(review.at(account.now), claimed_by=None) for review in account.reviews.values()]
    return card_message(account.card, account.now), recyclings, account.wallet, reviews


@settings(max_examples=300)
@given(
    card=st.sampled_from(
        [
            active("iqiyi", unused=3 * DAY),
            issued("iqiyi", activate_by_time=NOW + 5 * DAY),
            active("tencent", unused=DAY),
        ]
    ),
    steps=st.lists(
        st.tuples(
            st.sampled_from(DEEDS),
            st.sampled_from([timedelta(0), MICROSECOND, DAY, 3 * DAY, 7 * DAY, 90 * DAY, 180 * DAY]),
            st.booleans(),
        ),
        max_size=8,
    ),
)
def test_sweeping_changes_nothing_that_anybody_is_told(card: Card, steps: list[tuple[str, timedelta, bool]]) -> None:
    """Readers and callers get the same from an account that is swept at any times as from one that never is."""
    never, swept = Counting(card), Counting(card)
    for deed, later, sweeps in steps:
        never.now += later
        swept.now += later
        if sweeps:
            sweep(swept)
        assert shown(swept) == shown(never)
        assert _told(swept, deed) == _told(never, deed)
        assert shown(swept) == shown(never)
    for account in (never, swept):
        account.now += 400 * DAY
    sweep(swept)
    assert shown(swept) == shown(never)


def _told(account: Account, deed: str) -> object:
    """What a caller is told, or why not."""
    try:
        match deed:
            case "recycle":
                change = account.recycle()
            case "suspicious":
                change = account.recycle(MEDIUM)
            case "reactivate" if account.recyclings:
                change = account.reactivate()
            case "reactivate suspicious" if account.recyclings:
                change = account.reactivate(MEDIUM)
            case "compensate" if account.recyclings:
                change = account.compensate()
            case "activate":
                change = account.activate()
            case "void":
                change = account.void()
            case "resolve" if account.reviews:
                change = account.resolve()
            case _:
                return None
    except Refusal as refusal:
        return refusal.reason
    # What is new has ids that both accounts count alike.
    return card_message(change.known_card(), change.now), change.recycling, change.refused, change.held


def test_expiry_is_recorded_as_of_the_bound() -> None:
    """However late it is noticed; the row keeps its state, and the event tells EXPIRED."""
    account = Account(active("iqiyi", unused=DAY))
    account.now += 100 * DAY
    change = account.run(Expire.of(account.card))
    assert (change.card_event, change.now) == (CardEventKind.EXPIRED, NOW + DAY)
    assert (change.known_card().state, change.known_card().recorded_state) == (CardState.ACTIVE, CardState.EXPIRED)


@pytest.mark.parametrize("card", [active("iqiyi", unused=DAY), issued("iqiyi", activate_by_time=NOW + DAY)])
def test_expiry_begins_at_the_bound_to_the_microsecond(card: Card) -> None:
    """A microsecond before neither expiry nor deadline has passed, and what could be done still can."""
    account = Account(card)
    account.now = NOW + DAY - MICROSECOND
    with refused(Reason.CARD_STATE_INVALID):
        account.run(Expire.of(account.card))
    assert account.card.at(account.now) == card
    account.now += MICROSECOND
    account.run(Expire.of(account.card))
    with refused(Reason.CARD_STATE_INVALID):
        account.activate()


def test_expiry_is_recorded_once() -> None:
    """A second look finds nothing."""
    account = Account(active("iqiyi", unused=DAY))
    account.now += 2 * DAY
    assert (sweep(account), sweep(account)) == (1, 0)
    with refused(Reason.CARD_STATE_INVALID):
        account.run(Expire.of(account.card))


def test_waiting_card_ends_with_its_window() -> None:
    """RECYCLED becomes VOID at the end of the window, as of that moment; what the recycling pays stays."""
    account = Account(active("iqiyi", unused=10 * DAY))
    account.recycle()
    pending = account.recycling
    account.now += 200 * DAY
    assert account.card.state_at(account.now) is CardState.VOID
    change = account.run(CloseWindow.of(account.card))
    assert (change.known_card().state, change.card_event, change.now) == (
        CardState.VOID,
        CardEventKind.CLOSED,
        NOW + 180 * DAY,
    )
    assert account.recycling == pending
    account.compensate()
    with refused(Reason.REACTIVATION_WINDOW_CLOSED):
        account.reactivate()


def expired_for(days: int) -> Account:
    """An account whose netflix card expired so long ago, as is recorded."""
    account = Account(active("netflix", unused=-days * DAY))
    sweep(account)
    return account


def test_service_recycles_by_itself_when_the_wait_is_over() -> None:
    """Not a microsecond before; then as bulk, under an id that follows from card and generation."""
    account = expired_for(30)
    account.now -= MICROSECOND
    command = Recycle.of_itself(account.card)
    with refused(Reason.TRIGGER_NOT_ALLOWED):
        account.run(command)
    account.now += MICROSECOND
    account.run(command)
    recycling = account.recycling
    assert (recycling.state, recycling.priority) == (RecyclingState.APPROVED, Priority.BULK)
    assert recycling.request_id == Recycle.of_itself(expired_for(30).card).request_id
    with refused(Reason.CARD_ALREADY_RECYCLED):
        account.recycle()


@pytest.mark.parametrize(("score", "held"), [(LOW, False), (MEDIUM, True), (HIGH, True)])
def test_risk_never_stops_what_the_service_does_by_itself(score: Any, held: bool) -> None:
    """MEDIUM and HIGH only hold settlement, for a review."""
    account = expired_for(31)
    change = account.run(Recycle.of_itself(account.card), score)
    assert account.recycling.state is RecyclingState.APPROVED and not change.held and not change.refused
    assert account.recycling.settlement_held is held
    assert bool(account.reviews) is held


def test_service_waits_for_a_score() -> None:
    """Without one it does nothing yet: else a worker that is away would send all to the reviewers."""
    account = expired_for(31)
    with refused(Reason.FRAUD_SCORE_UNAVAILABLE):
        account.run(Recycle.of_itself(account.card), None)


def test_service_recycles_by_itself_only_where_the_policy_says_so() -> None:
    """A policy that has taken it back meanwhile is obeyed."""
    account = expired_for(31)
    policy = account.policies["netflix"]
    account.policies["netflix"] = replace(policy, trigger=replace(policy.trigger, automatic=False))
    with refused(Reason.TRIGGER_NOT_ALLOWED):
        account.run(Recycle.of_itself(account.card))
    account.recycle()
    assert account.recycling.priority is Priority.PERSON


def coupon_expiry(account: Account, since: datetime) -> ExpireCoupon:
    """The end of the newest recycling's coupon."""
    assert account.recycling.recycling_id is not None
    return ExpireCoupon.of(ACCOUNT_ID, account.recycling.recycling_id, since)


def test_coupon_goes_when_it_expires() -> None:
    """Not before; as of its expiry, however late."""
    account = expired_for(31)
    account.recycle()
    account.compensate()
    command = coupon_expiry(account, NOW + 90 * DAY)
    account.now = NOW + 90 * DAY - MICROSECOND
    with refused(Reason.RECYCLING_STATE_INVALID):
        account.run(command)
    account.now += 10 * DAY
    change = account.run(command)
    assert change.transfer is not None and (change.transfer.amount, change.now) == (-1, NOW + 90 * DAY)


def test_own_ids_are_of_a_version_of_their_own() -> None:
    """The same for the same, different for another generation, and never one that a caller may use."""
    one, two = own_request_id("ExpireCard", "card", 1), own_request_id("ExpireCard", "card", 2)
    assert one == own_request_id("ExpireCard", "card", 1) != two
    assert {one.version, two.version} == {OWN_REQUEST_VERSION}
