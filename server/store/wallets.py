"""Wallets' postings, and what the policies in force offer for what wallets hold, on the store's connections.

Must not decide anything. Methods raise StoreUnavailable when the database cannot be reached.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import asyncpg

from server.domain.recycling import TransferKind, Unit
from server.domain.wallet import Market, Posting, PostingFilter
from server.store.store import PostgresStore


class PostgresWallets:
    """Wallets over the same connections as `store`."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._query = store.database.query

    async def postings(self, wanted: PostingFilter, before: tuple[datetime, UUID], how_many: int) -> list[Posting]:
        """A page of an account's postings, newest first, made before a position."""
        found = await self._query(
            "postings", wanted.account_id, *before, how_many, wanted.platform, wanted.unit, wanted.kind
        )
        return [_posting(row) for row in found]

    async def markets(self, platform: str | None, account_id: str | None) -> list[Market]:
        """What each platform, or one, offers now; with what an account has taken of it, where one is named."""
        taken: dict[str, dict[str, int]] = {}
        if account_id is not None:
            for row in await self._query("offers_taken", account_id, platform):
                taken.setdefault(row["platform"], {})[row["offer_id"]] = row["taken"]
        return [
            Market(
                policy=await self._store.policy(row["platform"], row["revision"]),
                revision=row["revision"],
                taken=taken.get(row["platform"], {}),
            )
            for row in await self._query("policies_in_force")
            if platform in (None, row["platform"])
        ]


def _posting(row: asyncpg.Record) -> Posting:
    return Posting(
        posting_id=row["posting_id"],
        request_id=row["request_id"],
        kind=TransferKind(row["kind"]),
        platform=row["platform"],
        unit=Unit(row["unit"]),
        amount=row["amount"],
        recycling_id=row["recycling_id"],
        redemption_id=row["redemption_id"],
        create_time=row["create_time"],
    )
