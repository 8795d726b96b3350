"""What the engine needs of the world, declared by the one who uses it. Adapters meet these by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from server.domain.card import Card
from server.domain.commands import Command, IssueItem
from server.domain.lists import EntryDraft, ListEntry
from server.domain.model_health import Figures, Window
from server.domain.outcome import NewOutcome, Outcome
from server.domain.policy import Policy
from server.domain.recycling import Disposition
from server.domain.snapshot import Change, Score, Snapshot

Features = Mapping[str, float | int | bool | None]
"""One request's features by name, as `fraud_scoring.v1.FeatureColumns` has them; None is unknown."""

REASON_CODES_MAX = 3
"""So many of an explanation's reasons go into a decision."""


class StoreUnavailable(Exception):
    """The database cannot be reached now. Whether the last statement took effect is unknown."""


class ScoreUnavailable(Exception):
    """The fraud worker gave no usable answer in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one feature adds to a raw score, in log odds: positive speaks for abuse. `value` None is unknown."""

    feature: str
    reason_code: str
    value: float | None
    contribution: float
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How a score came about: `base_value` and the contributions add up to `raw_score` (log odds), which calibration
    makes `probability`. The greatest contribution comes first, whichever its sign."""

    raw_score: float
    base_value: float
    probability: float
    contributions: tuple[Contribution, ...]

    @property
    def reason_codes(self) -> tuple[str, ...]:
        """What speaks most for abuse, at most three reasons, the strongest first."""
        codes = [part.reason_code for part in self.contributions if part.contribution > 0]
        return tuple(codes[:REASON_CODES_MAX])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a request id was answered before: the hash of its input, and the answer's bytes."""

    input_hash: bytes
    response: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What the store knows of one command. `account_version` is the guard of all that the snapshot shows.

    `assumed_rejected`: what the features of later commands on its device, loaded with it, took its outcome to be.
    `policy_sha256`: of the policy revision's document, in hexadecimal; empty where there is no policy.
    """

    answered: Answered | None
    account_version: int
    snapshot: Snapshot
    features: Features
    assumed_rejected: bool = False
    policy_sha256: str = ""


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
    """What the store knows of one item to issue. `policy` is None when the platform has none; else its revision and the
    SHA-256 of its document, in hexadecimal, stand beside it."""

    answered: Answered | None
    now: datetime
    segment: str | None
    serial_taken: bool
    policy: Policy | None
    policy_revision: int | None = None
    policy_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedEntry:
    """One card to record."""

    item: IssueItem
    card: Card
    response: bytes
    receipt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutEntry:
    """What became of a list entry to put, at `now`: its version, or None when it was not added. `etag_before`: that of
    the entry then in force."""

    now: datetime
    etag_before: str | None
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedEntry:
    """An entry to delete; `ended` is False when another ended it at the same moment."""

    entry: ListEntry
    ended: bool


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


class ListStore(Protocol):
    """The lists. Every method raises StoreUnavailable when the database cannot be reached."""

    async def put_entry(self, draft: EntryDraft, entry_id: UUID) -> PutEntry:
        """Adds an entry, unless it expires too early, or another than the wanted one is in force."""
        ...

    async def delete_entry(self, entry_id: UUID, end_id: UUID, actor: str, reason: str) -> DeletedEntry | None:
        """Ends an entry in force; None when there is none of this id."""
        ...


class DueKind(StrEnum):
    """What time does by itself, in the order in which one may follow from the other."""

    HOLD = "HOLD"
    """The hold of a review lapses."""
    EXPIRY = "EXPIRY"
    """A card's bound passes."""
    RECYCLE = "RECYCLE"
    """An expired card is recycled by the service itself."""
    WINDOW = "WINDOW"
    """The time in which a card could come back ends."""
    COUPON = "COUPON"
    """A coupon was not used in time."""


class DueWork(Protocol):
    """Where what time has done is found. Every method raises StoreUnavailable when the database cannot be reached."""

    async def due(self, kind: DueKind, how_many: int) -> Sequence[Command]:
        """Commands for what is due and not recorded, the earliest first, each reserved for the caller for a minute.
        Fewer than `how_many` may come though there is more; none means that nothing is due."""
        ...

    async def lags(self) -> Mapping[DueKind, timedelta]:
        """For how long the oldest item of each kind has been due."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionQuestion:
    """How probable is it that the owner of row number `row` pays again, should `disposition` become of the card?"""

    row: int
    disposition: Disposition
    segment: str | None


class FraudScorer(Protocol):
    """The fraud worker."""

    async def score(self, rows: Sequence[Features], questions: Sequence[ConversionQuestion] = ()) -> list[Score]:
        """One score a row, all by the same model, with what a conversion model answers to the row's `questions`, if
        there is one. Raises ScoreUnavailable."""
        ...

    async def explain(self, rows: Sequence[Features], model_version: str) -> list[Explanation]:
        """How that model's scores of a few rows came about, one a row. Raises ScoreUnavailable."""
        ...


class Renderer(Protocol):
    """Turns changes into the bytes that callers get, so that the same bytes can be stored and repeated."""

    def answer(self, command: Command, change: Change) -> bytes:
        """The serialized response message of the command's RPC."""
        ...

    def card(self, card: Card, now: datetime) -> bytes:
        """A serialized card, as at `now`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeContext:
    """A recycling that something became of: whose, since when, what time it is, and the outcome if it is known."""

    account_id: str
    recycled: datetime
    now: datetime
    recorded: Outcome | None


class OutcomeStore(Protocol):
    """The database. Every method raises StoreUnavailable when it cannot be reached."""

    async def load_outcome(self, told: NewOutcome) -> OutcomeContext | None:
        """What is known of the recycling; None when there is no such."""
        ...

    async def record_outcome(self, account_id: str, told: NewOutcome) -> None:
        """Keeps the outcome and what follows from it, in one transaction, unless it is known already."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRequest:
    """One decision on record: what was known of the request, its score (None: there was none), what challengers would
    have said, and what became of it (1 abuse, 0 honest, None unknown). `conversion_model_version`: of the model that
    was heard about conversions, empty where none was."""

    time: datetime
    features: Features
    score: Score | None
    shadow: Sequence[Score]
    label: int | None
    conversion_model_version: str = ""


class JudgedStore(Protocol):
    """The decisions on record. Every method raises StoreUnavailable when the database cannot be reached."""

    async def now(self) -> datetime:
        """The database's clock."""
        ...

    async def judged(
        self, window: Window, platform: str | None, rows_max: int, *, mature: timedelta | None = None
    ) -> list[JudgedRequest]:
        """The newest decisions of a window, newest first; with labels where `mature` says after how much silence an
        approved request is honest. Of a platform: those among the newest ten times `rows_max`."""
        ...


class HealthMeasurer(Protocol):
    """The fraud worker, which knows what its models were trained on."""

    async def measure(self, seen: Sequence[JudgedRequest], labelled: Sequence[JudgedRequest]) -> Figures:
        """The figures of the one model that scored all these. Raises ScoreUnavailable."""
        ...
