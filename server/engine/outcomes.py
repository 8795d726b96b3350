"""Recording what became of recyclings: outside the batches, for no decision reads it and no account is claimed.

Knows the order of the steps; must not know statements or the wire.
"""

from __future__ import annotations

from server.domain.errors import Reason, Refusal
from server.domain.outcome import NewOutcome, Outcome, check_time
from server.engine.ports import OutcomeContext, OutcomeStore


class OutcomeRecorder:
    """Keeps outcomes, each once."""

    def __init__(self, store: OutcomeStore) -> None:
        self._store = store

    async def record(self, told: NewOutcome) -> Outcome:
        """The outcome as it was first recorded. Raises Refusal."""
        found = await self._find(told)
        if found.recorded is None:
            if told.time is not None:
                check_time(told.time, recycled=found.recycled, now=found.now)
            await self._store.record_outcome(found.account_id, told)
            found = await self._find(told)  # somebody else may have been first
        assert found.recorded is not None, "what was recorded is there"
        return found.recorded

    async def _find(self, told: NewOutcome) -> OutcomeContext:
        found = await self._store.load_outcome(told)
        if found is None:
            raise Refusal(Reason.RECYCLING_NOT_FOUND, "no such recycling")
        return found
