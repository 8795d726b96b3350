"""Domain values to messages: names and units only. Must not decide or look anything up."""

from __future__ import annotations

import hashlib
from datetime import datetime

from card_recycling.v1 import (
    card_service_pb2,
    recycling_service_pb2,
    review_service_pb2,
    types_pb2,
    wallet_service_pb2,
)
from google.protobuf.message import Message

from server.api import names
from server.api.times import timestamp
from server.api.wallet_messages import redemption_message, wallet_message
from server.domain.card import Card
from server.domain.commands import (
    Activate,
    BindDevice,
    CloseWindow,
    Command,
    Compensate,
    Exchange,
    Expire,
    ExpireCoupon,
    Grant,
    Lapse,
    Reactivate,
    Recycle,
    Redeem,
    Resolve,
    Void,
)
from server.domain.lists import ListHit
from server.domain.outcome import Outcome
from server.domain.recycling import Alternative, Compensation, Decision, Recycling
from server.domain.review import Review
from server.domain.snapshot import Change


class MessageRenderer:
    """The engine's Renderer: answers as the serialized messages that callers get."""

    def answer(self, command: Command, change: Change) -> bytes:
        """The serialized response message of the command's RPC."""
        return self._answer(command, change).SerializeToString()

    def card(self, card: Card, now: datetime) -> bytes:
        """A serialized card, as at `now`."""
        return card_message(card, now).SerializeToString()

    def _answer(self, command: Command, change: Change) -> Message:
        match command:
            case Recycle(quote=True):
                assert change.recycling is not None
                return recycling_service_pb2.QuoteRecycleResponse(
                    recycling=recycling_message(change.recycling),
                    quote_token=change.quote_token,
                    quote_expire_time=timestamp(change.quote_expire_time),
                )
            case Recycle():
                assert change.recycling is not None
                return recycling_service_pb2.RecycleResponse(recycling=recycling_message(change.recycling))
            case Reactivate():
                assert change.recycling is not None and change.decision is not None
                state = "REJECTED" if change.refused else "IN_REVIEW" if change.held else "APPROVED"
                return recycling_service_pb2.ReactivateResponse(
                    state=recycling_service_pb2.ReactivationState.Value(f"REACTIVATION_STATE_{state}"),
                    decision=decision_message(change.decision),
                    card=card_message(change.known_card(), change.now),
                    recycling=recycling_message(change.recycling),
                )
            case Compensate() | Grant():
                assert change.recycling is not None and change.wallet is not None
                return recycling_service_pb2.CompensateResponse(
                    recycling=recycling_message(change.recycling), wallet=wallet_message(change.wallet)
                )
            case Redeem():
                assert change.redemption is not None and change.wallet is not None
                return wallet_service_pb2.RedeemResponse(
                    redemption=redemption_message(change.redemption), wallet=wallet_message(change.wallet)
                )
            case Exchange():
                assert change.in_return is not None and change.wallet is not None
                return wallet_service_pb2.ExchangeResponse(
                    amount_out=change.in_return.amount, wallet=wallet_message(change.wallet)
                )
            case Activate():
                return card_service_pb2.ActivateCardResponse(card=card_message(change.known_card(), change.now))
            case BindDevice():
                return card_service_pb2.BindDeviceResponse(card=card_message(change.known_card(), change.now))
            case Expire() | CloseWindow():
                return card_service_pb2.GetCardResponse(card=card_message(change.known_card(), change.now))
            case ExpireCoupon():
                assert change.wallet is not None
                return wallet_service_pb2.GetWalletResponse(wallet=wallet_message(change.wallet))
            case Void():
                return card_service_pb2.VoidCardResponse(card=card_message(change.known_card(), change.now))
            case Resolve() | Lapse():
                assert change.recycling is not None
                return review_service_pb2.ResolveReviewResponse(
                    review=review_message(change.reviews[0]),
                    recycling=recycling_message(change.recycling),
                    card=card_message(change.known_card(), change.now),
                )
        raise AssertionError(f"no answer for {type(command).__name__}")


def card_message(card: Card, now: datetime) -> types_pb2.Card:
    """A card as it stands at `now`."""
    card = card.at(now)
    return types_pb2.Card(
        card_id=str(card.card_id),
        external_serial=card.external_serial,
        account_id=card.account_id,
        platform=card.platform,
        tier=names.TIER.number(card.tier),  # type: ignore[arg-type]
        state=names.CARD_STATE.number(card.state_at(now)),  # type: ignore[arg-type]
        face_value_minor=card.face_value_minor,
        paid_minor=card.paid_minor,
        currency=card.currency,
        duration_days=card.duration_days,
        issue_time=timestamp(card.issue_time),
        activate_by_time=timestamp(card.activate_by_time),
        activate_time=timestamp(card.activate_time),
        expire_time=timestamp(card.expire_time),
        bound_devices=[_device_handle(card, device_hash) for device_hash in card.bound_devices],
        segment=names.SEGMENT.number(card.segment),  # type: ignore[arg-type]
        generation=card.generation,
        renewals_used=card.renewals_used,
        etag=card.etag,
        held_since=timestamp(card.held_since),
        hold_until=timestamp(card.hold_until),
    )


def _device_handle(card: Card, device_hash: bytes) -> str:
    """What stands for a bound device: the same for the same device on this card, another one on any other."""
    return hashlib.sha256(card.card_id.bytes + device_hash).hexdigest()[:32]


def recycling_message(recycling: Recycling) -> types_pb2.Recycling:
    """A recycling."""
    return types_pb2.Recycling(
        recycling_id=str(recycling.recycling_id or ""),
        request_id=str(recycling.request_id or ""),
        account_id=recycling.account_id,
        card_id=str(recycling.card_id),
        generation=recycling.generation,
        reason=names.REASON.number(recycling.reason),  # type: ignore[arg-type]
        priority=names.PRIORITY.number(recycling.priority),  # type: ignore[arg-type]
        state=names.RECYCLING_STATE.number(recycling.state),  # type: ignore[arg-type]
        disposition=names.DISPOSITION.number(recycling.disposition),  # type: ignore[arg-type]
        fee_minor=recycling.fee_minor,
        compensation=_compensation_message(recycling.compensation) if recycling.compensation else None,
        decision=decision_message(recycling.decision),
        create_time=timestamp(recycling.create_time),
        version=recycling.version,
        hold_until=timestamp(recycling.hold_until),
        settle_after_time=timestamp(recycling.settle_after_time),
        settlement_held=recycling.settlement_held,
    )


def review_message(review: Review) -> review_service_pb2.Review:
    """A review, without evidence."""
    return review_service_pb2.Review(
        review_id=str(review.review_id),
        kind=names.REVIEW_KIND.number(review.kind),  # type: ignore[arg-type]
        state=names.REVIEW_STATE.number(review.state),  # type: ignore[arg-type]
        account_id=review.account_id,
        card_id=str(review.card_id),
        recycling_id=str(review.recycling_id),
        platform=review.platform,
        risk_score=review.risk_score,
        risk_band=names.RISK_BAND.number(review.risk_band),  # type: ignore[arg-type]
        reason_codes=review.reason_codes,
        create_time=timestamp(review.create_time),
        hold_until=timestamp(review.hold_until),
        claimed_by=review.claimed_by or "",
        claim_until=timestamp(review.claim_until),
        reviewer=review.reviewer or "",
        note=review.note,
        resolve_time=timestamp(review.resolve_time),
        policy_revision=review.policy_revision,
        model_version=review.model_version,
        etag=review.etag,
    )


def decision_message(decision: Decision) -> types_pb2.Decision:
    """How an answer came about."""
    return types_pb2.Decision(
        risk_score=decision.risk_score,
        risk_band=names.RISK_BAND.number(decision.risk_band),  # type: ignore[arg-type]
        reason_codes=decision.reason_codes,
        alternatives=map(_alternative_message, decision.alternatives),
        policy_revision=decision.policy_revision,
        model_version=decision.model_version,
        degraded=decision.degraded,
        valid_until=timestamp(decision.valid_until),
        degraded_mode=names.DEGRADED_MODE.number(decision.degraded_mode),  # type: ignore[arg-type]
        list_hits=map(_list_hit_message, decision.list_hits),
        explored=decision.explored,
        propensity=decision.propensity,
        conversion_model_version=decision.conversion_model_version,
    )


def outcome_message(outcome: Outcome) -> recycling_service_pb2.Outcome:
    """What became of a recycling."""
    return recycling_service_pb2.Outcome(
        account_id=outcome.account_id,
        recycling_id=str(outcome.recycling_id),
        kind=names.OUTCOME_KIND.number(outcome.kind),  # type: ignore[arg-type]
        time=timestamp(outcome.time),
        record_time=timestamp(outcome.record_time),
        attribution=recycling_service_pb2.Outcome.Attribution(
            platform=outcome.platform,
            policy_revision=f"{outcome.platform}@{outcome.policy_revision}",
            model_version=outcome.model_version,
            risk_score=outcome.risk_score,
            state=names.RECYCLING_STATE.number(outcome.state),  # type: ignore[arg-type]
        ),
    )


def _compensation_message(compensation: Compensation) -> types_pb2.Compensation:
    return types_pb2.Compensation(
        unit=names.UNIT.number(compensation.unit),  # type: ignore[arg-type]
        amount=compensation.amount,
        basis_points=compensation.basis_points,
        expire_time=timestamp(compensation.expire_time),
        max_discount_minor=compensation.max_discount_minor,
        state=names.COMPENSATION_STATE.number(compensation.state),  # type: ignore[arg-type]
    )


def _list_hit_message(hit: ListHit) -> types_pb2.ListHit:
    return types_pb2.ListHit(
        list=names.LIST_KIND.number(hit.list),  # type: ignore[arg-type]
        subject_kind=names.SUBJECT_KIND.number(hit.subject_kind),  # type: ignore[arg-type]
        entry_id=str(hit.entry_id),
    )


def _alternative_message(alternative: Alternative) -> types_pb2.Alternative:
    return types_pb2.Alternative(
        disposition=names.DISPOSITION.number(alternative.disposition),  # type: ignore[arg-type]
        revenue=alternative.revenue,
        probability=alternative.probability,
        cost=alternative.cost,
        y=alternative.y,
        allowed=alternative.allowed,
        why=alternative.why,
        recycling_cost=alternative.recycling_cost,
        opportunity_cost=alternative.opportunity_cost,
        user_damage=alternative.user_damage,
        probability_source=names.PROBABILITY_SOURCE.number(alternative.probability_source),  # type: ignore[arg-type]
        prior=alternative.prior,
        model_probability=alternative.model_probability,
        support=alternative.support,
    )
