"""Decisions on record for back-tests of policies, on the store's connections. Must not decide anything.

Methods raise StoreUnavailable when the database cannot be reached.
"""

from __future__ import annotations

from datetime import datetime

from server.domain.policy import Policy
from server.domain.recycling import RecyclingState, Unit
from server.engine.backtest_ports import Position, RecordedRecycle
from server.store.policy_document import PolicyInvalid
from server.store.store import PostgresStore


class PostgresBacktests:
    """Recorded recycles over the same connections as `store`."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    async def now(self) -> datetime:
        """The database's clock."""
        return await self._store.now()

    async def policy(self, platform: str, revision: int) -> Policy | None:
        """A revision's rules; None when there is no such, or it cannot be read."""
        if not await self._store.database.query("policy", platform, revision):
            return None
        try:
            return await self._store.policy(platform, revision)
        except PolicyInvalid:
            return None

    async def recorded_recycles(
        self, platform: str, from_time: datetime, before: Position, how_many: int
    ) -> list[RecordedRecycle]:
        """A page of the recycles of all platforms, newest first."""
        found = await self._store.database.query("recorded_recycles", platform, from_time, *before, how_many)
        return [
            RecordedRecycle(
                account_id=row["account_id"],
                request_id=row["request_id"],
                create_time=row["create_time"],
                receipt=row["receipt"],
                recycling_id=row["recycling_id"],
                policy_revision=row["policy_revision"],
                state=RecyclingState(row["state"]),
                unit=None if row["unit"] is None else Unit(row["unit"]),
                amount=row["amount"],
                fee_minor=row["fee_minor"],
                complaint_time=row["complaint_time"],
            )
            for row in found
        ]
