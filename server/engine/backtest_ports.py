"""What back-tests need of the world, declared by the one who uses it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from server.domain.policy import Policy
from server.domain.recycling import RecyclingState, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRecycle:
    """A Recycle on record: its receipt, and its recycling as it stands by now. `receipt` is None where another platform
    is asked about; `complaint_time`: of the first complaint."""

    account_id: str
    request_id: UUID
    create_time: datetime
    receipt: str | None
    recycling_id: UUID
    policy_revision: int
    state: RecyclingState
    unit: Unit | None
    amount: int
    fee_minor: int
    complaint_time: datetime | None


Position = tuple[datetime, str, UUID]
"""Where a page ends: the decision's moment, account and request."""


class BacktestStore(Protocol):
    """The decisions on record. Every method raises StoreUnavailable when the database cannot be reached."""

    async def now(self) -> datetime:
        """The database's clock."""
        ...

    async def policy(self, platform: str, revision: int) -> Policy | None:
        """A revision's rules; None when there is no such, or it cannot be read."""
        ...

    async def recorded_recycles(
        self, platform: str, from_time: datetime, before: Position, how_many: int
    ) -> list[RecordedRecycle]:
        """A page of the recycles of all platforms decided from then on and before a position, newest first."""
        ...
