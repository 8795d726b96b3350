"""Why the service says no. Knows the reasons of the contract; must not know gRPC codes (that table is in `api`)."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The machine-readable reason of an error, as callers see it in `ErrorInfo.reason`."""

    FIELD_INVALID = "FIELD_INVALID"
    DEADLINE_REQUIRED = "DEADLINE_REQUIRED"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    CONFLICT_RETRY = "CONFLICT_RETRY"
    CARD_ALREADY_RECYCLED = "CARD_ALREADY_RECYCLED"
    CARD_STATE_INVALID = "CARD_STATE_INVALID"
    TRIGGER_NOT_ALLOWED = "TRIGGER_NOT_ALLOWED"
    REACTIVATION_NOT_ALLOWED = "REACTIVATION_NOT_ALLOWED"
    REACTIVATION_WINDOW_CLOSED = "REACTIVATION_WINDOW_CLOSED"
    RENEWALS_EXHAUSTED = "RENEWALS_EXHAUSTED"
    ALREADY_COMPENSATED = "ALREADY_COMPENSATED"
    SETTLEMENT_NOT_DUE = "SETTLEMENT_NOT_DUE"
    COMPENSATION_BLOCKED = "COMPENSATION_BLOCKED"
    COMPENSATION_SPENT = "COMPENSATION_SPENT"
    RECYCLING_STATE_INVALID = "RECYCLING_STATE_INVALID"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    WALLET_HELD = "WALLET_HELD"
    EXCHANGE_NOT_OFFERED = "EXCHANGE_NOT_OFFERED"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    QUOTE_STALE = "QUOTE_STALE"
    POLICY_PUMPABLE = "POLICY_PUMPABLE"
    RESUME_TOKEN_STALE = "RESUME_TOKEN_STALE"  # noqa: S105 - no password
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    CARD_NOT_FOUND = "CARD_NOT_FOUND"
    RECYCLING_NOT_FOUND = "RECYCLING_NOT_FOUND"
    LIST_ENTRY_NOT_FOUND = "LIST_ENTRY_NOT_FOUND"
    REVIEW_NOT_FOUND = "REVIEW_NOT_FOUND"
    POLICY_NOT_FOUND = "POLICY_NOT_FOUND"
    OFFER_NOT_FOUND = "OFFER_NOT_FOUND"
    REVIEW_STATE_INVALID = "REVIEW_STATE_INVALID"
    REVIEW_CLAIMED = "REVIEW_CLAIMED"
    OVERLOADED = "OVERLOADED"
    FRAUD_SCORE_UNAVAILABLE = "FRAUD_SCORE_UNAVAILABLE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INSUFFICIENT_TIME = "INSUFFICIENT_TIME"
    INTERNAL = "INTERNAL"


class Refusal(Exception):
    """A rule said no. Carries the reason, a sentence for people, the fields at fault as (field, description), and the
    steps that led there, where there are several."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        fields: tuple[tuple[str, str], ...] = (),
        steps: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields = fields
        self.steps = steps
