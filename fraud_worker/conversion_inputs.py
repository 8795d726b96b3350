"""What the conversion model sees: the registry's features, and flags for what would become of the card and whose it is.

Knows names, ranges and the order of the matrix, and how numbers of the wire become flags. Must not know models or gRPC.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fraud_worker.registry import FEATURES, Feature

DISPOSITIONS: Final = ("CANCEL", "RESET_VALIDITY", "VOUCHER")
"""Number n of the wire is the n-th, from 1."""
SEGMENTS: Final = ("YOUNG", "MIDDLE", "SENIOR")
"""Likewise; 0 is none of them, or unknown."""

Matrix = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


def _flag(name: str, meaning: str) -> Feature:
    return Feature(name=name, meaning=meaning, unit="flag", window="", direction=0, lowest=0.0, highest=1.0)


INPUTS: Final = (
    *FEATURES,
    *(_flag(f"disposition_{name.lower()}", f"whether {name} would become of the card") for name in DISPOSITIONS),
    *(_flag(f"segment_{name.lower()}", f"whether the owner is of the segment {name}") for name in SEGMENTS),
)
"""The columns of the matrix."""
INPUT_NAMES: Final = tuple(each.name for each in INPUTS)


def cell(segment: int, disposition: int) -> str:
    """The name of a segment and disposition: what support is counted by, e.g. "YOUNG/CANCEL", "/VOUCHER"."""
    return f"{SEGMENTS[segment - 1] if segment else ''}/{DISPOSITIONS[disposition - 1]}"


def cells() -> list[tuple[int, int]]:
    """Every segment and disposition, by number."""
    return [(s, d) for s in range(len(SEGMENTS) + 1) for d in range(1, len(DISPOSITIONS) + 1)]


def matrix(features: Matrix, dispositions: Numbers, segments: Numbers) -> Matrix:
    """A row a question: its row of features, and the flags of its numbers; those that nobody knows have none."""
    return np.hstack([features, _flags(dispositions, len(DISPOSITIONS)), _flags(segments, len(SEGMENTS))])


def _flags(numbers: Numbers, count: int) -> Matrix:
    flags: Matrix = (numbers[:, None] == np.arange(1, count + 1)).astype(np.float64)
    return flags
