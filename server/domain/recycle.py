"""Recycle: whether a card may be taken back, what becomes of it and what its owner gets. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from server.domain.card import DAY, Card, CardEventKind, CardState
from server.domain.commands import Recycle
from server.domain.compensation import Terms, terms
from server.domain.errors import Reason, Refusal
from server.domain.hub import choose, weigh
from server.domain.policy import Policy
from server.domain.pricing import SCALE, period_of
from server.domain.quote import QuoteSigner, promised, quote_expire_time
from server.domain.reactivate import waiting
from server.domain.recycling import Decision, Disposition, Recycling, RecyclingState, RiskBand
from server.domain.review import Review, ReviewKind, opened
from server.domain.risk import Action, Verdict, decision, judge
from server.domain.settlement import settled
from server.domain.snapshot import Change, Conversions, Score, Snapshot


def check_recycle(command: Recycle, snapshot: Snapshot, signer: QuoteSigner) -> None:
    card, policy, now = snapshot.known_card(), snapshot.known_policy(), snapshot.now
    state = card.state_at(now)
    if card.live_recycling_id is not None:
        raise Refusal(Reason.CARD_ALREADY_RECYCLED, "this generation of the card was recycled already")
    if card.is_held_at(now):
        raise Refusal(Reason.CARD_STATE_INVALID, "the card is held for a review")
    if state not in policy.trigger.card_states:
        raise Refusal(Reason.CARD_STATE_INVALID, f"a card that is {state} cannot be recycled on {policy.platform}")
    if command.reason not in policy.trigger.reasons:
        raise Refusal(Reason.TRIGGER_NOT_ALLOWED, f"{policy.platform} does not recycle for {command.reason}")
    if command.automatic and not policy.trigger.automatic:
        raise Refusal(Reason.TRIGGER_NOT_ALLOWED, f"{policy.platform} does not recycle by itself")
    wait = policy.trigger.wait_after_expiry_days * DAY
    if state is CardState.EXPIRED:
        expired_since = card.bound()
        assert expired_since is not None
        if now < expired_since + wait:
            raise Refusal(Reason.TRIGGER_NOT_ALLOWED, "the wait after the card's expiry is not over")
    if policy.share_of_unit(command.unit, card.segment) is None:
        raise Refusal(
            Reason.FIELD_INVALID,
            f"{policy.platform} does not compensate this account in {command.unit}",
            fields=(("compensation_unit", f"must be {policy.compensation.unit} or left out"),),
        )
    price = terms(card, policy, now, command.unit, bonus_basis_points=snapshot.bonus // SCALE)
    if command.quote_token and _quoted_until(command, snapshot, price, signer) is None:
        raise Refusal(Reason.QUOTE_STALE, "the quote has expired, or its terms no longer hold")


def decide_recycle(
    command: Recycle, snapshot: Snapshot, score: Score | None, recycling_id: UUID, review_id: UUID, signer: QuoteSigner
) -> Change:
    card, policy, now = snapshot.known_card(), snapshot.known_policy(), snapshot.now
    stands_until = _stands_until(snapshot)
    price = terms(card, policy, now, command.unit, bonus_basis_points=snapshot.bonus // SCALE)
    verdict = _verdict(command, snapshot, score)
    conversions = _conversions(command, score)
    alternatives = weigh(card, policy, price, conversions)
    is_told = any(each.model_probability is not None for each in alternatives)
    decided = decision(
        snapshot,
        score,
        verdict,
        alternatives,
        _earliest(stands_until, price.change_time),
        conversions.model_version if conversions and is_told else "",
    )
    recycling = _recycling(command, snapshot, recycling_id, price, verdict, decided)
    transfer = None
    if _settles_at_once(recycling, policy, card.segment):
        recycling, transfer = settled(replace(recycling, settle_after_time=now), recycling_id)
    refused = verdict.action is Action.REFUSE
    token, expire_time = "", None
    if command.quote and not refused:
        best, expire_time = choose(alternatives), quote_expire_time(price, now, stands_until)
        token = signer.sign(card, command.reason, snapshot.revision_name, price, best, conversions, expire_time)
    quoted_until = _quoted_until(command, snapshot, price, signer) if command.quote_token else None
    return Change(
        now=now,
        card=_card_after(card, recycling, recycling_id, policy),
        card_event=_EVENT_OF[verdict.action],
        recycling=recycling,
        recycling_changed=True,
        transfer=transfer,
        decision=decided,
        refused=refused,
        held=verdict.action is Action.HOLD,
        reviews=_reviews(recycling, recycling_id, review_id),
        valid_until=_earliest(stands_until, quoted_until),
        quote_token=token,
        quote_expire_time=expire_time,
    )


def _recycling(
    command: Recycle, snapshot: Snapshot, recycling_id: UUID, price: Terms, verdict: Verdict, decided: Decision
) -> Recycling:
    """The record of the recycle as decided. A refused one promises nothing."""
    card, policy, now = snapshot.known_card(), snapshot.known_policy(), snapshot.now
    refused = verdict.action is Action.REFUSE
    return Recycling(
        recycling_id=None if command.dry_run else recycling_id,
        request_id=command.request_id,
        account_id=card.account_id,
        card_id=card.card_id,
        generation=card.generation,
        reason=command.reason,
        priority=command.priority,
        state=_STATE_AFTER[verdict.action],
        disposition=None if refused else choose(decided.alternatives),
        fee_minor=0 if refused else price.fee_minor,
        prior_state=card.state_at(now),
        unused=card.unused_at(now),
        compensation=None if refused else price.compensation,
        settle_after_time=None if refused else now + (policy.settle_after_days + verdict.settlement_delay_days) * DAY,
        settlement_held=verdict.settlement_held,
        platform=policy.platform,
        policy_revision=snapshot.known_revision(),
        decision=decided,
        create_time=now,
        version=1,
        hold_until=now + policy.review.hold_days * DAY if verdict.action is Action.HOLD else None,
    )


def _verdict(command: Recycle, snapshot: Snapshot, score: Score | None) -> Verdict:
    """What risk says of the request."""
    if command.automatic and score is None:
        # Nobody waits for it. Without a score each would have to wait for a reviewer.
        raise Refusal(Reason.FRAUD_SCORE_UNAVAILABLE, "the service recycles by itself when there are scores again")
    policy = snapshot.known_policy()
    verdict = judge(
        score,
        snapshot.facts,
        policy,
        may_refuse=not command.automatic and command.reason not in policy.risk.never_refused_reasons,
        explorable_minor=snapshot.known_card().paid_minor,
    )
    if snapshot.refused_before:
        # Risk refuses nothing that the service does by itself; what it has refused before a person looks at.
        verdict = replace(verdict, settlement_held=True, reason_codes=(*verdict.reason_codes, "REFUSED_BEFORE"))
    return verdict


def _stands_until(snapshot: Snapshot) -> datetime | None:
    """Until when the same request would be granted the same, as far as the card, its policy and the price go."""
    card, policy, now = snapshot.known_card(), snapshot.known_policy(), snapshot.now
    price_until = period_of(now, policy.pricing)[1] if policy.pricing else None
    return _earliest(card.valid_until(now), snapshot.policy_until, price_until)


def _conversions(command: Recycle, score: Score | None) -> Conversions | None:
    """What is known of conversions: under a quote what was known then, so that it is weighed as it was."""
    if command.quote_token:
        return promised(command.quote_token)
    return None if score is None else score.conversions


def _quoted_until(command: Recycle, snapshot: Snapshot, price: Terms, signer: QuoteSigner) -> datetime | None:
    """Until when the command's token holds what it would be granted now; None when it does not."""
    card = snapshot.known_card()
    best = choose(weigh(card, snapshot.known_policy(), price, promised(command.quote_token)))
    return signer.holds(command.quote_token, card, command.reason, snapshot.revision_name, price, best, snapshot.now)


def _settles_at_once(recycling: Recycling, policy: Policy, segment: str | None) -> bool:
    """What waits for nothing and nobody, and is not too much to lose."""
    owed = recycling.compensation
    return (
        policy.for_segment(segment).settle_with_recycle
        and owed is not None
        and owed.amount <= policy.instant_settlement_max
        and recycling.state is RecyclingState.APPROVED
        and recycling.decision.risk_band is RiskBand.LOW
        and not recycling.settlement_held
    )


_STATE_AFTER = {
    Action.APPROVE: RecyclingState.APPROVED,
    Action.HOLD: RecyclingState.IN_REVIEW,
    Action.REFUSE: RecyclingState.REJECTED,
}
_EVENT_OF = {Action.APPROVE: CardEventKind.RECYCLED, Action.HOLD: CardEventKind.HELD, Action.REFUSE: None}


def _card_after(card: Card, recycling: Recycling, recycling_id: UUID, policy: Policy) -> Card:
    if recycling.hold_until is not None:
        return card.held(recycling.create_time, recycling.hold_until)
    return card if recycling.state is RecyclingState.REJECTED else taken(card, recycling, recycling_id, policy)


def _reviews(recycling: Recycling, recycling_id: UUID, review_id: UUID) -> tuple[Review, ...]:
    """The review that waits for a person's verdict: on the recycle itself, or only on paying for it."""
    if recycling.hold_until is not None:
        kind = ReviewKind.RECYCLE
    elif recycling.settlement_held and recycling.compensation is not None:
        kind = ReviewKind.SETTLEMENT
    else:
        return ()
    if recycling.recycling_id is None or recycling.request_id is None:
        return ()  # a dry run
    return (
        opened(
            kind,
            recycling,
            recycling_id,
            recycling.decision,
            review_id=review_id,
            request_id=recycling.request_id,
            now=recycling.create_time,
            hold_until=recycling.hold_until,
        ),
    )


def taken(card: Card, recycling: Recycling, recycling_id: UUID, policy: Policy) -> Card:
    """The card that `recycling` has taken by its own `policy`, held before or not."""
    cancelled = recycling.disposition is Disposition.CANCEL
    gone = replace(
        card,
        state=CardState.VOID if cancelled else CardState.RECYCLED,
        live_recycling_id=recycling_id,
        held_since=None,
        hold_until=None,
        version=card.version + 1,
    )
    return gone if cancelled else waiting(gone, recycling, policy)


def _earliest(*times: datetime | None) -> datetime | None:
    return min((t for t in times if t is not None), default=None)
