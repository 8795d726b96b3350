"""What became of a recycling. Knows the kinds of outcomes and when one can have happened; must not know what models
make of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from server.domain.errors import Reason, Refusal
from server.domain.recycling import RecyclingState


class OutcomeKind(StrEnum):
    """What was learnt of a recycling after it was decided."""

    COMPLAINT = "COMPLAINT"
    CONVERSION = "CONVERSION"
    CHARGEBACK = "CHARGEBACK"
    CONFIRMED_FRAUD = "CONFIRMED_FRAUD"
    CONFIRMED_GENUINE = "CONFIRMED_GENUINE"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOutcome:
    """What a caller tells. `account_id` is None where the recycling is to be found by its id; `time` where it happened
    just now, or is known already."""

    account_id: str | None
    recycling_id: UUID
    kind: OutcomeKind
    time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One recorded outcome, with how its recycling had been decided and stood then. `time`: when it happened."""

    account_id: str
    recycling_id: UUID
    kind: OutcomeKind
    time: datetime
    record_time: datetime
    platform: str
    policy_revision: int
    model_version: str
    risk_score: float | None
    state: RecyclingState


def check_time(time: datetime, *, recycled: datetime, now: datetime) -> None:
    """Raises Refusal FIELD_INVALID when nothing can have become of the recycling at `time`."""
    if time < recycled:
        raise _invalid("must not be before the recycling")
    if time > now:
        raise _invalid("must not be in the future")


def _invalid(text: str) -> Refusal:
    return Refusal(Reason.FIELD_INVALID, f"time: {text}", fields=(("time", text),))
