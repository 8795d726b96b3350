"""The statements in `sql/`. Knows how a set of rows becomes a statement's arrays; must not know what they mean.

A statement names its inputs where it reads them: `:card(card_id uuid, state text)` stands for the rows of one input,
and becomes `unnest($1::uuid[], $2::text[]) AS card (card_id, state)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

_INPUT = re.compile(r":(\w+)\(([^)]*)\)(?: AS (\w+))?")


class Statement:
    """One statement: `text` for the driver, and the arrays it wants for given rows."""

    def __init__(self, source: str) -> None:
        self.inputs: dict[str, tuple[str, ...]] = {}
        self._parameters = 0
        self.text = _INPUT.sub(self._expand, source)

    def _expand(self, match: re.Match[str]) -> str:
        name, columns = match[1], [column.split() for column in match[2].split(",")]
        self.inputs[name] = tuple(column for column, _ in columns)
        arrays = []
        for _, type_name in columns:
            self._parameters += 1
            arrays.append(f"${self._parameters}::{type_name}[]")
        return f"unnest({', '.join(arrays)}) AS {match[3] or name} ({', '.join(self.inputs[name])})"

    def arguments(self, **rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """The arrays for `rows`, given by input; an input left out has no rows. A row must have every column."""
        return [
            [row[column] for row in rows.get(name, ())] for name, columns in self.inputs.items() for column in columns
        ]


@cache
def statement(name: str) -> Statement:
    """The statement in `sql/NAME.sql`."""
    return Statement(files("server.store").joinpath("sql", f"{name}.sql").read_text("utf-8"))
