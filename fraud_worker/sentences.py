"""What a feature's value says, in plain English.

Knows the registry's fields (meaning, unit, window) and a little grammar, so that a new feature needs no code here. Must
not know single features, models or scores.
"""

from __future__ import annotations

import re
from typing import Final

from fraud_worker.registry import Feature

_UNITS_OF_TIME: Final = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"), (1.0, "second"))
_LETTERS: Final = {"s": "second", "min": "minute", "h": "hour", "d": "day"}


def sentence(feature: Feature, value: float | None) -> str:
    """One sentence: what `value` of `feature` says, None where it is unknown."""
    meaning, when = feature.meaning.partition(";")[0], _when(feature)
    if feature.unit == "flag":
        text = _of_flag(meaning.removeprefix("whether "), when, value)
    elif feature.unit == "count" and not _is_question(meaning):
        text = _of_count(meaning, when, value, feature.highest)
    elif feature.unit == "seconds" and not _is_question(meaning):
        text = _of_seconds(meaning, value)
    else:
        text = f"{meaning}{when}: {_amount(feature.unit, value)}"
    return f"{text[:1].upper()}{text[1:]}."


def _is_question(meaning: str) -> bool:
    """Whether it asks ("how often ..."), so that the value is the answer."""
    return meaning.startswith(("how ", "what "))


def _of_count(meaning: str, when: str, value: float | None, highest: float) -> str:
    if value is None:
        return f"it is unknown how many {meaning} there were{when}"
    if value == 1:
        return f"there was 1 {_singular(meaning)}{when}"
    number = f"{value:,.0f}" if value else "no"
    at_least = "at least " if value >= highest else ""  # where counts saturate
    return f"there were {at_least}{number} {meaning}{when}"


def _of_seconds(meaning: str, value: float | None) -> str:
    if meaning.startswith("since "):
        if value is None:
            return f"it is unknown how long it was {meaning}"
        return f"it was {duration(value)} {meaning}"
    subject = meaning if meaning.startswith("the ") else f"the {meaning}"
    return f"{subject} {'is unknown' if value is None else f'was {duration(value)}'}"


def _of_flag(statement: str, when: str, value: float | None) -> str:
    if value is None:
        return f"it is unknown whether {statement}{when}"
    return f"{statement}{when}" if value else f"it is not so that {statement}{when}"


def _amount(unit: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    match unit:
        case "seconds":
            return duration(value)
        case "milliseconds":
            return duration(value / 1000)
        case "count":
            return f"{value:,.0f}"
        case "ratio":
            return f"{value:,.2f}"
    return f"{value:,.12g} {unit}"


def duration(seconds: float) -> str:
    """A span of time in its greatest unit: "3 minutes", "1.5 days", "0 seconds"."""
    size, name = next(((size, name) for size, name in _UNITS_OF_TIME if seconds >= size), _UNITS_OF_TIME[-1])
    number = f"{seconds / size:.1f}".removesuffix(".0")
    return f"{number} {name}" if number == "1" else f"{number} {name}s"


def _when(feature: Feature) -> str:
    """The feature's window ("24 h") as it ends a clause."""
    if feature.window == "ever":
        return "" if feature.unit == "flag" or feature.meaning.endswith(" before") else " so far"
    found = re.fullmatch(r"(\d+) (\w+)", feature.window)
    if not found or found[2] not in _LETTERS:
        return f" ({feature.window})" if feature.window else ""
    number, unit = found[1], _LETTERS[found[2]]
    return f" in the last {unit}" if number == "1" else f" in the last {number} {unit}s"


def _singular(meaning: str) -> str:
    """A phrase about many as one about one: its first plural, which is its noun, loses the s, and so do those that "or"
    joins to it."""
    words = meaning.replace(" that were ", " that was ").split(" ")
    for place, word in enumerate(words):
        if not word.endswith("s") or word.endswith(("ss", "ous", "'s", "this")):
            continue
        words[place] = f"{word[:-3]}y" if word.endswith("ies") else word[: -2 if word.endswith("sses") else -1]
        if "or" not in words[place + 1 : place + 2]:
            break
    return " ".join(words)
