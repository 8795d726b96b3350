"""Tokens of places in the order of events."""

import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.resume import ResumeTokens
from server.domain.errors import Reason, Refusal
from server.domain.events import BEGINNING, EventFilter, Position

ALL = ResumeTokens(EventFilter())
positions = st.builds(
    Position,
    xact=st.integers(0, 2**64 - 1),
    account_id=st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=128),
    subject_id=st.uuids(),
    version=st.integers(-(2**63), 2**63 - 1),
    event_time=st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
SOMEWHERE = Position(7, "a", uuid.UUID(int=1), 3, datetime(2026, 1, 1, tzinfo=UTC))


@given(position=positions)
def test_token_stands_for_its_place(position: Position) -> None:
    """Any place comes back as it was, from a token that a request takes."""
    token = ALL.token(position)
    assert ALL.position(token) == position
    assert len(ALL.token(BEGINNING)) < 100


@given(text=st.text(max_size=300))
def test_anything_else_is_refused(text: str) -> None:
    """Garbage is the caller's error, and never ours."""
    with pytest.raises(Refusal) as refused:
        ALL.position(text)
    assert refused.value.reason is Reason.FIELD_INVALID
    assert refused.value.fields[0][0] == "resume_token"


def test_place_that_no_event_can_have_is_refused() -> None:
    """Anybody can make up a token; one with a NUL in its account would be an error of the database."""
    with pytest.raises(Refusal) as refused:
        ALL.position(ALL.token(SOMEWHERE._replace(account_id="a\0b")))
    assert refused.value.reason is Reason.FIELD_INVALID


@given(position=positions, index=st.integers(0, 400), other=st.sampled_from("Aa0-_="))
def test_changed_token_is_refused(position: Position, index: int, other: str) -> None:
    """One letter more or else is no token any more."""
    token = ALL.token(position)
    index %= len(token)
    for changed in (token[:index] + other + token[index + 1 :], token + other, token[:-1]):
        if changed != token:
            with pytest.raises(Refusal):
                ALL.position(changed)


@pytest.mark.parametrize(
    "wanted",
    [
        EventFilter(platform="iqiyi"),
        EventFilter(account_id="a"),
        EventFilter(account_id="a", card_id=uuid.UUID(int=1)),
        EventFilter(kinds=frozenset({"ISSUED"})),
    ],
)
def test_token_belongs_to_one_filter(wanted: EventFilter) -> None:
    """Another filter's is refused, both ways."""
    other = ResumeTokens(wanted)
    with pytest.raises(Refusal):
        other.position(ALL.token(SOMEWHERE))
    with pytest.raises(Refusal):
        ALL.position(other.token(SOMEWHERE))


def test_order_of_kinds_is_no_matter() -> None:
    """The same filter, told in another order, takes the same tokens."""
    one, other = (ResumeTokens(EventFilter(kinds=frozenset(kinds))) for kinds in (("A", "B"), ("B", "A")))
    assert other.position(one.token(SOMEWHERE)) == SOMEWHERE
