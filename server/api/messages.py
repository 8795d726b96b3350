"""Domain values to messages and back: names and units only. Must not decide or look anything up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from card_recycling.v1 import (
    card_service_pb2,
    insights_service_pb2,
    recycling_service_pb2,
    review_service_pb2,
    types_pb2,
    wallet_service_pb2,
)
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from migrations.risk_log import TraceHasher
from migrations.risk_signals import clock_skew_seconds, derived_signals
from server.domain.card import MICROSECOND, Card, VoidReason
from server.domain.commands import (
    OWN_REQUEST_VERSION,
    Activate,
    BindDevice,
    Circumstances,
    CloseWindow,
    Command,
    Compensate,
    Expire,
    ExpireCoupon,
    IssueItem,
    Lapse,
    Reactivate,
    Recycle,
    Resolve,
    Void,
)
from server.domain.errors import Reason, Refusal
from server.domain.lists import ListHit
from server.domain.model_health import HealthQuestion
from server.domain.outcome import NewOutcome, Outcome, OutcomeKind
from server.domain.recycling import Alternative, Compensation, Decision, RecycleReason, Recycling, Unit, Wallet
from server.domain.review import Review, ReviewVerdict
from server.domain.snapshot import Change

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SIGNALS_OF_DEVICE = ("emulator", "rooted", "vpn")
_SIGNALS_OF_BEHAVIOR = (
    "session_seconds",
    "page_views",
    "seconds_since_login",
    "failed_logins_24h",
    "captcha_failures",
    "copy_paste_used",
    "form_fill_ms",
    "failed_card_entries_24h",
)


class Names:
    """An enum's numbers to the domain's names (without the prefix) and back; UNSPECIFIED is None."""

    def __init__(self, enum: Any, prefix: str) -> None:
        self._name_of: dict[int, str] = {number: name.removeprefix(prefix) for name, number in enum.items()}
        self._number_of = {name: number for number, name in self._name_of.items()}

    def name(self, number: int) -> str:
        """The name of a number of the enum."""
        return self._name_of[number]

    def known(self, number: int) -> str | None:
        """The name; None when nothing was stated."""
        return self._name_of[number] if number else None

    def number(self, name: str | None) -> int:
        """The number of a name; 0 for none."""
        return self._number_of[name] if name else 0


_tier = Names(types_pb2.Tier, "TIER_")
_segment = Names(types_pb2.Segment, "SEGMENT_")
_card_state = Names(types_pb2.CardState, "CARD_STATE_")
_reason = Names(types_pb2.RecycleReason, "RECYCLE_REASON_")
_priority = Names(types_pb2.Priority, "PRIORITY_")
_recycling_state = Names(types_pb2.RecyclingState, "RECYCLING_STATE_")
_disposition = Names(types_pb2.Disposition, "DISPOSITION_")
_unit = Names(types_pb2.Unit, "UNIT_")
_compensation_state = Names(types_pb2.CompensationState, "COMPENSATION_STATE_")
_risk_band = Names(types_pb2.RiskBand, "RISK_BAND_")
_degraded_mode = Names(types_pb2.DegradedMode, "DEGRADED_MODE_")
_list_kind = Names(types_pb2.ListKind, "LIST_KIND_")
_subject_kind = Names(types_pb2.SubjectKind, "SUBJECT_KIND_")
_review_kind = Names(review_service_pb2.ReviewKind, "REVIEW_KIND_")
review_state = Names(review_service_pb2.ReviewState, "REVIEW_STATE_")
_review_verdict = Names(review_service_pb2.ReviewVerdict, "REVIEW_VERDICT_")
_outcome_kind = Names(recycling_service_pb2.OutcomeKind, "OUTCOME_KIND_")
_void_reason = Names(card_service_pb2.VoidReason, "VOID_REASON_")


# Messages to commands


class CommandParser:
    """Turns checked request messages into commands; raw devices, addresses and payouts end here."""

    def __init__(self, hasher: TraceHasher, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`now` tells what devices' clocks are compared with."""
        self._hasher = hasher
        self._now = now

    def quote(self, request: recycling_service_pb2.QuoteRecycleRequest) -> Recycle:
        """A dry run that also makes a token."""
        return Recycle(
            request_id=None,
            account_id=request.account_id,
            card_id=UUID(request.card_id),
            reason=RecycleReason(_reason.name(request.reason)),
            unit=_wanted_unit(request.compensation_unit),
            dry_run=True,
            quote=True,
            circumstances=self._circumstances(request),
        )

    def recycle(self, request: recycling_service_pb2.RecycleRequest) -> Recycle:
        """Recycle."""
        return Recycle(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            card_id=UUID(request.card_id),
            reason=RecycleReason(_reason.name(request.reason)),
            unit=_wanted_unit(request.compensation_unit),
            quote_token=request.quote_token,
            dry_run=request.validate_only,
            circumstances=self._circumstances(request),
        )

    def reactivate(self, request: recycling_service_pb2.ReactivateRequest) -> Reactivate:
        """Reactivate."""
        return Reactivate(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            recycling_id=UUID(request.recycling_id),
            dry_run=request.validate_only,
            circumstances=self._circumstances(request),
        )

    def compensate(self, request: recycling_service_pb2.CompensateRequest) -> Compensate:
        """Compensate."""
        return Compensate(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            recycling_id=UUID(request.recycling_id),
            dry_run=request.validate_only,
            circumstances=Circumstances(payout_hash=self._payout_hash(request)),
        )

    def activate(self, request: card_service_pb2.ActivateCardRequest) -> Activate:
        """ActivateCard."""
        return Activate(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            card_id=UUID(request.card_id),
            etag=request.etag,
            circumstances=self._circumstances(request),
        )

    def bind(self, request: card_service_pb2.BindDeviceRequest) -> BindDevice:
        """BindDevice."""
        return BindDevice(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            card_id=UUID(request.card_id),
            etag=request.etag,
            circumstances=self._circumstances(request),
        )

    def void(self, request: card_service_pb2.VoidCardRequest) -> Void:
        """VoidCard."""
        return Void(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            card_id=UUID(request.card_id),
            reason=VoidReason(_void_reason.name(request.reason)),
            etag=request.etag,
        )

    def resolve(self, request: review_service_pb2.ResolveReviewRequest, review: Review) -> Resolve:
        """ResolveReview, about `review`. Without an id of the caller's the request's is made of its input."""
        command = Resolve(
            request_id=_request_id(request.request_id) if request.request_id else None,
            account_id=review.account_id,
            recycling_id=review.recycling_id,
            review_id=review.review_id,
            verdict=ReviewVerdict(_review_verdict.name(request.verdict)),
            reviewer=request.reviewer,
            note=request.note,
            etag=request.etag,
        )
        return replace(command, request_id=command.request_id or uuid5(review.review_id, command.input_hash().hex()))

    def outcome(self, request: recycling_service_pb2.RecordOutcomeRequest) -> NewOutcome:
        """RecordOutcome."""
        time = optional_time(request, "time")
        assert time is not None, "the schema requires it"
        return NewOutcome(
            account_id=request.account_id if request.HasField("account_id") else None,
            recycling_id=UUID(request.recycling_id),
            kind=OutcomeKind(_outcome_kind.name(request.kind)),
            time=time,
        )

    def health_question(self, request: insights_service_pb2.GetModelHealthRequest) -> HealthQuestion:
        """GetModelHealth."""
        return HealthQuestion(
            from_time=optional_time(request, "from_time"),
            to_time=optional_time(request, "to_time"),
            platform=request.platform if request.HasField("platform") else None,
            mature_days=request.mature_days if request.HasField("mature_days") else None,
        )

    def issue_item(self, item: card_service_pb2.IssueCardsRequest.Item) -> IssueItem:
        """One item of IssueCards."""
        return IssueItem(
            request_id=_request_id(item.request_id),
            account_id=item.account_id,
            platform=item.platform,
            tier=_tier.name(item.tier),
            segment=_segment.known(item.segment),
            face_value_minor=item.face_value_minor,
            paid_minor=item.paid_minor,
            currency=item.currency,
            duration_days=item.duration_days,
            external_serial=item.external_serial if item.HasField("external_serial") else None,
            activate_by_time=optional_time(item, "activate_by_time"),
        )

    def _circumstances(
        self,
        request: recycling_service_pb2.QuoteRecycleRequest
        | recycling_service_pb2.RecycleRequest
        | recycling_service_pb2.ReactivateRequest
        | card_service_pb2.ActivateCardRequest
        | card_service_pb2.BindDeviceRequest,
    ) -> Circumstances:
        device, behavior = request.device, request.behavior
        profile = {
            "model": device.model,
            "os": device.os,
            "screen": device.screen,
            "language": device.language,
            "user_agent": device.user_agent,
        }
        traces = self._hasher.traces(device_id=device.device_id, ip=device.ip, profile=profile)
        signals = _known(device, _SIGNALS_OF_DEVICE) | _known(behavior, _SIGNALS_OF_BEHAVIOR)
        signals |= derived_signals(
            fingerprint=profile,
            emulator=device.emulator if device.HasField("emulator") else None,
            ip=device.ip,
            timezone=device.timezone,
            language=device.language,
        )
        clock_time = optional_time(device, "clock_time")
        if clock_time is not None:
            signals["clock_skew_seconds"] = clock_skew_seconds(clock_time, self._now())
        return Circumstances(
            device_hash=traces.device_hash,
            address_hash=traces.address_hash,
            prefix_hash=traces.prefix_hash,
            profile_hash=traces.profile_hash,
            payout_hash=(
                None
                if isinstance(request, card_service_pb2.ActivateCardRequest | card_service_pb2.BindDeviceRequest)
                else self._payout_hash(request)
            ),
            signals=signals,
        )

    def _payout_hash(
        self,
        request: recycling_service_pb2.QuoteRecycleRequest
        | recycling_service_pb2.RecycleRequest
        | recycling_service_pb2.ReactivateRequest
        | recycling_service_pb2.CompensateRequest,
    ) -> bytes | None:
        return self._hasher.payout(request.payout_id)


def _request_id(text: str) -> UUID:
    """A request id. Raises Refusal for one of the version that the service's own requests have."""
    request_id = UUID(text)
    if request_id.version == OWN_REQUEST_VERSION:
        problem = f"must not be a UUID of version {OWN_REQUEST_VERSION}: those are the service's own"
        raise Refusal(Reason.FIELD_INVALID, f"request_id: {problem}", fields=(("request_id", problem),))
    return request_id


def _known(message: types_pb2.Device | types_pb2.Behavior, fields: tuple[str, ...]) -> dict[str, float | int | bool]:
    return {field: getattr(message, field) for field in fields if message.HasField(field)}  # type: ignore[arg-type]


def _wanted_unit(number: int) -> Unit | None:
    name = _unit.known(number)
    return Unit(name) if name else None


def optional_time(message: Message, field: str) -> datetime | None:
    """An optional time. Raises Refusal for nanoseconds that are none; the schema has checked the seconds."""
    if not message.HasField(field):
        return None
    given: Timestamp = getattr(message, field)
    if not 0 <= given.nanos < 1_000_000_000:
        text = "nanos must lie between 0 and 999999999"
        raise Refusal(Reason.FIELD_INVALID, f"{field}: {text}", fields=((field, text),))
    return _EPOCH + timedelta(seconds=given.seconds, microseconds=given.nanos // 1000)


# Domain values to messages


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
                    card=card_message(change.card, change.now),
                    recycling=recycling_message(change.recycling),
                )
            case Compensate():
                assert change.recycling is not None and change.wallet is not None
                return recycling_service_pb2.CompensateResponse(
                    recycling=recycling_message(change.recycling), wallet=wallet_message(change.wallet)
                )
            case Activate():
                return card_service_pb2.ActivateCardResponse(card=card_message(change.card, change.now))
            case BindDevice():
                return card_service_pb2.BindDeviceResponse(card=card_message(change.card, change.now))
            case Expire() | CloseWindow():
                return card_service_pb2.GetCardResponse(card=card_message(change.card, change.now))
            case ExpireCoupon():
                assert change.wallet is not None
                return wallet_service_pb2.GetWalletResponse(wallet=wallet_message(change.wallet))
            case Void():
                return card_service_pb2.VoidCardResponse(card=card_message(change.card, change.now))
            case Resolve() | Lapse():
                assert change.recycling is not None
                return review_service_pb2.ResolveReviewResponse(
                    review=review_message(change.reviews[0]),
                    recycling=recycling_message(change.recycling),
                    card=card_message(change.card, change.now),
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
        tier=_tier.number(card.tier),  # type: ignore[arg-type]
        state=_card_state.number(card.state_at(now)),  # type: ignore[arg-type]
        face_value_minor=card.face_value_minor,
        paid_minor=card.paid_minor,
        currency=card.currency,
        duration_days=card.duration_days,
        issue_time=timestamp(card.issue_time),
        activate_by_time=timestamp(card.activate_by_time),
        activate_time=timestamp(card.activate_time),
        expire_time=timestamp(card.expire_time),
        bound_devices=[_device_handle(card, device_hash) for device_hash in card.bound_devices],
        segment=_segment.number(card.segment),  # type: ignore[arg-type]
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
        reason=_reason.number(recycling.reason),  # type: ignore[arg-type]
        priority=_priority.number(recycling.priority),  # type: ignore[arg-type]
        state=_recycling_state.number(recycling.state),  # type: ignore[arg-type]
        disposition=_disposition.number(recycling.disposition),  # type: ignore[arg-type]
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
        kind=_review_kind.number(review.kind),  # type: ignore[arg-type]
        state=review_state.number(review.state),  # type: ignore[arg-type]
        account_id=review.account_id,
        card_id=str(review.card_id),
        recycling_id=str(review.recycling_id),
        platform=review.platform,
        risk_score=review.risk_score,
        risk_band=_risk_band.number(review.risk_band),  # type: ignore[arg-type]
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
        risk_band=_risk_band.number(decision.risk_band),  # type: ignore[arg-type]
        reason_codes=decision.reason_codes,
        alternatives=map(_alternative_message, decision.alternatives),
        policy_revision=decision.policy_revision,
        model_version=decision.model_version,
        degraded=decision.degraded,
        valid_until=timestamp(decision.valid_until),
        degraded_mode=_degraded_mode.number(decision.degraded_mode),  # type: ignore[arg-type]
        list_hits=map(_list_hit_message, decision.list_hits),
        explored=decision.explored,
        propensity=decision.propensity,
    )


def outcome_message(outcome: Outcome) -> recycling_service_pb2.Outcome:
    """What became of a recycling."""
    return recycling_service_pb2.Outcome(
        account_id=outcome.account_id,
        recycling_id=str(outcome.recycling_id),
        kind=_outcome_kind.number(outcome.kind),  # type: ignore[arg-type]
        time=timestamp(outcome.time),
        record_time=timestamp(outcome.record_time),
        attribution=recycling_service_pb2.Outcome.Attribution(
            platform=outcome.platform,
            policy_revision=f"{outcome.platform}@{outcome.policy_revision}",
            model_version=outcome.model_version,
            risk_score=outcome.risk_score,
            state=_recycling_state.number(outcome.state),  # type: ignore[arg-type]
        ),
    )


def wallet_message(wallet: Wallet) -> types_pb2.Wallet:
    """What an account holds."""
    return types_pb2.Wallet(
        account_id=wallet.account_id,
        balances=[
            types_pb2.Balance(
                platform=balance.platform,
                unit=_unit.number(balance.unit),  # type: ignore[arg-type]
                amount=balance.amount,
            )
            for balance in wallet.balances
        ],
        coupons=[
            types_pb2.Coupon(
                coupon_id=str(coupon.coupon_id),
                platform=coupon.platform,
                basis_points=coupon.basis_points,
                max_discount_minor=coupon.max_discount_minor,
                expire_time=timestamp(coupon.expire_time),
            )
            for coupon in wallet.coupons
        ],
    )


def _compensation_message(compensation: Compensation) -> types_pb2.Compensation:
    return types_pb2.Compensation(
        unit=_unit.number(compensation.unit),  # type: ignore[arg-type]
        amount=compensation.amount,
        basis_points=compensation.basis_points,
        expire_time=timestamp(compensation.expire_time),
        max_discount_minor=compensation.max_discount_minor,
        state=_compensation_state.number(compensation.state),  # type: ignore[arg-type]
    )


def _list_hit_message(hit: ListHit) -> types_pb2.ListHit:
    return types_pb2.ListHit(
        list=_list_kind.number(hit.list),  # type: ignore[arg-type]
        subject_kind=_subject_kind.number(hit.subject_kind),  # type: ignore[arg-type]
        entry_id=str(hit.entry_id),
    )


def _alternative_message(alternative: Alternative) -> types_pb2.Alternative:
    return types_pb2.Alternative(
        disposition=_disposition.number(alternative.disposition),  # type: ignore[arg-type]
        revenue=alternative.revenue,
        probability=alternative.probability,
        cost=alternative.cost,
        y=alternative.y,
        allowed=alternative.allowed,
        why=alternative.why,
    )


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A time; None where there is none."""
    if moment is None:
        return None
    microseconds = (moment - _EPOCH) // MICROSECOND
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)
