"""What the servicers read from the store, beyond the engine."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID

from server.domain.card import Card
from server.domain.evidence import Evidence
from server.domain.lists import ListEntry, ListFilter
from server.domain.recycling import Recycling, Wallet
from server.domain.review import Review, ReviewState
from server.domain.wallet import Market, Posting, PostingFilter


class Reader(Protocol):
    """Records as they stand. Every method raises StoreUnavailable when the database cannot be reached."""

    async def card(self, account_id: str, card_id: UUID) -> tuple[Card, datetime] | None:
        """A card and the moment it was read at."""
        ...

    async def cards(self, account_id: str, before: tuple[datetime, UUID], how_many: int) -> list[tuple[Card, datetime]]:
        """Cards issued before a position, newest first."""
        ...

    async def recycling(self, account_id: str, recycling_id: UUID) -> Recycling | None:
        """A recycling."""
        ...

    async def recyclings(self, account_id: str, before: tuple[datetime, UUID], how_many: int) -> list[Recycling]:
        """Recyclings made before a position, newest first."""
        ...

    async def wallet(self, account_id: str) -> Wallet:
        """What an account holds."""
        ...


class Wallets(Protocol):
    """Wallets' postings and what can be had for their units. Raises StoreUnavailable without a database."""

    async def postings(self, wanted: PostingFilter, before: tuple[datetime, UUID], how_many: int) -> list[Posting]:
        """Postings made before a position, newest first."""
        ...

    async def markets(self, platform: str | None, account_id: str | None) -> list[Market]:
        """What each platform, or one, offers now; with what an account has taken of it, where one is named."""
        ...


class ListReader(Protocol):
    """The lists as they stand. Raises StoreUnavailable when the database cannot be reached."""

    async def entries(self, wanted: ListFilter, before: tuple[datetime, UUID], how_many: int) -> list[ListEntry]:
        """List entries put before a position, newest first."""
        ...


class Reviews(Protocol):
    """Reviews of all accounts, as they stand. Every method raises StoreUnavailable without a database."""

    async def review(self, review_id: UUID) -> Review | None:
        """A review."""
        ...

    async def reviews(
        self, state: ReviewState | None, platform: str | None, after: tuple[datetime, UUID], how_many: int
    ) -> list[Review]:
        """Reviews opened after a position, oldest first."""
        ...

    async def claim(self, review_id: UUID | None, reviewer: str, platform: str | None) -> Review | None:
        """Gives the review named, or the oldest unclaimed one, to `reviewer` for a while; None if it cannot be had, or
        if the reviewer has as many as one may have."""
        ...

    async def may_claim(self, reviewer: str) -> bool:
        """Whether `reviewer` has fewer claimed reviews than one may have at once."""
        ...

    async def evidence(self, review: Review) -> Evidence:
        """What a person needs to decide on it."""
        ...
