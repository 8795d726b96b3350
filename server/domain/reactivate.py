"""Reactivate: whether a card may come back, as what, and what must be taken back for it. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from server.domain.card import DAY, Card, CardEventKind, CardState
from server.domain.errors import Reason, Refusal
from server.domain.policy import ReactivationRule, RestoredValidity
from server.domain.recycling import Compensation, CompensationState, Recycling, RecyclingState
from server.domain.risk import Action, decision, judge
from server.domain.snapshot import Change, Score, Snapshot, Transfer


def check_reactivate(snapshot: Snapshot) -> None:
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
    if now >= recycling.create_time + rule.window_days * DAY:
        raise Refusal(Reason.REACTIVATION_WINDOW_CLOSED, f"the window of {rule.window_days} days has closed")
    if card.state is not CardState.RECYCLED or card.live_recycling_id != recycling.recycling_id:
        raise Refusal(Reason.CARD_STATE_INVALID, f"the card is {card.state_at(now)}")
    owed_back = _settled_amount(recycling)
    if owed_back and snapshot.wallet.amount(recycling.platform, owed_back.unit) < owed_back.amount:
        raise Refusal(Reason.COMPENSATION_SPENT, "what was paid for the card is no longer in the wallet")


def decide_reactivate(snapshot: Snapshot, score: Score | None) -> Change:
    recycling = snapshot.known_recycling()
    card, policy, now = snapshot.known_card(), snapshot.known_policy(), snapshot.now
    rule = policy.reactivation
    assert rule is not None and recycling.recycling_id is not None
    verdict = judge(score, policy, may_refuse=True)
    window_end = recycling.create_time + rule.window_days * DAY
    decided = decision(snapshot, score, verdict, (), window_end)
    if verdict.action is not Action.APPROVE:
        return Change(now=now, card=card, recycling=recycling, decision=decided, refused=True, valid_until=window_end)
    compensation, owed_back = recycling.compensation, _settled_amount(recycling)
    if compensation is not None and compensation.state is CompensationState.PENDING:
        compensation = replace(compensation, state=CompensationState.CANCELLED)
    transfer = None
    if owed_back is not None:
        compensation = replace(owed_back, state=CompensationState.CLAWED_BACK)
        transfer = Transfer(
            platform=recycling.platform,
            unit=owed_back.unit,
            amount=-owed_back.amount,
            recycling_id=recycling.recycling_id,
        )
    return Change(
        now=now,
        card=_restored(card, recycling, rule, now),
        card_event=CardEventKind.REACTIVATED,
        recycling=replace(
            recycling, state=RecyclingState.REVERSED, compensation=compensation, version=recycling.version + 1
        ),
        recycling_changed=True,
        transfer=transfer,
        decision=decided,
        valid_until=window_end,
    )


def _restored(card: Card, recycling: Recycling, rule: ReactivationRule, now: datetime) -> Card:
    again = replace(card, generation=card.generation + 1, live_recycling_id=None, version=card.version + 1)
    if rule.validity is RestoredValidity.FULL:
        return replace(
            again,
            state=CardState.ACTIVE,
            activate_time=card.activate_time or now,
            expire_time=now + card.duration,
            renewals_used=card.renewals_used + 1,
        )
    if card.activate_time is None:
        held = now - recycling.create_time
        deadline = card.activate_by_time and card.activate_by_time + held
        return replace(again, state=CardState.ISSUED, activate_by_time=deadline)
    return replace(again, state=CardState.ACTIVE, expire_time=now + recycling.unused)


def _settled_amount(recycling: Recycling) -> Compensation | None:
    compensation = recycling.compensation
    settled = compensation is not None and compensation.state is CompensationState.SETTLED
    return compensation if settled else None
