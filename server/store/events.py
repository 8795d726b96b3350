"""The log of events and the relays' cursors, as statements. Knows rows; must not know who reads events, nor how
often."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from server.domain.events import BEGINNING, Event, Position, Redeemed
from server.engine.event_ports import Claim, EventPage
from server.store.database import Database


class PostgresEvents:
    """Events of one database. Methods raise StoreUnavailable when it cannot be reached."""

    def __init__(self, database: Database) -> None:
        self._query = database.query

    async def after(self, position: Position, how_many: int, account_id: str | None = None) -> EventPage:
        """The first events after a position, of one account where it is named."""
        if account_id is None:
            return _page(await self._query("events_after", *position, how_many))
        return _page(await self._query("events_of_account", *position, how_many, account_id))

    async def newest(self) -> Position:
        """The position of the last event that nothing can come before any more."""
        found = await self._query("events_newest")
        return _position(found[0]) if found else BEGINNING

    async def claim(self, relay: str, holder: UUID, lease_s: float) -> Claim:
        """Takes or keeps a relay's lease, if no other holder has it."""
        (row,) = await self._query("relay_claim", relay, holder, lease_s)
        return Claim(
            held=row["held"],
            position=_position(row) if row["xact"] else BEGINNING,
            now=row["now"],
            waits_since=row["waits_since"],
        )

    async def advance(self, relay: str, holder: UUID, lease_s: float, position: Position) -> bool:
        """Keeps how far a relay has published, and its lease; False when another holds it by now."""
        return bool(await self._query("relay_advance", relay, holder, lease_s, *position))

    async def release(self, relay: str, holder: UUID) -> None:
        """Lets go of a lease, if it is held."""
        await self._query("relay_release", relay, holder)


def _page(found: Sequence[asyncpg.Record]) -> EventPage:
    first = found[0]
    return EventPage(
        known=first["known"],
        now=first["now"],
        waits_since=first["waits_since"],
        events=[_event(row) for row in found if row["xact"] is not None],
    )


def _event(row: asyncpg.Record) -> Event:
    told_to_partner = row["partner"] is not None
    return Event(
        position=_position(row),
        source=row["source"],
        kind=row["kind"],
        platform=row["platform"] or "",
        request_id=row["request_id"],
        card_id=row["card_id"],
        recycling_id=row["recycling_id"],
        state=row["state"],
        generation=row["generation"],
        renewals_used=row["renewals_used"],
        activate_by_time=row["activate_by_time"],
        activate_time=row["activate_time"],
        expire_time=None if told_to_partner else row["expire_time"],
        hold_until=row["hold_until"],
        unit=row["unit"],
        amount=row["amount"],
        redemption=_redeemed(row) if told_to_partner else None,
    )


def _redeemed(row: asyncpg.Record) -> Redeemed:
    return Redeemed(
        redemption_id=row["redemption_id"],
        partner=row["partner"],
        offer_id=row["offer_id"],
        title=row["title"],
        benefit=row["benefit"],
        value_minor=row["value_minor"],
        basis_points=row["basis_points"],
        expire_time=row["expire_time"],
    )


def _position(row: asyncpg.Record) -> Position:
    return Position(row["xact"], row["account_id"], row["subject_id"], row["version"], row["event_time"])
