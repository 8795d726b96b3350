"""Which commands of a batch get an explanation, and which need not wait for it. Knows bands, and what commands share;
must not know what the explanation says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from server.domain.recycling import RiskBand
from server.domain.snapshot import Score
from server.engine.ports import Loaded
from server.engine.queue import Ticket

EXPLAINED_MAX = 16
"""So many commands of a batch are explained: an explanation costs the worker what a hundred scores cost."""

Judged: TypeAlias = tuple[Ticket, Loaded]


def suspicious(judged: Sequence[Judged], scores: Mapping[Ticket, Score]) -> list[Judged]:
    """Those that are to be explained: MEDIUM and HIGH, at most `EXPLAINED_MAX`; MEDIUM first, since people look at
    them."""
    bands = {ticket: score.band for ticket, score in scores.items()}
    found = [(ticket, loaded) for ticket, loaded in judged if bands.get(ticket, RiskBand.LOW) is not RiskBand.LOW]
    found.sort(key=lambda one: bands[one[0]] is RiskBand.HIGH)  # stable: else in the order of the batch
    return found[:EXPLAINED_MAX]


def apart(judged: Sequence[Judged], suspects: Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    """What need not wait for the suspects' explanations, and what must: the suspects, and whoever shares something with
    an earlier one of those.

    The features of a later command count the earlier ones that it shares something with, so it must be recorded after
    them: else who reads the log later would see another order than the one it was judged in.
    """
    explained = {ticket for ticket, _ in suspects}
    prompt: list[Judged] = []
    waiting: list[Judged] = []
    keys: set[str | bytes] = set()
    for one in judged:
        ticket = one[0]
        if ticket in explained or not keys.isdisjoint(ticket.keys):
            waiting.append(one)
            keys.update(ticket.keys)
        else:
            prompt.append(one)
    return prompt, waiting
