"""The events of the log for those who follow it: one reader of the database for all who are up to date, pages of their
own for those who are not. Knows order, memory and limits; must not know the wire, nor what events mean.

Nobody's events wait in a queue of his: who follows comes and takes what is next, from the newest events, which are kept
once for all, or from the database, when they have moved on without him. So a slow one costs nothing, and is told
everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass

from server.domain.errors import Reason, Refusal
from server.domain.events import BEGINNING, Event, EventFilter, Position
from server.engine import event_meter
from server.engine.event_ports import EventLog
from server.engine.ports import StoreUnavailable

log = logging.getLogger(__name__)

PAGE = 250
POLL_S = 0.05
"""A notification with each commit would make all commits wait for one another."""
KEPT = 5_000
CATCHING_UP_MAX = 2
"""So many read the database at once for followers that are behind."""
FAILURES_MAX = 3
DELAY_WARN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Some events that are wanted, in order, and the position after them, which may be after unwanted ones too."""

    events: Sequence[Event]
    position: Position


class EventFeed:
    """Gives the events after any position, and then each as it is recorded. `run` it beside."""

    def __init__(
        self, events: EventLog, *, watchers_max: int, kept: int = KEPT, poll_s: float = POLL_S, page: int = PAGE
    ) -> None:
        """So many watchers at once. About `kept` events stay in memory, twice that and a page at most."""
        self._events = events
        self._watchers_max = watchers_max
        self._kept_max = kept
        self._poll_s = poll_s
        self._page = page
        self._followers = 0
        self._watchers = 0
        self._closed = False
        self._wanted = asyncio.Event()
        self._moved = asyncio.Event()
        self._catching_up = asyncio.Semaphore(CATCHING_UP_MAX)
        # What is kept: all events after `_floor` and up to `_reached`. The course is another object whenever it does
        # not go on from what was kept before; None while nobody follows, or when it is not known how to go on.
        self._kept: list[Event] = []
        self._floor = self._reached = BEGINNING
        self._course: object = None
        self._warned = False

    async def newest(self) -> Position:
        """The position to follow from, to be told what happens from now on."""
        return await self._events.newest()

    async def follow(
        self, wanted: EventFilter, position: Position, *, quiet_s: float, limited: bool = True
    ) -> AsyncGenerator[Told, None]:
        """The wanted events after `position`, for ever, each once. After `quiet_s` seconds without any it tells so,
        with a position that has moved on all the same; the first time at once.

        Raises Refusal: OVERLOADED when too many follow (but for those not `limited`), RESUME_TOKEN_STALE when the
        position is none of this log, SHUTTING_DOWN. Raises StoreUnavailable.
        """
        clock = asyncio.get_running_loop().time
        with self._following(limited):
            # The course of what is kept, once that is known to hold all that comes after `position`.
            course: object = None
            due = clock()
            while True:
                self._refuse_when_closed()
                moved = self._moved
                if course is not None and course is self._course and position >= self._floor:
                    found = self._take(position)
                    position, behind = found[-1].position if found else position, bool(found)
                else:
                    found, position, course = await self._catch_up(wanted, position)
                    behind = len(found) == self._page
                told = [event for event in found if wanted.wants(event)]
                if told or clock() >= due:
                    yield Told(events=told, position=position)
                    due = clock() + quiet_s
                if not behind:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(max(due - clock(), 0)):
                            await moved.wait()

    async def run(self) -> None:
        """Reads what is recorded, as long as anybody follows, until closed or cancelled."""
        failures = 0
        while not self._closed:
            await self._wanted.wait()
            try:
                full = await self._read()
                failures = 0
            except StoreUnavailable as error:
                full, failures = False, failures + 1
                if failures == FAILURES_MAX:
                    log.warning("events cannot be read: %s", error)
                    self._lose()
            except Exception:
                log.exception("reading events failed")
                full, failures = False, FAILURES_MAX
                self._lose()
            await asyncio.sleep(0 if full else self._poll_s * (1 + min(failures, 20)))

    def close(self) -> None:
        """Tells all who follow to go elsewhere, and takes nobody any more."""
        self._closed = True
        self._wake()

    # Inside

    async def _catch_up(self, wanted: EventFilter, position: Position) -> tuple[Sequence[Event], Position, object]:
        """A page from the database, the position after it, and the course, if what is kept goes on from there."""
        course, reached = self._course, self._reached
        async with self._catching_up:
            page = await self._events.after(position, self._page, wanted.account_id)
        if not page.known:
            raise Refusal(
                Reason.RESUME_TOKEN_STALE,
                "the log of events has no such place any more: the database was set back, or filled from a dump",
            )
        if page.events:
            position = page.events[-1].position
        if course is None or len(page.events) == self._page:
            return page.events, position, None
        # All that had been reached before the page was asked for is in it, as far as it was wanted.
        return page.events, max(position, reached), course

    async def _read(self) -> bool:
        """Reads the next page; whether there is more."""
        if self._course is None:
            self._floor = self._reached = await self._events.newest()
            self._course = object()
            self._wake()
        course = self._course
        page = await self._events.after(self._reached, self._page)
        if course is not self._course:
            return False
        if not page.known:
            log.warning("the log of events does not go on where it was: the database was set back")
            self._lose()
            return False
        self._show(page.delay.total_seconds())
        if page.events:
            self._kept += page.events
            self._reached = page.events[-1].position
            if len(self._kept) > 2 * self._kept_max:
                gone = len(self._kept) - self._kept_max
                self._floor = self._kept[gone - 1].position
                del self._kept[:gone]
            self._wake()
        return len(page.events) == self._page

    def _take(self, position: Position) -> Sequence[Event]:
        """The next events that are kept."""
        first = bisect_right(self._kept, position, key=lambda event: event.position)
        return self._kept[first : first + self._page]

    def _lose(self) -> None:
        """Nothing is kept any more; those who follow look at the database themselves, and find what is wrong there."""
        self._kept, self._course = [], None
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    @contextlib.contextmanager
    def _following(self, limited: bool) -> Iterator[None]:
        self._refuse_when_closed()
        if limited and self._watchers >= self._watchers_max:
            raise Refusal(Reason.OVERLOADED, "too many follow the events of this server")
        self._followers += 1
        self._watchers += limited
        event_meter.count_watchers(int(limited))
        self._wanted.set()
        try:
            yield
        finally:
            self._followers -= 1
            self._watchers -= limited
            event_meter.count_watchers(-int(limited))
            if not self._followers:
                self._wanted.clear()
                self._lose()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Refusal(Reason.SHUTTING_DOWN, "this server is going down: go on at another by the last token")

    def _show(self, delay_s: float) -> None:
        event_meter.show_delay(delay_s)
        late = delay_s > DELAY_WARN_S
        if late and not self._warned:
            log.warning("events wait for a transaction that has been open for more than %.0f s", delay_s)
        self._warned = late
