"""Which commands of a batch are explained, and who waits for them."""

import uuid
from collections.abc import Sequence

from server.domain.commands import Recycle
from server.domain.recycling import RecycleReason
from server.domain.snapshot import Score
from server.engine.queue import Ticket
from server.engine.suspects import EXPLAINED_MAX, Judged, apart, suspicious
from tests.builders import HIGH, LOW, MEDIUM


def judged(*keys: Sequence[str | bytes]) -> list[Judged]:
    """Commands with what they might share."""
    command = Recycle(request_id=uuid.uuid4(), account_id="a", reason=RecycleReason.VOLUNTARY)
    return [(Ticket(command, own, ()), None) for own in keys]  # type: ignore[misc]


def places(found: Sequence[Judged], among: Sequence[Judged]) -> list[int]:
    """Where those stand in the batch."""
    return [[ticket for ticket, _ in among].index(ticket) for ticket, _ in found]


def scored(batch: Sequence[Judged], *scores: Score) -> dict[Ticket, Score]:
    return {ticket: score for (ticket, _), score in zip(batch, scores, strict=True)}


async def test_suspects_are_medium_and_high() -> None:
    """MEDIUM first, else in the order of the batch; what has no score is no suspect."""
    batch = judged(*[["a"]] * 6)
    scores = scored(batch[:5], HIGH, LOW, MEDIUM, HIGH, MEDIUM)
    assert places(suspicious(batch, scores), batch) == [2, 4, 0, 3]


async def test_number_of_suspects_is_bounded() -> None:
    """However many there are."""
    batch = judged(*[["a"]] * (EXPLAINED_MAX * 2))
    assert places(suspicious(batch, scored(batch, *[HIGH] * len(batch))), batch) == list(range(EXPLAINED_MAX))


async def test_only_who_shares_something_with_an_earlier_one_that_waits_waits_too() -> None:
    """Directly or over others; earlier ones and strangers do not."""
    batch = judged(["a", b"d1"], ["b", b"d1", b"ip"], ["c", b"d1", b"net"], ["d", b"net"], ["e", b"d2"], ["f", b"ip"])
    prompt, waiting = apart(batch, [batch[1]])
    assert (places(prompt, batch), places(waiting, batch)) == ([0, 4], [1, 2, 3, 5])
