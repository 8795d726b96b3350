"""Publishes the events of the log elsewhere, in order: at least once, and only onwards. Knows leases and cursors; must
not know where events go.

Any number of servers may run it on one database: the one that holds the lease works. One that dies is followed by
another when its lease ends; what it had published, but not noted, is published again, under the same ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from uuid import UUID

from server.domain.errors import Refusal
from server.domain.events import EventFilter
from server.engine import event_meter
from server.engine.event_ports import Claim, Publisher, PublishFailed, RelayCursors
from server.engine.feed import EventFeed
from server.engine.ports import StoreUnavailable

log = logging.getLogger(__name__)

LEASE_S = 5.0
RENEW_S = 1.0
PAUSE_S = 1.0
PAUSE_MAX_S = 15.0


class Relay:
    """One would-be holder of the relay called `name`."""

    def __init__(
        self,
        name: str,
        holder: UUID,
        feed: EventFeed,
        cursors: RelayCursors,
        publisher: Publisher,
        *,
        lease_s: float = LEASE_S,
    ) -> None:
        self._name = name
        self._holder = holder
        self._feed = feed
        self._cursors = cursors
        self._publisher = publisher
        self._lease_s = lease_s
        self._failures = 0

    async def run(self) -> None:
        """Publishes whenever the lease can be had, until cancelled; then lets go of it."""
        try:
            while True:
                try:
                    claim = await self._cursors.claim(self._name, self._holder, self._lease_s)
                    event_meter.show_lag(claim.lag.total_seconds())
                    if claim.held:
                        await self._publish_from(claim)
                except PublishFailed as error:
                    self._failures += 1
                    event_meter.count_failure()
                    log.warning("events are published later: %s", error)
                    await self._let_go()  # somebody else may do better
                except (StoreUnavailable, Refusal) as error:
                    log.info("events are published later: %s", error)
                except Exception:
                    self._failures += 1
                    event_meter.count_failure()
                    log.exception("publishing events failed")
                    await self._let_go()
                longest_s = min(PAUSE_S * 2**self._failures, PAUSE_MAX_S)
                await asyncio.sleep(random.uniform(longest_s / 2, longest_s))  # noqa: S311 - no secret
        finally:
            await self._let_go()
            await self._publisher.close()

    async def _publish_from(self, claim: Claim) -> None:
        """Publishes as long as the lease is kept."""
        following = self._feed.follow(EventFilter(), claim.position, quiet_s=RENEW_S, limited=False)
        async with contextlib.aclosing(following):
            async for told in following:
                if told.events:
                    await self._publisher.publish(told.events)
                    event_meter.count_published(len(told.events))
                    event_meter.show_lag(0)
                    self._failures = 0
                    held = await self._cursors.advance(self._name, self._holder, self._lease_s, told.position)
                else:
                    kept = await self._cursors.claim(self._name, self._holder, self._lease_s)
                    # The lease may have run out, and another have published further and let go of it since.
                    held = kept.held and kept.position <= told.position
                if not held:
                    log.info("another server publishes the events")
                    return

    async def _let_go(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._cursors.release(self._name, self._holder)
