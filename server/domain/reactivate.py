"""Reactivate: whether a card may come back, as what, and what must be taken back for it. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from server.domain.card import DAY, Card, CardEventKind, CardState
from server.domain.commands import Reactivate
from server.domain.errors import Reason, Refusal
from server.domain.policy import Policy, ReactivationRule, RestoredValidity
from server.domain.recycling import Compensation, CompensationState, Decision, Recycling, RecyclingState, TransferKind
from server.domain.review import ReviewKind, ReviewState, opened
from server.domain.risk import Action, decision, judge
from server.domain.snapshot import Change, Score, Snapshot, Transfer


def check_reactivate(snapshot: Snapshot) -> None:
    check_conditions(snapshot)
    if snapshot.known_card().is_held_at(snapshot.now):
        raise Refusal(Reason.CARD_STATE_INVALID, "the card is held for a review")


def check_conditions(snapshot: Snapshot) -> None:
    """What must be so for a card to come back, be it at once or by a reviewer's verdict."""
    recycling = snapshot.known_recycling()
    card, policy, now = snapshot.known_card(), snapshot.known_policy(), snapshot.now
    if recycling.state is not RecyclingState.APPROVED:
        raise Refusal(Reason.RECYCLING_STATE_INVALID, f"a recycling that is {recycling.state} cannot be undone")
    rule = policy.reactivation
    if rule is None:
        raise Refusal(Reason.REACTIVATION_NOT_ALLOWED, f"{policy.platform} never gives a card back")
    if policy.renewals_exhausted(card.renewals_used):
        raise Refusal(Reason.RENEWALS_EXHAUSTED, "the card's validity cannot be renewed again")
    if recycling.disposition not in rule.dispositions:
        raise Refusal(Reason.REACTIVATION_NOT_ALLOWED, f"{policy.platform} does not undo a {recycling.disposition}")
    if now >= rule.window_end(recycling):
        raise Refusal(Reason.REACTIVATION_WINDOW_CLOSED, f"the window of {rule.window_days} days has closed")
    if card.state is not CardState.RECYCLED or card.live_recycling_id != recycling.recycling_id:
        raise Refusal(Reason.CARD_STATE_INVALID, f"the card is {card.state_at(now)}")
    owed_back = _settled_amount(recycling)
    if owed_back and snapshot.wallet.amount(recycling.platform, owed_back.unit) < owed_back.amount:
        raise Refusal(Reason.COMPENSATION_SPENT, "what was paid for the card is no longer in the wallet")


def decide_reactivate(command: Reactivate, snapshot: Snapshot, score: Score | None, review_id: UUID) -> Change:
    recycling, policy, now = snapshot.known_recycling(), snapshot.known_policy(), snapshot.now
    rule = policy.reactivation
    assert rule is not None
    # Not explored: what is given back has no settlement that could wait.
    verdict = judge(score, snapshot.facts, policy, may_refuse=True, settles=False)
    window_end = rule.window_end(recycling)
    decided = decision(snapshot, score, verdict, (), window_end)
    match verdict.action:
        case Action.APPROVE:
            return replace(reactivated(snapshot), decision=decided, valid_until=window_end)
        case Action.HOLD:
            hold_until = now + policy.review.hold_days * DAY
            return replace(_held(command, snapshot, decided, review_id, hold_until), valid_until=window_end)
        case Action.REFUSE:
            return Change(
                now=now,
                card=snapshot.known_card(),
                recycling=recycling,
                decision=decided,
                refused=True,
                valid_until=window_end,
            )


def reactivated(snapshot: Snapshot) -> Change:
    """The card back, what was settled taken back, and what else waited for a verdict on the recycling closed."""
    recycling, card, now = snapshot.known_recycling(), snapshot.known_card(), snapshot.now
    rule = snapshot.known_policy().reactivation
    assert rule is not None and recycling.recycling_id is not None
    compensation, owed_back = recycling.compensation, _settled_amount(recycling)
    if compensation is not None and compensation.state is CompensationState.PENDING:
        compensation = replace(compensation, state=CompensationState.CANCELLED)
    transfer = None
    if owed_back is not None:
        compensation = replace(owed_back, state=CompensationState.CLAWED_BACK)
        transfer = Transfer(
            kind=TransferKind.CLAWBACK,
            platform=recycling.platform,
            unit=owed_back.unit,
            amount=-owed_back.amount,
            recycling_id=recycling.recycling_id,
        )
    settlement = snapshot.open_review(ReviewKind.SETTLEMENT)
    return Change(
        now=now,
        card=_restored(card, recycling, rule, now),
        card_event=CardEventKind.REACTIVATED,
        recycling=replace(
            recycling, state=RecyclingState.REVERSED, compensation=compensation, version=recycling.version + 1
        ),
        recycling_changed=True,
        transfer=transfer,
        reviews=() if settlement is None else (settlement.ended(ReviewState.CLOSED, now),),
    )


def _held(command: Reactivate, snapshot: Snapshot, decided: Decision, review_id: UUID, hold_until: datetime) -> Change:
    """The waiting card held. Its window moves by the whole hold at once; an earlier denial gives back the rest."""
    recycling, now = snapshot.known_recycling(), snapshot.now
    assert recycling.recycling_id is not None and command.request_id is not None
    review = opened(
        ReviewKind.REACTIVATE,
        recycling,
        recycling.recycling_id,
        decided,
        review_id=review_id,
        request_id=command.request_id,
        now=now,
        hold_until=hold_until,
    )
    moved = replace(recycling, window_moved=recycling.window_moved + (hold_until - now), version=recycling.version + 1)
    card = waiting(snapshot.known_card(), moved, snapshot.known_policy())
    return Change(
        now=now,
        card=card.held(now, hold_until),
        card_event=CardEventKind.HELD,
        recycling=moved,
        recycling_changed=True,
        decision=decided,
        held=True,
        reviews=(review,),
    )


def waiting(card: Card, recycling: Recycling, policy: Policy) -> Card:
    """The card as it waits to come back after `recycling`, whose own policy is `policy`."""
    rule = policy.reactivation
    return card if rule is None else replace(card, comes_back_until=rule.window_end(recycling))


def _restored(card: Card, recycling: Recycling, rule: ReactivationRule, now: datetime) -> Card:
    again = replace(
        card,
        generation=card.generation + 1,
        live_recycling_id=None,
        held_since=None,
        hold_until=None,
        expired_bound=None,
        comes_back_until=None,
        version=card.version + 1,
    )
    if rule.validity is RestoredValidity.FULL:
        return replace(
            again,
            state=CardState.ACTIVE,
            activate_time=card.activate_time or now,
            expire_time=now + card.duration,
            renewals_used=card.renewals_used + 1,
        )
    if card.activate_time is None:
        waited = now - recycling.create_time
        deadline = card.activate_by_time and card.activate_by_time + waited
        return replace(again, state=CardState.ISSUED, activate_by_time=deadline)
    return replace(again, state=CardState.ACTIVE, expire_time=now + recycling.unused)


def _settled_amount(recycling: Recycling) -> Compensation | None:
    compensation = recycling.compensation
    settled = compensation is not None and compensation.state is CompensationState.SETTLED
    return compensation if settled else None
