"""Request messages to commands: names and units only. Raw devices, addresses and payouts end here. Must not decide or
look anything up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid5

from card_recycling.v1 import (
    card_service_pb2,
    insights_service_pb2,
    recycling_service_pb2,
    review_service_pb2,
    types_pb2,
    wallet_service_pb2,
)

from migrations.risk_log import TraceHasher
from migrations.risk_signals import clock_skew_seconds, derived_signals
from server.api import names
from server.api.times import optional_time
from server.domain.card import VoidReason
from server.domain.commands import (
    OWN_REQUEST_VERSION,
    Activate,
    BindDevice,
    Circumstances,
    Compensate,
    Exchange,
    Grant,
    IssueItem,
    Reactivate,
    Recycle,
    Redeem,
    Resolve,
    Void,
)
from server.domain.errors import Reason, Refusal
from server.domain.model_health import HealthQuestion
from server.domain.outcome import NewOutcome, OutcomeKind
from server.domain.recycling import RecycleReason, Unit
from server.domain.review import Review, ReviewVerdict

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
            reason=RecycleReason(names.REASON.name(request.reason)),
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
            reason=RecycleReason(names.REASON.name(request.reason)),
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

    def grant(self, request: recycling_service_pb2.CompensateRequest) -> Grant:
        """Compensate, with goodwill."""
        return Grant(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            recycling_id=UUID(request.recycling_id),
            unit=Unit(names.UNIT.name(request.goodwill.unit)),
            amount=request.goodwill.amount,
            note=request.goodwill.note,
            dry_run=request.validate_only,
            circumstances=Circumstances(payout_hash=self._payout_hash(request)),
        )

    def redeem(self, request: wallet_service_pb2.RedeemRequest) -> Redeem:
        """Redeem."""
        return Redeem(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            platform=request.platform,
            offer_id=request.offer_id,
            dry_run=request.validate_only,
            circumstances=Circumstances(payout_hash=self._payout_hash(request)),
        )

    def exchange(self, request: wallet_service_pb2.ExchangeRequest) -> Exchange:
        """Exchange."""
        return Exchange(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            platform=request.platform,
            unit=Unit(names.UNIT.name(request.unit)),
            amount=request.amount,
            to_platform=request.to_platform,
            to_unit=Unit(names.UNIT.name(request.to_unit)),
            min_amount=request.min_amount,
            dry_run=request.validate_only,
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
        """BindDevice. Raises Refusal where no device is named."""
        circumstances = self._circumstances(request)
        if circumstances.device_hash is None:
            problem = "must name the device"
            raise Refusal(Reason.FIELD_INVALID, f"device.device_id: {problem}", fields=(("device.device_id", problem),))
        return BindDevice(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            card_id=UUID(request.card_id),
            etag=request.etag,
            circumstances=circumstances,
        )

    def void(self, request: card_service_pb2.VoidCardRequest) -> Void:
        """VoidCard."""
        return Void(
            request_id=_request_id(request.request_id),
            account_id=request.account_id,
            card_id=UUID(request.card_id),
            reason=VoidReason(names.VOID_REASON.name(request.reason)),
            etag=request.etag,
        )

    def resolve(self, request: review_service_pb2.ResolveReviewRequest, review: Review) -> Resolve:
        """ResolveReview, about `review`. Without an id of the caller's the request's is made of its input."""
        command = Resolve(
            request_id=_request_id(request.request_id) if request.request_id else None,
            account_id=review.account_id,
            recycling_id=review.recycling_id,
            review_id=review.review_id,
            verdict=ReviewVerdict(names.REVIEW_VERDICT.name(request.verdict)),
            reviewer=request.reviewer,
            note=request.note,
            etag=request.etag,
        )
        return replace(command, request_id=command.request_id or uuid5(review.review_id, command.input_hash().hex()))

    def outcome(self, request: recycling_service_pb2.RecordOutcomeRequest) -> NewOutcome:
        """RecordOutcome."""
        return NewOutcome(
            account_id=request.account_id if request.HasField("account_id") else None,
            recycling_id=UUID(request.recycling_id),
            kind=OutcomeKind(names.OUTCOME_KIND.name(request.kind)),
            time=optional_time(request, "time"),
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
            tier=names.TIER.name(item.tier),
            segment=names.SEGMENT.known(item.segment),
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
        clock_time = optional_time(device, "clock_time", path="device.clock_time")
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
        | recycling_service_pb2.CompensateRequest
        | wallet_service_pb2.RedeemRequest,
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
    name = names.UNIT.known(number)
    return Unit(name) if name else None
