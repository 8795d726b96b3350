"""Recycle: whether a card may be taken back, what becomes of it and what its owner gets. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from server.domain.card import DAY, Card, CardEventKind, CardState
from server.domain.commands import Recycle
from server.domain.compensation import BASIS_POINTS, Terms, terms
from server.domain.errors import Reason, Refusal
from server.domain.policy import Policy, RevenueBasis
from server.domain.quote import QuoteSigner, quote_expire_time
from server.domain.recycling import PRIORITY_OF, Alternative, Disposition, Recycling, RecyclingState
from server.domain.risk import Action, decision, judge
from server.domain.snapshot import Change, Score, Snapshot


def check_recycle(command: Recycle, snapshot: Snapshot, signer: QuoteSigner) -> None:
    card, policy, now = snapshot.known_card(), snapshot.known_policy(), snapshot.now
    state = card.state_at(now)
    if card.live_recycling_id is not None:
        raise Refusal(Reason.CARD_ALREADY_RECYCLED, "this generation of the card was recycled already")
    if state not in policy.trigger.card_states:
        raise Refusal(Reason.CARD_STATE_INVALID, f"a card that is {state} cannot be recycled on {policy.platform}")
    if command.reason not in policy.trigger.reasons:
        raise Refusal(Reason.TRIGGER_NOT_ALLOWED, f"{policy.platform} does not recycle for {command.reason}")
    wait = policy.trigger.wait_after_expiry_days * DAY
    if state is CardState.EXPIRED:
        expired_since = card.bound()
        assert expired_since is not None
        if now < expired_since + wait:
            raise Refusal(Reason.TRIGGER_NOT_ALLOWED, "the wait after the card's expiry is not over")
    price = terms(card, policy, now)
    if command.unit is not None and command.unit is not policy.compensation.unit:
        raise Refusal(
            Reason.FIELD_INVALID,
            f"{policy.platform} does not compensate in {command.unit}",
            fields=(("compensation_unit", f"must be {policy.compensation.unit} or left out"),),
        )
    if command.quote_token and not signer.holds(
        command.quote_token, card, command.reason, snapshot.revision_name, price, now
    ):
        raise Refusal(Reason.QUOTE_STALE, "the quote has expired, or its terms no longer hold")


def decide_recycle(
    command: Recycle, snapshot: Snapshot, score: Score | None, recycling_id: UUID, signer: QuoteSigner
) -> Change:
    card, policy, now = snapshot.known_card(), snapshot.known_policy(), snapshot.now
    price = terms(card, policy, now)
    verdict = judge(score, policy, may_refuse=command.reason not in policy.risk.never_refused_reasons)
    refused = verdict.action is not Action.APPROVE  # a held card that nobody can release would be worse
    alternatives = weigh(card, policy, price)
    recycling = Recycling(
        recycling_id=None if command.dry_run else recycling_id,
        request_id=command.request_id,
        account_id=card.account_id,
        card_id=card.card_id,
        generation=card.generation,
        reason=command.reason,
        priority=PRIORITY_OF[command.reason],
        state=RecyclingState.REJECTED if refused else RecyclingState.APPROVED,
        disposition=None if refused else choose(alternatives),
        fee_minor=0 if refused else price.fee_minor,
        prior_state=card.state_at(now),
        unused=card.unused_at(now),
        compensation=None if refused else price.compensation,
        settle_after_time=None if refused else now + policy.settle_after_days * DAY,
        settlement_held=verdict.settlement_held,
        platform=policy.platform,
        policy_revision=snapshot.known_revision(),
        decision=decision(snapshot, score, verdict, alternatives, _earliest(card.valid_until(now), price.change_time)),
        create_time=now,
        version=1,
    )
    token, expire_time = "", None
    if command.quote and not refused:
        expire_time = quote_expire_time(price, now, card.valid_until(now))
        token = signer.sign(card, command.reason, snapshot.revision_name, price, expire_time)
    quoted_until = (
        signer.holds(command.quote_token, card, command.reason, snapshot.revision_name, price, now)
        if command.quote_token
        else None
    )
    taken = card if refused else _taken(card, recycling, recycling_id)
    return Change(
        now=now,
        card=taken,
        card_event=None if refused else CardEventKind.RECYCLED,
        recycling=recycling,
        recycling_changed=True,
        decision=recycling.decision,
        refused=refused,
        valid_until=_earliest(card.valid_until(now), quoted_until),
        quote_token=token,
        quote_expire_time=expire_time,
    )


def _taken(card: Card, recycling: Recycling, recycling_id: UUID) -> Card:
    cancelled = recycling.disposition is Disposition.CANCEL
    return replace(
        card,
        state=CardState.VOID if cancelled else CardState.RECYCLED,
        live_recycling_id=recycling_id,
        version=card.version + 1,
    )


def weigh(card: Card, policy: Policy, price: Terms) -> tuple[Alternative, ...]:
    """Every disposition with Y = R * P - C in minor units; what the policy's terms rule out for this card says why."""
    alternatives = []
    for rule in policy.dispositions:
        of_face = rule.revenue_basis is RevenueBasis.FACE_VALUE
        revenue = (card.face_value_minor if of_face else price.base_minor) * rule.revenue_basis_points / BASIS_POINTS
        why = ""
        if rule.disposition is not Disposition.CANCEL and policy.renewals_exhausted(card.renewals_used):
            why = "the card's validity cannot be renewed again"
        alternatives.append(
            Alternative(
                disposition=rule.disposition,
                revenue=revenue,
                probability=rule.probability,
                cost=float(rule.cost_minor),
                y=revenue * rule.probability - rule.cost_minor,
                allowed=not why,
                why=why,
            )
        )
    return tuple(alternatives)


def choose(alternatives: tuple[Alternative, ...]) -> Disposition:
    """The allowed alternative with the greatest Y, the first listed among equals."""
    return max((a for a in alternatives if a.allowed), key=lambda a: a.y).disposition


def _earliest(*times: datetime | None) -> datetime | None:
    return min((t for t in times if t is not None), default=None)
