"""Keeping the lists: what may be put and deleted, and races between those who do. Must not know SQL or the wire."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from server.domain.errors import Reason, Refusal
from server.domain.lists import EntryDraft, ListEntry
from server.engine.engine import ATTEMPTS_MAX
from server.engine.ports import ListStore


class ListKeeper:
    """Puts and deletes list entries; the loser of a race goes again once."""

    def __init__(self, store: ListStore, new_id: Callable[[], UUID]) -> None:
        self._store = store
        self._new_id = new_id

    async def put(self, draft: EntryDraft) -> ListEntry:
        """The new entry, in force from now on. Raises Refusal FIELD_INVALID, ETAG_MISMATCH or CONFLICT_RETRY."""
        for _ in range(ATTEMPTS_MAX):
            entry_id = self._new_id()
            outcome = await self._store.put_entry(draft, entry_id)
            if draft.expire_time is not None and draft.expire_time <= outcome.now:
                problem = ("expire_time", "must lie in the future")
                raise Refusal(Reason.FIELD_INVALID, f"{problem[0]}: {problem[1]}", fields=(problem,))
            if draft.etag and draft.etag != outcome.etag_before:
                found = f"the entry's etag is {outcome.etag_before}" if outcome.etag_before else "no entry is in force"
                raise Refusal(Reason.ETAG_MISMATCH, found)
            if outcome.version is not None:
                return ListEntry(
                    entry_id=entry_id,
                    list=draft.list,
                    subject=draft.subject,
                    version=outcome.version,
                    expire_time=draft.expire_time,
                    actor=draft.actor,
                    reason=draft.reason,
                    create_time=outcome.now,
                    end_time=draft.expire_time,
                )
        raise _lost()

    async def delete(self, entry_id: UUID, actor: str, reason: str) -> ListEntry:
        """The entry, ended now. Raises Refusal LIST_ENTRY_NOT_FOUND unless it is in force, or CONFLICT_RETRY."""
        for _ in range(ATTEMPTS_MAX):
            deleted = await self._store.delete_entry(entry_id, self._new_id(), actor, reason)
            if deleted is None:
                raise Refusal(Reason.LIST_ENTRY_NOT_FOUND, "no entry in force has this id")
            if deleted.ended:
                return deleted.entry
        raise _lost()


def _lost() -> Refusal:
    return Refusal(Reason.CONFLICT_RETRY, "another request changed the same subject; try again")
