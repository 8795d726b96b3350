"""How often it was complained of, and what that lets expect. Knows shares and how sure they are; must not know what was
decided, or how: a class is a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

_Class = TypeVar("_Class", bound=str)

ENOUGH = 50
"""Of fewer decisions no share is told."""

_Z = 1.959963984540054
"""Of a 95% interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many of so many decisions were complained of. The share, and its interval after Wilson, are None where there
    are too few to tell."""

    decisions: int
    complaints: int

    @property
    def share(self) -> float | None:
        """The share complained of."""
        return self.complaints / self.decisions if self.decisions >= ENOUGH else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the share. It is no point where nobody complained, too."""
        if self.decisions < ENOUGH:
            return None
        n, share = self.decisions, self.complaints / self.decisions
        middle = (share + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
        reach = _Z * sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n)) / (1 + _Z * _Z / n)
        return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Complaints to be expected; `low` and `high` with every rate at an end of its interval. `unknown`: decisions of
    classes of which too little is known, which are in none of these."""

    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    unknown: int = 0

    @classmethod
    def total(cls, parts: Iterable[Expected]) -> Expected:
        """All together."""
        value, low, high, unknown = 0.0, 0.0, 0.0, 0
        for part in parts:
            value, low, high, unknown = value + part.value, low + part.low, high + part.high, unknown + part.unknown
        return cls(value=value, low=low, high=high, unknown=unknown)


class ComplaintTally:
    """Decisions that are old enough to tell, by class and segment."""

    def __init__(self) -> None:
        self._decisions: Counter[tuple[str, str | None]] = Counter()
        self._complaints: Counter[tuple[str, str | None]] = Counter()

    def add(self, decision_class: str, segment: str | None, *, complained: bool) -> None:
        """Counts a decision."""
        self._decisions[decision_class, segment] += 1
        self._complaints[decision_class, segment] += complained

    def rates(self) -> Iterator[tuple[str, str | None, Rate]]:
        """Class, segment and rate: first of all segments together (None), then of each that is known."""
        for decision_class in sorted({decision_class for decision_class, _ in self._decisions}):
            yield decision_class, None, self._of_all(decision_class)
        for decision_class, segment in sorted(key for key in self._decisions if key[1] is not None):
            yield decision_class, segment, self._of(decision_class, segment)

    def expected(self, classes: Mapping[_Class, int], segment: str | None) -> Expected:
        """What decisions of a segment, so many of each class, let expect: by the segment's own rates where they can be
        told, else by those of all."""
        parts = []
        for decision_class, decisions in classes.items():
            rate = self._of(decision_class, segment)
            if rate.share is None:
                rate = self._of_all(decision_class)
            if rate.share is None or rate.interval is None:
                parts.append(Expected(unknown=decisions))
                continue
            low, high = rate.interval
            parts.append(Expected(value=decisions * rate.share, low=decisions * low, high=decisions * high))
        return Expected.total(parts)

    def _of(self, decision_class: str, segment: str | None) -> Rate:
        key = (decision_class, segment)
        return Rate(decisions=self._decisions[key], complaints=self._complaints[key])

    def _of_all(self, decision_class: str) -> Rate:
        keys = [key for key in self._decisions if key[0] == decision_class]
        return Rate(
            decisions=sum(self._decisions[key] for key in keys), complaints=sum(self._complaints[key] for key in keys)
        )
