"""Policy revisions in the database, on the store's connections. Must not decide anything.

Methods raise StoreUnavailable when the database cannot be reached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from server.domain.policy import Policy
from server.domain.revision import Activation, LiveRevision, PolicyRevision, PolicyState, RevisionDraft
from server.store.store import PostgresStore


class PostgresPolicies:
    """Revisions over the same connections as `store`."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._query = store.database.query

    async def now(self) -> datetime:
        """The database's clock."""
        return await self._store.now()

    async def policy(self, platform: str, revision: int) -> Policy:
        """A revision's rules."""
        return await self._store.policy(platform, revision)

    async def revision(self, platform: str, number: int | None) -> PolicyRevision | None:
        """A revision as it stands; the newest of the platform without a number."""
        found = await self._query("policy_revision", platform, number)
        return _revision(dict(found[0])) if found else None

    async def in_force(self, platform: str) -> PolicyRevision | None:
        """The revision that governs now."""
        found = await self._query("policy_in_force", platform)
        return await self.revision(platform, found[0]["revision"]) if found else None

    async def revisions(
        self, platform: str | None, before: tuple[datetime, UUID], how_many: int
    ) -> list[tuple[PolicyRevision, tuple[datetime, UUID]]]:
        """A page of revisions, newest first, made before a position; each with its own."""
        found = await self._query("policy_revisions", platform, *before, how_many)
        return [(_revision(dict(row)), (row["create_time"], row["position"])) for row in found]

    async def add_revision(self, draft: RevisionDraft) -> int | None:
        """Keeps a document as its platform's next revision, unless it is the newest one's already; the number of the
        one that has it, None when another came first, or the etag is another."""
        sha256 = hashlib.sha256(draft.document.encode()).digest()
        (found,) = await self._query(
            "policy_add", draft.platform, draft.document, sha256, draft.etag, draft.actor, draft.note or None
        )
        number: int | None = found["revision"]
        return number

    async def live_revisions(self) -> tuple[int, list[LiveRevision]]:
        """The version of the policy set, and the revisions that were ever activated, of every platform."""
        found = await self._query("policies_live")
        live = [
            LiveRevision(
                platform=row["platform"],
                revision=row["revision"],
                superseded=row["superseded"],
                planned=row["planned"],
            )
            for row in found
            if row["platform"] is not None
        ]
        return found[0]["version"], live

    async def activate(self, wanted: Activation, effective_time: datetime, set_version: int) -> bool:
        """Activates, unless the policy set has changed; says whether."""
        found = await self._query(
            "policy_activate", [wanted.platform], [wanted.revision], [effective_time], set_version, wanted.actor,
            wanted.note or None,
        )  # fmt: skip
        return bool(found)


def _revision(row: Mapping[str, Any]) -> PolicyRevision:
    return PolicyRevision(
        platform=row["platform"],
        revision=row["revision"],
        document=row["document"],
        document_sha256=row["document_sha256"],
        state=PolicyState(row["state"]),
        effective_time=row["effective_time"],
        create_time=row["create_time"],
        actor=row["actor"],
        note=row["note"],
        etag=row["etag"],
    )
