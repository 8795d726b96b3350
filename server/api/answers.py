"""How outcomes reach callers: one, or many of a batch whose items are checked one by one. Must not know any RPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from server.api import meter
from server.api.shape import check_shape
from server.domain.commands import Command
from server.domain.errors import Refusal
from server.engine.engine import Engine
from server.engine.queue import Outcome

Item = TypeVar("Item", bound=Message)
Parsed = TypeVar("Parsed")


async def one(engine: Engine, command: Command) -> bytes:
    """The answer to one command. Raises the Refusal that it got instead."""
    (outcome,) = await engine.submit([command])
    if isinstance(outcome, Refusal):
        raise outcome
    return outcome


async def each(
    items: Iterable[Item],
    parse: Callable[[Item], Parsed],
    submit: Callable[[Sequence[Parsed]], Awaitable[Sequence[Outcome]]],
) -> list[Outcome]:
    """The outcome of every item, in order; an item of the wrong shape does not reach `submit`."""
    parsed: list[Parsed] = []
    refused: list[Refusal | None] = []
    for item in items:
        try:
            check_shape(item)
            parsed.append(parse(item))
        except Refusal as refusal:
            refused.append(refusal)
        else:
            refused.append(None)
    submitted = iter(await submit(parsed) if parsed else ())
    outcomes = [next(submitted) if refusal is None else refusal for refusal in refused]
    for outcome in outcomes:
        if isinstance(outcome, Refusal):
            meter.count_error(outcome)
    return outcomes
