"""What a reviewer is shown beside the review itself. Values only; must not know where they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from server.domain.card import Card
from server.domain.feature_words import sentence
from server.domain.recycling import Recycling
from server.domain.review import Review

ENTRIES_MAX = 20
"""No list of evidence is longer."""


class SharedTrait(StrEnum):
    """What another account's request has in common with the one under review."""

    DEVICE = "DEVICE"
    ADDRESS = "ADDRESS"
    LOOK_ALIKE = "LOOK_ALIKE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One feature of the request in words. `value` None is unknown, which may speak for or against it too.
    `contribution`: how much it moved the score, in log odds, where the scorer said so."""

    feature: str
    value: float | None
    sentence: str
    reason_code: str = ""
    contribution: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarCase:
    """A recycling of another account that shares something with the request."""

    shared: tuple[SharedTrait, ...]
    recycling: Recycling


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRequest:
    """One request of the account, as the risk history has it; `outcome` is None for those that are not judged."""

    event_time: datetime
    kind: str
    card_id: str | None
    outcome: str | None
    same_device: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All of it, as of `now`, newest first; `signals` with what spoke most against the request first, as far as that is
    known."""

    now: datetime
    signals: tuple[Signal, ...]
    similar: tuple[SimilarCase, ...]
    cards: tuple[Card, ...]
    recyclings: tuple[Recycling, ...]
    reviews: tuple[Review, ...]
    requests: tuple[AccountRequest, ...]


def signals(
    features: Mapping[str, float | int | bool | None], explanation: Sequence[Signal] | None
) -> tuple[Signal, ...]:
    """The scorer's own explanation where it gave one; else each known feature in words, in no particular order."""
    if explanation:
        return tuple(explanation[:ENTRIES_MAX])
    return tuple(
        Signal(feature=name, value=float(value), sentence=sentence(name, value))
        for name, value in features.items()
        if value is not None
    )
