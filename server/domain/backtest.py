"""What a candidate policy would have made of decisions on record: each decided twice, compared and counted. Pure.

Knows what differs and what it sums up to; must not know where decisions come from. See `BacktestPolicy` in the contract
for what such a trial cannot tell.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from server.domain.commands import Recycle
from server.domain.complaints import ComplaintTally, Expected, Rate
from server.domain.decision import check, decide
from server.domain.errors import Reason, Refusal
from server.domain.quote import RedeemedQuotes
from server.domain.recycling import CompensationState, Disposition, RecyclingState, Unit
from server.domain.snapshot import Score, Snapshot

NOBODY = UUID(int=0)
"""Stands for the ids of what a trial makes, and nobody keeps."""


class DecisionClass(StrEnum):
    """What was decided upon a recycle. What is taken is of the class of its disposition."""

    REFUSED = "REFUSED"
    HELD = "HELD"
    CANCEL = "CANCEL"
    RESET_VALIDITY = "RESET_VALIDITY"
    VOUCHER = "VOUCHER"


class Difference(StrEnum):
    """In what a decision differs from another."""

    OUTCOME = "OUTCOME"
    DISPOSITION = "DISPOSITION"
    UNIT = "UNIT"
    AMOUNT = "AMOUNT"
    FEE = "FEE"
    SETTLEMENT = "SETTLEMENT"


class Skip(StrEnum):
    """Why a decision on record cannot be tried."""

    RECEIPT_UNREADABLE = "RECEIPT_UNREADABLE"
    RECEIPT_ALTERED = "RECEIPT_ALTERED"
    POLICY_UNKNOWN = "POLICY_UNKNOWN"
    NOT_AS_RECORDED = "NOT_AS_RECORDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What is decided upon a recycle. `refusal`: the reason where a rule refuses. What is held has the terms that an
    approval will apply. `settle_after_time` is None where nothing is owed."""

    outcome: RecyclingState
    refusal: Reason | None = None
    disposition: Disposition | None = None
    unit: Unit | None = None
    amount: int = 0
    fee_minor: int = 0
    settled_at_once: bool = False
    settlement_held: bool = False
    settle_after_time: datetime | None = None

    @property
    def decision_class(self) -> DecisionClass:
        """As complaints go by it."""
        if self.outcome is RecyclingState.IN_REVIEW:
            return DecisionClass.HELD
        return DecisionClass(self.disposition) if self.disposition else DecisionClass.REFUSED

    @property
    def paid(self) -> int:
        """What is owed without a review: 0 for what is held."""
        return self.amount if self.outcome is RecyclingState.APPROVED else 0

    def differences(self, other: Decided) -> frozenset[Difference]:
        """In what the two differ. Terms are compared where both have any."""
        if self == other:
            return frozenset()
        found = set()
        if self.outcome is not other.outcome:
            found.add(Difference.OUTCOME)
        if self.disposition is None or other.disposition is None:
            return frozenset(found)
        if self.disposition is not other.disposition:
            found.add(Difference.DISPOSITION)
        if self.unit and other.unit and self.unit is not other.unit:
            found.add(Difference.UNIT)
        elif self.amount != other.amount:
            found.add(Difference.AMOUNT)
        if self.fee_minor != other.fee_minor:
            found.add(Difference.FEE)
        if self._settlement() != other._settlement() and self.unit and other.unit:
            found.add(Difference.SETTLEMENT)
        return frozenset(found)

    def _settlement(self) -> tuple[object, ...]:
        return (self.settled_at_once, self.settlement_held, self.settle_after_time)


def decided(command: Recycle, snapshot: Snapshot, score: Score | None) -> Decided:
    """What the policy in `snapshot` makes of a recycle. Quotes are taken as if they had been given by it."""
    quotes = RedeemedQuotes()
    try:
        check(command, snapshot, quotes)
        change = decide(command, snapshot, score, recycling_id=NOBODY, review_id=NOBODY, signer=quotes)
    except Refusal as refusal:
        return Decided(outcome=RecyclingState.REJECTED, refusal=refusal.reason)
    recycling = change.recycling
    assert recycling is not None, "a recycle was decided"
    owed = recycling.compensation
    return Decided(
        outcome=recycling.state,
        disposition=recycling.disposition,
        unit=owed.unit if owed else None,
        amount=owed.amount if owed else 0,
        fee_minor=recycling.fee_minor,
        settled_at_once=owed is not None and owed.state is CompensationState.SETTLED,
        settlement_held=recycling.settlement_held,
        settle_after_time=recycling.settle_after_time if owed else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One decision as it was recorded and as the candidate decides. `complained`: whether it was complained of in time;
    None where it is too young to tell."""

    account_id: str
    recycling_id: UUID
    create_time: datetime
    segment: str | None
    tier: str
    recorded: Decided
    candidate: Decided
    complained: bool | None

    @property
    def differences(self) -> frozenset[Difference]:
        """In what the candidate differs."""
        return self.recorded.differences(self.candidate)

    @property
    def weight(self) -> int:
        """By how much it differs: what is owed, in whatever units, and the fee."""
        old, new = self.recorded, self.candidate
        owed = abs(new.paid - old.paid) if old.unit is new.unit or not (old.unit and new.unit) else new.paid + old.paid
        return owed + abs(new.fee_minor - old.fee_minor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What some decisions come to: how many of each class, fees of what is approved in minor units, compensations by
    unit, approved and held, and the complaints to be expected."""

    classes: Mapping[DecisionClass, int]
    fee_minor: int
    amounts: Mapping[Unit, int]
    held_amounts: Mapping[Unit, int]
    complaints: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Some of the decisions. Without a tier: all of them. `complaints`: those on record."""

    segment: str | None
    tier: str | None
    decisions: int
    changed: int
    recorded: Side
    candidate: Side
    complaints: int


@dataclass(slots=True)
class _Sums:
    """One side of a group, as it is counted."""

    classes: Counter[DecisionClass] = field(default_factory=Counter)
    amounts: Counter[Unit] = field(default_factory=Counter)
    held_amounts: Counter[Unit] = field(default_factory=Counter)
    fee_minor: int = 0

    def add(self, one: Decided) -> None:
        self.classes[one.decision_class] += 1
        if one.outcome is RecyclingState.APPROVED:
            self.fee_minor += one.fee_minor
        if one.unit:
            (self.held_amounts if one.outcome is RecyclingState.IN_REVIEW else self.amounts)[one.unit] += one.amount

    def merge(self, other: _Sums) -> None:
        self.classes.update(other.classes)
        self.amounts.update(other.amounts)
        self.held_amounts.update(other.held_amounts)
        self.fee_minor += other.fee_minor


@dataclass(slots=True)
class _GroupSums:
    decisions: int = 0
    changed: int = 0
    complaints: int = 0
    recorded: _Sums = field(default_factory=_Sums)
    candidate: _Sums = field(default_factory=_Sums)


class Tally:
    """Counts trials, however many, in a space that does not grow with them."""

    def __init__(self, examples_max: int) -> None:
        self.replayed = 0
        self.changed = 0
        self.oldest_time: datetime | None = None
        self.skipped: Counter[Skip] = Counter()
        self.differences: Counter[Difference] = Counter()
        self.moves: Counter[tuple[DecisionClass, DecisionClass]] = Counter()
        self.refusals: Counter[Reason] = Counter()
        self._complaints = ComplaintTally()
        self._groups: dict[tuple[str, str], _GroupSums] = {}
        self._examples: list[tuple[int, datetime, UUID, Trial]] = []
        self._examples_max = examples_max

    def skip(self, why: Skip) -> None:
        """Counts a decision that cannot be tried."""
        self.skipped[why] += 1

    def add(self, trial: Trial) -> None:
        """Counts one that was."""
        differences = trial.differences
        self.replayed += 1
        if self.oldest_time is None or trial.create_time < self.oldest_time:
            self.oldest_time = trial.create_time
        self.differences.update(differences)
        self.moves[trial.recorded.decision_class, trial.candidate.decision_class] += 1
        if trial.candidate.refusal:
            self.refusals[trial.candidate.refusal] += 1
        if trial.complained is not None:
            self._complaints.add(trial.recorded.decision_class, trial.segment, complained=trial.complained)
        group = self._groups.setdefault((trial.segment or "", trial.tier), _GroupSums())
        group.decisions += 1
        group.complaints += bool(trial.complained)
        group.recorded.add(trial.recorded)
        group.candidate.add(trial.candidate)
        if differences:
            self.changed += 1
            group.changed += 1
            self._keep(trial)

    def total(self) -> Group:
        """All decisions together; the expectation adds up those of the groups."""
        groups = list(self.groups())
        sums = _GroupSums()
        for each in self._groups.values():
            sums.decisions += each.decisions
            sums.changed += each.changed
            sums.complaints += each.complaints
            sums.recorded.merge(each.recorded)
            sums.candidate.merge(each.candidate)
        return Group(
            segment=None,
            tier=None,
            decisions=sums.decisions,
            changed=sums.changed,
            recorded=_side(sums.recorded, Expected.total(group.recorded.complaints for group in groups)),
            candidate=_side(sums.candidate, Expected.total(group.candidate.complaints for group in groups)),
            complaints=sums.complaints,
        )

    def groups(self) -> Iterator[Group]:
        """By segment and tier."""
        for (segment, tier), sums in sorted(self._groups.items()):
            yield Group(
                segment=segment or None,
                tier=tier,
                decisions=sums.decisions,
                changed=sums.changed,
                recorded=_side(sums.recorded, self._complaints.expected(sums.recorded.classes, segment or None)),
                candidate=_side(sums.candidate, self._complaints.expected(sums.candidate.classes, segment or None)),
                complaints=sums.complaints,
            )

    def rates(self) -> Iterable[tuple[str, str | None, Rate]]:
        """How often it was complained of, by class, and by class and segment."""
        return self._complaints.rates()

    def examples(self) -> list[Trial]:
        """The changed decisions of the greatest weight, the greatest first."""
        return [trial for *_, trial in sorted(self._examples, reverse=True)]

    def _keep(self, trial: Trial) -> None:
        entry = (trial.weight, trial.create_time, trial.recycling_id, trial)
        if len(self._examples) < self._examples_max:
            heapq.heappush(self._examples, entry)
        elif self._examples:
            heapq.heappushpop(self._examples, entry)


def _side(sums: _Sums, complaints: Expected) -> Side:
    return Side(
        classes=sums.classes,
        fee_minor=sums.fee_minor,
        amounts=sums.amounts,
        held_amounts=sums.held_amounts,
        complaints=complaints,
    )
