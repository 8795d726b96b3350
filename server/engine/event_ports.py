"""What telling events to others needs of the world, declared by the one who uses it. Adapters meet these by shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from server.domain.events import Event, Position


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """What was read after a position at one moment. `known`: whether the position is one of this log; a database that
    was set back may have lost it. `waits_since`: when the first event happened that is recorded, but not told yet,
    since an older transaction has not ended."""

    known: bool
    now: datetime
    waits_since: datetime | None
    events: Sequence[Event]

    @property
    def delay(self) -> timedelta:
        """How long a recorded event has been waiting for an older transaction."""
        return max(self.now - self.waits_since, timedelta()) if self.waits_since else timedelta()


class EventLog(Protocol):
    """The events on record. Every method raises StoreUnavailable when the database cannot be reached."""

    async def after(self, position: Position, how_many: int, account_id: str | None = None) -> EventPage:
        """The first events after a position that nothing can come before any more, in order; of one account where it is
        named."""
        ...

    async def newest(self) -> Position:
        """The last position that nothing can come before any more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A relay, when its lease was asked for: whether it is held now, what it has published, and since when what is to
    be published next waits (None: nothing does)."""

    held: bool
    position: Position
    now: datetime
    waits_since: datetime | None

    @property
    def lag(self) -> timedelta:
        """How long the next event has been waiting to be published."""
        return max(self.now - self.waits_since, timedelta()) if self.waits_since else timedelta()


class RelayCursors(Protocol):
    """How far relays are, and who works. Every method raises StoreUnavailable when the database cannot be reached."""

    async def claim(self, relay: str, holder: UUID, lease_s: float) -> Claim:
        """Takes or keeps a relay's lease, if no other holder has it."""
        ...

    async def advance(self, relay: str, holder: UUID, lease_s: float, position: Position) -> bool:
        """Keeps that all up to `position` is published, and the lease; False when another holds it by now."""
        ...

    async def release(self, relay: str, holder: UUID) -> None:
        """Lets go of a lease, if it is held."""
        ...


class PublishFailed(Exception):
    """Events were not taken, or not known to be, all of them. To publish them again does no harm."""


class Publisher(Protocol):
    """Where a relay publishes to."""

    async def publish(self, events: Sequence[Event]) -> None:
        """Returns when all are kept there, in order. Raises PublishFailed."""
        ...

    async def close(self) -> None:
        """Lets go of the connection."""
        ...
