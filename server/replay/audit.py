"""All decisions of a database at once, for whoever wants to know that each comes out as it was recorded."""

from __future__ import annotations

from dataclasses import dataclass

from server.replay.database import recorded_decisions
from server.replay.decision import Replay, replay


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """How many decisions are on record, and those that came out otherwise."""

    decisions: int
    otherwise: tuple[Replay, ...]


async def audit(url: str) -> Audit:
    """Replays every decision of the database at `url`. Raises CaseInvalid at one whose receipt cannot be read, and
    OSError or asyncpg.PostgresError when the database cannot be."""
    decisions, otherwise = 0, []
    async with recorded_decisions(url) as recorded:
        async for case in recorded.cases():
            decisions += 1
            outcome = replay(case)
            if not outcome.same:
                otherwise.append(outcome)
    return Audit(decisions=decisions, otherwise=tuple(otherwise))
