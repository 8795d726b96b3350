"""A figure of a bench: one line of JSON, with its target and whether it is reached."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value, what it should be, and what else was seen; value and `reached` are None if not measurable."""

    name: str
    value: float | None
    target: str
    reached: bool | None
    beside: Mapping[str, Any]

    def line(self) -> str:
        """One line of JSON."""
        content = {"figure": self.name, "value": self.value, "target": self.target, "reached": self.reached}
        return json.dumps(_rounded(content | dict(self.beside)))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    return {key: _rounded(part) for key, part in value.items()} if isinstance(value, dict) else value


def at_least(name: str, value: float, least: float, /, **beside: Any) -> Figure:
    """A figure that should not be below `least`."""
    return Figure(name=name, value=value, target=f">= {least}", reached=value >= least, beside=beside)


def not_measurable(names: Sequence[str], why: str) -> Iterator[Figure]:
    """Figures that the log cannot tell, and why."""
    for name in names:
        yield Figure(name=name, value=None, target="not measurable", reached=None, beside={"why": why})
