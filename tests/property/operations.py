"""What may happen in a sequence, as plain data that Hypothesis draws and shrinks: towards nothing happening at all.

Places ("the card before the last") stand for ids, which are not known before the sequence is played. A new operation
is a member of `Kind`, a weight, and a method of `lane.Lane`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from hypothesis import strategies as st

LANES = 20
ROUNDS = 10
OPERATIONS = LANES * ROUNDS
"""So many operations has a sequence, a few of them idle: in each round every account does one, all at once."""


class Kind(StrEnum):
    """What an account does."""

    NOTHING = "nothing"
    ISSUE = "issue"
    ACTIVATE = "activate"
    BIND = "bind"
    QUOTE = "quote"
    RECYCLE = "recycle"
    REDEEM_QUOTE = "redeem_quote"
    COMPENSATE = "compensate"
    REACTIVATE = "reactivate"
    REDEEM = "redeem"
    EXCHANGE = "exchange"
    GRANT = "grant"
    VOID = "void"
    RESOLVE = "resolve"
    CLAIM = "claim"
    LAPSE = "lapse"
    LIST = "list"
    AGAIN = "again"
    BOTH = "both"


WEIGHTS = {
    Kind.NOTHING: 0,  # only shrinking puts it there
    Kind.ISSUE: 4,
    Kind.ACTIVATE: 3,
    Kind.BIND: 2,
    Kind.QUOTE: 2,
    Kind.RECYCLE: 5,
    Kind.REDEEM_QUOTE: 2,
    Kind.COMPENSATE: 4,
    Kind.REACTIVATE: 5,
    Kind.REDEEM: 4,
    Kind.EXCHANGE: 3,
    Kind.GRANT: 2,
    Kind.VOID: 1,
    Kind.RESOLVE: 3,
    Kind.CLAIM: 3,
    Kind.LAPSE: 1,
    Kind.LIST: 1,
    Kind.AGAIN: 2,
    Kind.BOTH: 4,
}
_KINDS = [Kind.NOTHING, *(kind for kind, weight in WEIGHTS.items() for _ in range(weight))]


AT = {
    "validity": (Kind.ACTIVATE, Kind.RECYCLE, Kind.QUOTE),
    "wait": (Kind.RECYCLE,),
    "price": (Kind.RECYCLE, Kind.REDEEM_QUOTE),
    "window": (Kind.REACTIVATE,),
    "hold": (Kind.RESOLVE, Kind.LAPSE, Kind.RECYCLE, Kind.REACTIVATE, Kind.VOID),
    "claim": (Kind.CLAIM, Kind.RESOLVE),
    "quote": (Kind.REDEEM_QUOTE,),
    "coupon": (Kind.COMPENSATE, Kind.RECYCLE),
    "due": (Kind.COMPENSATE,),
    "usage": (Kind.REDEEM, Kind.GRANT),
    "policy": (Kind.RECYCLE, Kind.QUOTE, Kind.REDEEM_QUOTE, Kind.BIND, Kind.REDEEM, Kind.EXCHANGE),
    "period": (Kind.RECYCLE, Kind.QUOTE, Kind.REDEEM_QUOTE),
    "list": (Kind.COMPENSATE, Kind.RECYCLE, Kind.REACTIVATE),
}
"""What tells before from after at each kind of boundary."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`place` names a card, recycling, review or quote by how recent it is; `way` chooses among a kind's variants, and
    `band` is what the scorer will say."""

    kind: Kind
    place: int = 0
    way: int = 0
    band: str = "LOW"

    def __repr__(self) -> str:
        return f"{self.kind}({self.place}, {self.way}, {self.band})" if self.kind is not Kind.NOTHING else "-"


@dataclass(frozen=True, slots=True)
class Move:
    """How the clock moves before a round: on by `step`, or to `offset` from a boundary ahead: the one at `place` among
    those `of` a kind, where there are any such, or among all."""

    place: int | None
    step: timedelta
    of: str = ""
    offset: timedelta = timedelta(0)

    def __repr__(self) -> str:
        if self.place is None:
            return f"+{self.step}"
        return f"to boundary {self.place} {self.of} {'+' if self.offset >= timedelta(0) else '-'}{abs(self.offset)}"


class Sweep(StrEnum):
    """When the sweepers look in a round: before the accounts do anything, or while they do."""

    NEVER = "never"
    BEFORE = "sweep before"
    MEANWHILE = "sweep meanwhile"


@dataclass(frozen=True, slots=True)
class Takeover:
    """A revision that is activated: of which platform, which, and how far ahead."""

    platform: str
    place: int
    ahead: timedelta


@dataclass(frozen=True, slots=True)
class Round:
    """One step: the clock moves, the service does what it does by itself, then every lane does its operation; without
    scores where the scorer is `down`."""

    move: Move
    down: bool
    operations: tuple[Operation, ...]
    sweep: Sweep = Sweep.NEVER
    prices: bool = False
    takeover: Takeover | None = None

    @property
    def does_something(self) -> bool:
        """Whether an account does anything, or the clock moves."""
        moves = self.move.place is not None or bool(self.move.step)
        serves = self.sweep is not Sweep.NEVER or self.prices or self.takeover is not None
        return moves or serves or any(each.kind is not Kind.NOTHING for each in self.operations)

    def __repr__(self) -> str:
        done = "; ".join(
            f"{lane}: {each!r}" for lane, each in enumerate(self.operations) if each.kind is not Kind.NOTHING
        )
        first = [repr(self.move), "no scores" if self.down else "", "" if self.sweep is Sweep.NEVER else self.sweep]
        first += ["prices" if self.prices else "", repr(self.takeover) if self.takeover else ""]
        return f"\n  [{', '.join(each for each in first if each)}] {done}"


_STEPS = [
    timedelta(0),
    timedelta(0),
    timedelta(0),
    timedelta(microseconds=1),
    timedelta(seconds=1),
    timedelta(minutes=4),
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=11, hours=7),
]
_NEAR = [timedelta(0), timedelta(microseconds=-1), timedelta(microseconds=1)]

_steps = st.builds(Move, st.none(), st.sampled_from(_STEPS))
_to_boundaries = st.builds(
    Move,
    st.sampled_from([0, 0, 0, 1, 2, 5]),
    st.just(timedelta(0)),
    st.sampled_from(["", *AT]),
    st.sampled_from(_NEAR),
)
moves = st.one_of(_steps, _steps, _to_boundaries)
operations = st.builds(
    Operation,
    st.sampled_from(_KINDS),
    st.integers(0, 4),
    st.integers(0, 23),
    st.sampled_from(["LOW", "LOW", "LOW", "LOW", "MEDIUM", "MEDIUM", "HIGH"]),
)
takeovers = st.builds(
    Takeover,
    st.sampled_from(["iqiyi", "tencent", "netflix"]),
    st.integers(0, 2),
    st.sampled_from([timedelta(0), timedelta(minutes=1), timedelta(days=1)]),
)
rounds = st.builds(
    Round,
    moves,
    st.sampled_from([False] * 9 + [True]),
    st.tuples(*[operations] * LANES),
    st.sampled_from([Sweep.NEVER] * 7 + [Sweep.BEFORE] + [Sweep.MEANWHILE] * 3),
    st.sampled_from([False] * 7 + [True]),
    st.one_of(*[st.none()] * 5, takeovers),
)
sequences = st.tuples(*[rounds] * ROUNDS)


@contextmanager
def told(sequence: Sequence[Round]) -> Iterator[None]:
    """Tells the sequence with the error that it ends in; Hypothesis would take a page to do so."""
    try:
        yield
    except Exception as error:
        error.add_note("the sequence:" + "".join(repr(each) for each in sequence if each.does_something))
        raise
