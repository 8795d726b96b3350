"""Records what time has done to cards and coupons that no command meets. Knows when to look and how much at once; must
not know what is due, nor what it means.

What callers see never waits for this: it follows from the records and the time. Any number may run on one database:
what one has found is reserved, and what two record all the same is one command with one id. One that dies leaves
nothing half done, and what it had reserved comes up again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from opentelemetry import trace

from server.domain.commands import Command
from server.domain.errors import Refusal
from server.engine import meter
from server.engine.engine import Engine
from server.engine.ports import DueKind, DueWork, StoreUnavailable
from server.engine.queue import Outcome

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

FOUND_MAX = 1_000
"""So much of one kind is looked for and reserved at once. Far less than is recorded in the minute for which it is
reserved; and more than a batch, as each look passes all that was recorded since the oldest snapshot that is held."""
BATCH_MAX = 200
"""So much of it is handed to the engine at once: callers do not wait for more."""


async def sweep(due_work: DueWork, engine: Engine) -> Mapping[DueKind, int]:
    """Looks once for each kind, and records what is found through the engine, as a command that met it would; returns
    how many were recorded.

    What a verdict, a caller or another server was quicker to do is refused, and that is no matter.
    """
    recorded = {}
    for kind in DueKind:
        commands = await due_work.due(kind, FOUND_MAX)
        recorded[kind] = 0
        if not commands:
            continue
        with tracer.start_as_current_span(
            "sweep", attributes={"sweep.kind": kind, "sweep.found": len(commands)}
        ) as span:
            outcomes: list[Outcome] = []
            for begin in range(0, len(commands), BATCH_MAX):
                outcomes += await _submit(engine, commands[begin : begin + BATCH_MAX])
            refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
            span.set_attribute("sweep.refused", len(refused))
        recorded[kind] = len(outcomes) - len(refused)
        meter.count_swept(kind, recorded[kind], [refusal.reason for refusal in refused])
    return recorded


async def _submit(engine: Engine, commands: Sequence[Command]) -> Sequence[Outcome]:
    """What became of each. Where there is no room for all, each goes for itself: one account with a long queue of its
    own keeps no other from being swept."""
    try:
        return await engine.submit(commands)
    except Refusal:
        outcomes: list[Outcome] = []
        for command in commands:
            try:
                outcomes += await engine.submit([command])
            except Refusal as refusal:
                outcomes.append(refusal)
        return outcomes


async def keep_sweeping(due_work: DueWork, engine: Engine, every_s: float) -> None:
    """Does so until cancelled: again at once while whole batches of something are recorded, else after `every_s`."""
    while True:
        more = False
        try:
            recorded = await sweep(due_work, engine)
            more = max(recorded.values()) >= BATCH_MAX
            meter.tell_sweep_lags(await due_work.lags())
        except (StoreUnavailable, Refusal) as error:  # the database is away, or the queue is full
            log.info("what time has done is recorded later: %s", error)
        except Exception:
            log.exception("sweeping failed")
        await asyncio.sleep(0 if more else every_s)
