"""Back-tests of policies on the decisions on record: which are looked at, and how without getting in callers' way.

Knows receipts and the pace; must not know statements, the wire, or what a candidate is compared by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import msgspec

from server.domain.backtest import Decided, Skip, Tally, Trial, decided
from server.domain.errors import Reason, Refusal
from server.domain.model_health import Window
from server.domain.policy import Policy
from server.domain.pump import Pump
from server.domain.recycling import RecyclingState
from server.engine.backtest_ports import BacktestStore, Position, RecordedRecycle
from server.engine.policies import PolicyKeeper
from server.engine.receipt import seal_of
from server.engine.recorded import Receipt, recycle_of, snapshot_of

WINDOW = timedelta(days=30)
ROWS_MAX = 10_000
SCANNED_PER_ROW = 10
"""So many recycles of all platforms are gone through for each of the candidate's that may be looked at."""

COMPLAINT_DAYS = 14
EXAMPLES_MAX = 20

PAGE_ROWS = 200
CHUNK_ROWS = 20
"""Decided in one go: a few milliseconds, for which a thread holds the interpreter. As long as they took, nothing more
is done, so that callers have half of the time at least."""

RESERVE_S_MIN = 0.2
RESERVE_SHARE = 0.1
"""What is kept of a call's time for telling what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestQuestion:
    """What is asked; None, and 0 for numbers, stand for the default. Either a revision by platform and number, or a
    document."""

    named: tuple[str, int] | None = None
    document: str = ""
    from_time: datetime | None = None
    to_time: datetime | None = None
    rows_max: int = 0
    complaint_days: int = 0
    examples_max: int | None = None


class BacktestEnd(StrEnum):
    """Why a back-test looked no further."""

    WINDOW = "WINDOW"
    ROWS = "ROWS"
    DEADLINE = "DEADLINE"


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestReport:
    """What came out. `revision` is 0 for a document; `checked_with`: what governs or is planned to, by name."""

    platform: str
    revision: int
    window: Window
    end: BacktestEnd
    scanned: int
    tally: Tally
    pump: Pump | None
    checked_with: tuple[str, ...]


class PolicyBacktester:
    """Runs one back-test at a time; others wait, since each costs what many decisions cost."""

    def __init__(self, store: BacktestStore, keeper: PolicyKeeper, parse: Callable[[str], Policy]) -> None:
        """`parse`: a document's rules. It raises ValueError saying what is wrong."""
        self._store = store
        self._keeper = keeper
        self._parse = parse
        self._one = asyncio.Semaphore(1)

    async def run(self, asked: BacktestQuestion, time_left_s: float) -> BacktestReport:
        """Tries the candidate, within `time_left_s`. Raises Refusal POLICY_NOT_FOUND, FIELD_INVALID or
        INSUFFICIENT_TIME; StoreUnavailable."""
        clock = asyncio.get_running_loop().time
        until = clock() + time_left_s - max(RESERVE_S_MIN, RESERVE_SHARE * time_left_s)
        candidate = await self._candidate(asked)
        window = await self._window(asked)
        pump, checked_with = await self._keeper.pump_with(candidate)
        try:
            async with asyncio.timeout_at(until):
                await self._one.acquire()
        except TimeoutError:
            raise Refusal(Reason.INSUFFICIENT_TIME, "another back-test is under way") from None
        try:
            run = _Run(self._store, candidate, asked, window, now=await self._store.now())
            end = await run.go_through(until)
        finally:
            self._one.release()
        return BacktestReport(
            platform=candidate.platform,
            revision=asked.named[1] if asked.named else 0,
            window=window,
            end=end,
            scanned=run.scanned,
            tally=run.tally,
            pump=pump,
            checked_with=checked_with,
        )

    async def _candidate(self, asked: BacktestQuestion) -> Policy:
        if asked.named is not None:
            found = await self._store.policy(*asked.named)
            if found is None:
                raise Refusal(Reason.POLICY_NOT_FOUND, f"there is no {asked.named[0]}@{asked.named[1]}")
            return found
        try:
            return await asyncio.to_thread(self._parse, asked.document)
        except ValueError as error:
            problem = ("document", str(error))
            raise Refusal(Reason.FIELD_INVALID, f"{problem[0]}: {problem[1]}", fields=(problem,)) from error

    async def _window(self, asked: BacktestQuestion) -> Window:
        to_time = asked.to_time or await self._store.now()
        from_time = asked.from_time or to_time - WINDOW
        if from_time >= to_time:
            text = "must be before to_time"
            raise Refusal(Reason.FIELD_INVALID, f"from_time: {text}", fields=(("from_time", text),))
        return Window(from_time=from_time, to_time=to_time)


class _Run:
    """One back-test under way."""

    def __init__(
        self, store: BacktestStore, candidate: Policy, asked: BacktestQuestion, window: Window, *, now: datetime
    ) -> None:
        self._store = store
        self._candidate = candidate
        self._window = window
        self._now = now
        self._rows_max = asked.rows_max or ROWS_MAX
        self._complaint_age = timedelta(days=asked.complaint_days or COMPLAINT_DAYS)
        self._known: dict[int, Policy | None] = {}
        self.scanned = 0
        self.tally = Tally(EXAMPLES_MAX if asked.examples_max is None else asked.examples_max)

    async def go_through(self, until: float) -> BacktestEnd:
        """Tries page by page until the loop's clock says `until`."""
        clock = asyncio.get_running_loop().time
        before: Position = (self._window.to_time, "", UUID(int=0))
        platform, left = self._candidate.platform, self._rows_max
        while left > 0 and self.scanned < self._rows_max * SCANNED_PER_ROW:
            if clock() >= until:
                return BacktestEnd.DEADLINE
            page = await self._store.recorded_recycles(platform, self._window.from_time, before, PAGE_ROWS)
            if not page:
                return BacktestEnd.WINDOW
            ours = [row for row in page if row.receipt is not None][:left]
            await self._learn(ours)
            for start in range(0, len(ours), CHUNK_ROWS):
                if (began := clock()) >= until:
                    return BacktestEnd.DEADLINE
                await asyncio.to_thread(self._try_all, ours[start : start + CHUNK_ROWS])
                await asyncio.sleep(clock() - began)
            left -= len(ours)
            self.scanned += len(page)
            before = (page[-1].create_time, page[-1].account_id, page[-1].request_id)
        return BacktestEnd.ROWS

    async def _learn(self, found: Sequence[RecordedRecycle]) -> None:
        """The revisions that decided them. Any other is read once, and never changes."""
        for revision in {row.policy_revision for row in found} - self._known.keys():
            self._known[revision] = await self._store.policy(self._candidate.platform, revision)

    def _try_all(self, found: Sequence[RecordedRecycle]) -> None:
        for row in found:
            outcome = self._try(row)
            if isinstance(outcome, Skip):
                self.tally.skip(outcome)
            else:
                self.tally.add(outcome)

    def _try(self, row: RecordedRecycle) -> Trial | Skip:
        assert row.receipt is not None
        seal, right_seal = seal_of(row.receipt)
        if seal is not None and seal != right_seal:
            return Skip.RECEIPT_ALTERED
        own = self._known[row.policy_revision]
        if own is None:
            return Skip.POLICY_UNKNOWN
        try:
            receipt = Receipt.parse(row.receipt)
            command = recycle_of(row.account_id, receipt, row.request_id)
            recorded = decided(command, snapshot_of(row.account_id, receipt, own), receipt.score)
        except (ValueError, IndexError):
            return Skip.RECEIPT_UNREADABLE
        if receipt.card is None or not _as_recorded(recorded, row, receipt):
            return Skip.NOT_AS_RECORDED
        return Trial(
            account_id=row.account_id,
            recycling_id=row.recycling_id,
            create_time=row.create_time,
            segment=receipt.card.segment,
            tier=receipt.card.tier,
            recorded=recorded,
            candidate=decided(command, snapshot_of(row.account_id, receipt, self._candidate), receipt.score),
            complained=self._complained(row),
        )

    def _complained(self, row: RecordedRecycle) -> bool | None:
        age = self._complaint_age
        if self._now - row.create_time < age:
            return None
        return row.complaint_time is not None and row.complaint_time - row.create_time <= age


def _as_recorded(found: Decided, row: RecordedRecycle, receipt: Receipt) -> bool:
    """Whether a decision is the one on record, as far as that still tells: what was rejected by now has no terms left,
    and older receipts do not say how it stood at first."""
    if found.refusal is not None:
        return False
    if receipt.effects is not msgspec.UNSET and receipt.effects.get("recycling", {}).get("state") != found.outcome:
        return False
    terms = (found.unit, found.amount, found.fee_minor)
    return row.state is RecyclingState.REJECTED or terms == (row.unit, row.amount, row.fee_minor)
