"""Making and activating policy revisions: what is checked before, and races between those who do. Must not know SQL,
the wire, or how a document is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from server.domain.errors import Reason, Refusal
from server.domain.policy import Policy
from server.domain.pump import Pump, find_pump
from server.domain.revision import (
    ACTIVATION_LEAD,
    Activation,
    LiveRevision,
    PolicyRevision,
    RevisionDraft,
    lingers,
)
from server.engine.engine import ATTEMPTS_MAX


class PolicyStore(Protocol):
    """The database. Every method raises StoreUnavailable when it cannot be reached."""

    async def now(self) -> datetime:
        """The database's clock."""
        ...

    async def revision(self, platform: str, number: int | None) -> PolicyRevision | None:
        """A revision as it stands; the newest of the platform without a number."""
        ...

    async def add_revision(self, draft: RevisionDraft) -> int | None:
        """Keeps a document as its platform's next revision, unless it is the newest one's already; the number of the
        one that has it, None when another came first."""
        ...

    async def live_revisions(self) -> tuple[int, list[LiveRevision]]:
        """The version of the policy set, and the revisions that were ever activated, of every platform."""
        ...

    async def policy(self, platform: str, revision: int) -> Policy:
        """A revision's rules."""
        ...

    async def activate(self, wanted: Activation, effective_time: datetime, set_version: int) -> bool:
        """Activates, unless the policy set has changed; says whether."""
        ...


class PolicyKeeper:
    """Makes revisions and activates them; the loser of a race goes again once."""

    def __init__(self, store: PolicyStore, read: Callable[[str], tuple[str, str]]) -> None:
        """`read`: a document's platform and the text that is kept of it. It raises ValueError saying what is wrong."""
        self._store = store
        self._read = read

    async def create(self, document: str, *, etag: str, actor: str, note: str) -> PolicyRevision:
        """The revision that has `document`. Raises Refusal FIELD_INVALID, ETAG_MISMATCH or CONFLICT_RETRY."""
        try:
            platform, text = await asyncio.to_thread(self._read, document)  # a large one takes a while
        except ValueError as error:
            problem = ("document", str(error))
            raise Refusal(Reason.FIELD_INVALID, f"{problem[0]}: {problem[1]}", fields=(problem,)) from error
        draft = RevisionDraft(platform=platform, document=text, etag=etag, actor=actor, note=note)
        for _ in range(ATTEMPTS_MAX):
            _same_etag(etag, await self._store.revision(platform, None))
            if (number := await self._store.add_revision(draft)) is not None:
                made = await self._store.revision(platform, number)
                assert made is not None
                return made
        raise _lost()

    async def activate(self, wanted: Activation) -> PolicyRevision:
        """The revision, which now governs from a moment on.

        Raises Refusal POLICY_NOT_FOUND, FIELD_INVALID, ETAG_MISMATCH, POLICY_PUMPABLE or CONFLICT_RETRY.
        """
        for _ in range(ATTEMPTS_MAX):
            found = await self._store.revision(wanted.platform, wanted.revision)
            if found is None:
                raise Refusal(Reason.POLICY_NOT_FOUND, f"there is no {wanted.platform}@{wanted.revision}")
            _same_etag(wanted.etag, found)
            earliest = await self._store.now() + ACTIVATION_LEAD
            if wanted.effective_time is not None and wanted.effective_time < earliest:
                problem = ("effective_time", f"must not be before {earliest.isoformat()}")
                raise Refusal(Reason.FIELD_INVALID, f"{problem[0]}: {problem[1]}", fields=(problem,))
            set_version, live = await self._store.live_revisions()
            candidate = await self._store.policy(wanted.platform, wanted.revision)
            if (pump := await self._pump(candidate, live)) is not None:
                raise Refusal(Reason.POLICY_PUMPABLE, f"there would be a way to gain: {pump}", steps=pump.steps)
            if await self._store.activate(wanted, wanted.effective_time or earliest, set_version):
                activated = await self._store.revision(wanted.platform, wanted.revision)
                assert activated is not None
                return activated
        raise _lost()

    async def pump_with(self, candidate: Policy) -> tuple[Pump | None, tuple[str, ...]]:
        """What activating `candidate` now would be refused for, if anything; and the revisions, such as "iqiyi@3", that
        govern or are planned to, which it was checked with."""
        _, live = await self._store.live_revisions()
        governing = sorted(f"{one.platform}@{one.revision}" for one in live if one.superseded is None)
        return await self._pump(candidate, live), tuple(governing)

    async def _pump(self, candidate: Policy, live: list[LiveRevision]) -> Pump | None:
        """A pump among all that governs, will, or did and left something behind, with the one to activate."""
        now = await self._store.now()
        governing, lingering, former = [candidate], [], []
        for one in live:
            policy = await self._store.policy(one.platform, one.revision)
            if one.superseded is None:
                governing.append(policy)
                continue
            former.append(policy)
            if lingers(policy, one.superseded, now):
                lingering.append(policy)
        # Many platforms that change into one another are many ways: seconds, for which no caller should wait.
        return await asyncio.to_thread(find_pump, governing, lingering, former)


def _same_etag(wanted: str, found: PolicyRevision | None) -> None:
    if wanted and (found is None or found.etag != wanted):
        raise Refusal(Reason.ETAG_MISMATCH, f"the platform's etag is {found.etag if found else 'none'}")


def _lost() -> Refusal:
    return Refusal(Reason.CONFLICT_RETRY, "another request changed the policies; try again")
