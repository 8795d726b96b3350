"""What the engine needs of the world, declared by the one who uses it. Adapters meet these by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from server.domain.card import Card
from server.domain.commands import Command, IssueItem
from server.domain.policy import Policy
from server.domain.snapshot import Change, Score, Snapshot

Features = Mapping[str, float | int | bool | None]
"""One request's features by name, as `fraud_scoring.v1.FeatureRow` has them; None is unknown."""


class StoreUnavailable(Exception):
    """The database cannot be reached now. Whether the last statement took effect is unknown."""


class ScoreUnavailable(Exception):
    """The fraud worker gave no usable answer in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a request id was answered before: the hash of its input, and the answer's bytes."""

    input_hash: bytes
    response: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What the store knows of one command. `account_version` is the guard of all that the snapshot shows.

    `assumed_rejected`: what the features of later commands on its device, loaded with it, took its outcome to be.
    """

    answered: Answered | None
    account_version: int
    snapshot: Snapshot
    features: Features
    assumed_rejected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One decided command to record: the guard it was decided under, the change, its answer and its receipt (JSON)."""

    command: Command
    account_version: int
    change: Change
    response: bytes
    receipt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedItem:
    """What the store knows of one item to issue. `policy` is None when the platform has none."""

    answered: Answered | None
    now: datetime
    segment: str | None
    serial_taken: bool
    policy: Policy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedEntry:
    """One card to record."""

    item: IssueItem
    card: Card
    response: bytes
    receipt: str


class Store(Protocol):
    """The database. Every method raises StoreUnavailable when it cannot be reached."""

    async def answered(self, commands: Sequence[Command]) -> list[Answered | None]:
        """What each command's request id was answered before."""
        ...

    async def load(self, commands: Sequence[Command]) -> list[Loaded]:
        """All that the decisions may read, in one round trip. Each account comes once."""
        ...

    async def record(self, entries: Sequence[Entry]) -> set[int]:
        """Records in one transaction; returns the positions that were written. Those missing lost a race, or were
        recorded too late."""
        ...

    async def load_items(self, items: Sequence[IssueItem]) -> list[LoadedItem]:
        """What issuing needs to know of each item."""
        ...

    async def record_items(self, entries: Sequence[IssuedEntry]) -> set[UUID]:
        """Issues in one transaction; returns the ids of the cards written. Those missing were answered meanwhile."""
        ...


class FraudScorer(Protocol):
    """The fraud worker."""

    async def score(self, rows: Sequence[Features]) -> list[Score]:
        """One score a row, all by the same model. Raises ScoreUnavailable."""
        ...


class Renderer(Protocol):
    """Turns changes into the bytes that callers get, so that the same bytes can be stored and repeated."""

    def answer(self, command: Command, change: Change) -> bytes:
        """The serialized response message of the command's RPC."""
        ...

    def card(self, card: Card, now: datetime) -> bytes:
        """A serialized card, as at `now`."""
        ...
