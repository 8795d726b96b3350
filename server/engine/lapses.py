"""Records what time has done to holds that no command meets. Knows when to look; must not know what a lapse means.

What callers see never waits for this: it follows from the records and the time. Any number may run on one database; one
that dies leaves nothing half done, and what it had reserved comes up again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from server.domain.commands import Lapse
from server.domain.errors import Refusal
from server.domain.review import Review
from server.engine.engine import Engine
from server.engine.ports import StoreUnavailable

log = logging.getLogger(__name__)

BATCH_MAX = 200
PAUSE_S = 5.0


class DueHolds(Protocol):
    """Where lapsed holds are found."""

    async def due_holds(self, how_many: int) -> Sequence[Review]:
        """Lapsed holds that nobody has recorded yet, reserved for the caller for a minute. Raises StoreUnavailable."""
        ...


async def record_lapses(holds: DueHolds, engine: Engine) -> int:
    """Records one batch of lapses through the engine, as a command that met them would; returns how many were found.

    One that a verdict, a void or another server was quicker to end is refused, and that is no matter.
    """
    due = await holds.due_holds(BATCH_MAX)
    if due:
        await engine.submit([Lapse.of(review) for review in due])
    return len(due)


async def keep_recording_lapses(holds: DueHolds, engine: Engine) -> None:
    """Does so until cancelled: again at once while there is more, else after a pause."""
    while True:
        found = 0
        try:
            found = await record_lapses(holds, engine)
        except (StoreUnavailable, Refusal) as error:  # the database is away, or the queue is full
            log.info("lapses are recorded later: %s", error)
        except Exception:
            log.exception("recording lapses failed")
        await asyncio.sleep(0 if found == BATCH_MAX else PAUSE_S)
