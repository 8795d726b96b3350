"""The decisions: from a snapshot, a score and a moment to the one change that follows. Pure.

Each command has a `check` (all that can refuse it before risk is looked at) and a `decide`. The order of the checks
is part of the contract: existence, state, trigger, risk. Must not know batches, statements or the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from server.domain.card import DAY, Card, CardEventKind, CardState, VoidReason
from server.domain.commands import Activate, Command, Compensate, Reactivate, Recycle, Void
from server.domain.compensation import BASIS_POINTS, Terms, terms
from server.domain.errors import Reason, Refusal
from server.domain.policy import Policy, ReactivationRule, RestoredValidity, RevenueBasis, WithoutScore
from server.domain.quote import QuoteSigner, quote_expire_time
from server.domain.recycling import (
    PRIORITY_OF,
    Alternative,
    Compensation,
    CompensationState,
    Coupon,
    Decision,
    Disposition,
    RecycleReason,
    Recycling,
    RecyclingState,
    RiskBand,
    Unit,
    Wallet,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The worker's answer for one request: a probability, the thresholds of the model that gave it, and its version."""

    probability: float
    medium_threshold: float
    high_threshold: float
    model_version: str

    @property
    def band(self) -> RiskBand:
        """HIGH and MEDIUM begin at their thresholds."""
        if self.probability >= self.high_threshold:
            return RiskBand.HIGH
        return RiskBand.MEDIUM if self.probability >= self.medium_threshold else RiskBand.LOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a decision may read, as of `now`. `policy` is the recycling's own where the command names one,
    else the one in force. `recycling` is the one named, or the live one of the card."""

    now: datetime
    card: Card | None
    recycling: Recycling | None
    policy: Policy | None
    policy_revision: int | None
    wallet: Wallet

    @property
    def revision_name(self) -> str:
        """The policy revision as callers see it, e.g. "iqiyi@1"."""
        return f"{self.policy.platform}@{self.policy_revision}" if self.policy else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """`amount` of a unit into the wallet (out of it when negative), for one recycling."""

    platform: str
    unit: Unit
    amount: int
    recycling_id: UUID
    coupon: Coupon | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What follows from one command: how things stand afterwards, and what of that must be written.

    It must be recorded before `valid_until`. `refused` says that risk refused it.
    """

    now: datetime
    card: Card
    card_event: CardEventKind | None = None
    recycling: Recycling | None = None
    recycling_changed: bool = False
    wallet: Wallet | None = None
    transfer: Transfer | None = None
    decision: Decision | None = None
    refused: bool = False
    valid_until: datetime | None = None
    quote_token: str = ""
    quote_expire_time: datetime | None = None


def check(command: Command, snapshot: Snapshot, signer: QuoteSigner) -> None:
    """Raises Refusal when the command fails before risk is looked at."""
    match command:
        case Recycle():
            _check_recycle(command, snapshot, signer)
        case Reactivate():
            _check_reactivate(snapshot)
        case Compensate():
            _check_compensate(snapshot)
        case Activate() | Void():
            _check_card_command(command, snapshot)


def decide(
    command: Command, snapshot: Snapshot, score: Score | None, *, recycling_id: UUID, signer: QuoteSigner
) -> Change:
    """The change that `command` makes. Call `check` first. `score` is None when none was needed, or none was to be had.

    Raises Refusal FRAUD_SCORE_UNAVAILABLE when the policy needs a score that is missing.
    """
    match command:
        case Recycle():
            return _decide_recycle(command, snapshot, score, recycling_id, signer)
        case Reactivate():
            return _decide_reactivate(snapshot, score)
        case Compensate():
            return _decide_compensate(snapshot)
        case Activate():
            return _decide_activate(snapshot)
        case Void():
            return _decide_void(command, snapshot)
    raise AssertionError(f"no decision for {type(command).__name__}")


# Recycle


def _check_recycle(command: Recycle, snapshot: Snapshot, signer: QuoteSigner) -> None:
    card, policy, now = _known_card(snapshot), _policy(snapshot), snapshot.now
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


def _decide_recycle(
    command: Recycle, snapshot: Snapshot, score: Score | None, recycling_id: UUID, signer: QuoteSigner
) -> Change:
    card, policy, now = _known_card(snapshot), _policy(snapshot), snapshot.now
    price = terms(card, policy, now)
    verdict = _judge(score, policy, command.reason)
    refused = verdict.refused
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
        policy_revision=_revision(snapshot),
        decision=_decision(snapshot, score, verdict, alternatives, card.valid_until(now)),
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
        valid_until=_earliest(recycling.decision.valid_until, quoted_until),
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
        if rule.disposition is Disposition.RESET_VALIDITY and _renewals_exhausted(card, policy.reactivation):
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
    """The allowed alternative with the greatest Y, the first listed among equals. If the card rules out every one,
    the last listed stands."""
    allowed = [a for a in alternatives if a.allowed] or [alternatives[-1]]
    return max(allowed, key=lambda a: a.y).disposition


# Reactivate


def _check_reactivate(snapshot: Snapshot) -> None:
    recycling = _known_recycling(snapshot)
    card, policy, now = _known_card(snapshot), _policy(snapshot), snapshot.now
    if recycling.state is not RecyclingState.APPROVED:
        raise Refusal(Reason.RECYCLING_STATE_INVALID, f"a recycling that is {recycling.state} cannot be undone")
    rule = policy.reactivation
    if rule is None:
        raise Refusal(Reason.REACTIVATION_NOT_ALLOWED, f"{policy.platform} never gives a card back")
    if _renewals_exhausted(card, rule):
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


def _decide_reactivate(snapshot: Snapshot, score: Score | None) -> Change:
    recycling = _known_recycling(snapshot)
    card, policy, now = _known_card(snapshot), _policy(snapshot), snapshot.now
    rule = policy.reactivation
    assert rule is not None and recycling.recycling_id is not None
    verdict = _judge(score, policy, recycling.reason)
    window_end = recycling.create_time + rule.window_days * DAY
    decision = _decision(snapshot, score, verdict, (), window_end)
    if verdict.refused:
        return Change(now=now, card=card, recycling=recycling, decision=decision, refused=True, valid_until=window_end)
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
        decision=decision,
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


def _renewals_exhausted(card: Card, rule: ReactivationRule | None) -> bool:
    return rule is not None and rule.renewals_max is not None and card.renewals_used >= rule.renewals_max


# Compensate


def _check_compensate(snapshot: Snapshot) -> None:
    recycling = _known_recycling(snapshot)
    if recycling.state is not RecyclingState.APPROVED:
        raise Refusal(Reason.RECYCLING_STATE_INVALID, f"a recycling that is {recycling.state} pays nothing")
    if recycling.compensation is None:
        raise Refusal(Reason.RECYCLING_STATE_INVALID, "this recycling came with no compensation")
    if recycling.compensation.state is CompensationState.SETTLED:
        raise Refusal(Reason.ALREADY_COMPENSATED, "the compensation is settled already")
    if recycling.compensation.state is CompensationState.BLOCKED:
        raise Refusal(Reason.COMPENSATION_BLOCKED, "the card was paid back elsewhere")
    if recycling.settlement_held:
        raise Refusal(Reason.SETTLEMENT_NOT_DUE, "settlement is held until a review")
    if recycling.settle_after_time is not None and snapshot.now < recycling.settle_after_time:
        raise Refusal(Reason.SETTLEMENT_NOT_DUE, f"settlement is due from {recycling.settle_after_time.isoformat()}")


def _decide_compensate(snapshot: Snapshot) -> Change:
    recycling, card = _known_recycling(snapshot), _known_card(snapshot)
    owed = recycling.compensation
    assert owed is not None and recycling.recycling_id is not None
    coupon = None
    if owed.basis_points is not None and owed.expire_time is not None and owed.max_discount_minor is not None:
        coupon = Coupon(
            coupon_id=recycling.recycling_id,
            platform=recycling.platform,
            basis_points=owed.basis_points,
            max_discount_minor=owed.max_discount_minor,
            expire_time=owed.expire_time,
        )
    return Change(
        now=snapshot.now,
        card=card,
        recycling=replace(
            recycling,
            compensation=replace(owed, state=CompensationState.SETTLED),
            version=recycling.version + 1,
        ),
        recycling_changed=True,
        wallet=snapshot.wallet.after(recycling.platform, owed.unit, owed.amount, coupon),
        transfer=Transfer(
            platform=recycling.platform,
            unit=owed.unit,
            amount=owed.amount,
            recycling_id=recycling.recycling_id,
            coupon=coupon,
        ),
    )


# ActivateCard and VoidCard


def _check_card_command(command: Activate | Void, snapshot: Snapshot) -> None:
    card = _known_card(snapshot)
    if command.etag and command.etag != card.etag:
        raise Refusal(Reason.ETAG_MISMATCH, f"the card's etag is {card.etag}")
    state = card.state_at(snapshot.now)
    if isinstance(command, Activate) and state is not CardState.ISSUED:
        raise Refusal(Reason.CARD_STATE_INVALID, f"a card that is {state} cannot be activated")
    if isinstance(command, Void) and state is CardState.VOID and not _blocks_pending(command, snapshot):
        raise Refusal(Reason.CARD_STATE_INVALID, "the card is VOID already")


def _decide_activate(snapshot: Snapshot) -> Change:
    card, now = _known_card(snapshot), snapshot.now
    active = replace(
        card,
        state=CardState.ACTIVE,
        activate_time=now,
        expire_time=now + card.duration,
        version=card.version + 1,
    )
    return Change(now=now, card=active, card_event=CardEventKind.ACTIVATED, valid_until=card.activate_by_time)


def _decide_void(command: Void, snapshot: Snapshot) -> Change:
    card, recycling = _known_card(snapshot), snapshot.recycling
    already_void = card.state is CardState.VOID
    change = Change(
        now=snapshot.now,
        card=card if already_void else replace(card, state=CardState.VOID, version=card.version + 1),
        card_event=None if already_void else CardEventKind.VOIDED,
    )
    if recycling is None or recycling.compensation is None or not _blocks_pending(command, snapshot):
        return change
    blocked = replace(
        recycling,
        compensation=replace(recycling.compensation, state=CompensationState.BLOCKED),
        version=recycling.version + 1,
    )
    return replace(change, recycling=blocked, recycling_changed=True)


def _blocks_pending(command: Void, snapshot: Snapshot) -> bool:
    """A card paid back in money must not be compensated as well, even if recycling has cancelled it before."""
    recycling = snapshot.recycling
    pending = (
        recycling is not None
        and recycling.compensation is not None
        and recycling.compensation.state is CompensationState.PENDING
    )
    return pending and command.reason in (VoidReason.REFUNDED, VoidReason.CHARGEBACK)


# What the decisions share


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What risk has to say. `degraded`: it had no score."""

    band: RiskBand | None
    degraded: bool
    refused: bool
    settlement_held: bool


def _judge(score: Score | None, policy: Policy, reason: RecycleReason) -> _Verdict:
    """MEDIUM and HIGH refuse, except for the reasons that the policy never refuses: there, as where there is no score,
    settlement is held instead. Raises Refusal FRAUD_SCORE_UNAVAILABLE where the policy needs a score that is missing."""
    may_refuse = reason not in policy.risk.never_refused_reasons
    if score is None and may_refuse and policy.risk.without_score is WithoutScore.REFUSE:
        raise Refusal(Reason.FRAUD_SCORE_UNAVAILABLE, "the risk of this request cannot be judged at the moment")
    suspicious = score is None or score.band is not RiskBand.LOW
    refused = score is not None and suspicious and may_refuse
    return _Verdict(
        band=score.band if score else None,
        degraded=score is None,
        refused=refused,
        settlement_held=suspicious and not refused,
    )


def _decision(
    snapshot: Snapshot,
    score: Score | None,
    verdict: _Verdict,
    alternatives: tuple[Alternative, ...],
    valid_until: datetime | None,
) -> Decision:
    codes = []
    if verdict.band is RiskBand.MEDIUM or verdict.band is RiskBand.HIGH:
        codes.append(f"RISK_{verdict.band}")
    if verdict.degraded:
        codes.append("SCORE_UNAVAILABLE")
    return Decision(
        risk_score=score.probability if score else None,
        risk_band=verdict.band,
        reason_codes=tuple(codes),
        alternatives=alternatives,
        policy_revision=snapshot.revision_name,
        model_version=score.model_version if score else "",
        degraded=verdict.degraded,
        valid_until=valid_until,
    )


def _known_card(snapshot: Snapshot) -> Card:
    if snapshot.card is None:
        raise Refusal(Reason.CARD_NOT_FOUND, "no such card in this account")
    return snapshot.card


def _known_recycling(snapshot: Snapshot) -> Recycling:
    if snapshot.recycling is None:
        raise Refusal(Reason.RECYCLING_NOT_FOUND, "no such recycling in this account")
    return snapshot.recycling


def _policy(snapshot: Snapshot) -> Policy:
    assert snapshot.policy is not None, "a card exists whose platform has no policy"
    return snapshot.policy


def _revision(snapshot: Snapshot) -> int:
    assert snapshot.policy_revision is not None
    return snapshot.policy_revision


def _earliest(*times: datetime | None) -> datetime | None:
    return min((t for t in times if t is not None), default=None)
