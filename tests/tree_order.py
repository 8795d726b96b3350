"""Whether trees keep the registry's directions everywhere, told from the trees alone and not by trying rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import lightgbm as lgb

from fraud_worker.registry import FEATURES


@dataclass(frozen=True, slots=True)
class _Range:
    """What a leaf takes of one feature: over `low`, at most `high`, and whether the unknown, too."""

    low: float = -inf
    high: float = inf
    unknown: bool = True

    def meets(self, other: _Range) -> bool:
        return max(self.low, other.low) < min(self.high, other.high) or (self.unknown and other.unknown)

    def lies_below(self, other: _Range) -> bool:
        return self.low < self.high <= other.low < other.high


_ANY = _Range()
_Leaf = tuple[dict[int, _Range], float]


def broken_directions(booster: lgb.Booster) -> list[tuple[int, str]]:
    """Tree and feature for each two leaves that differ in one feature alone and lie against its direction."""
    found = []
    for number, tree in enumerate(booster.dump_model()["tree_info"]):
        leaves = list(_leaves(tree["tree_structure"], {}))
        for lower, low_value in leaves:
            for higher, high_value in leaves:
                apart = [
                    column
                    for column in lower.keys() | higher.keys()
                    if not lower.get(column, _ANY).meets(higher.get(column, _ANY))
                ]
                if len(apart) == 1 and lower.get(apart[0], _ANY).lies_below(higher.get(apart[0], _ANY)):
                    feature = FEATURES[apart[0]]
                    if (high_value - low_value) * feature.direction < 0:
                        found.append((number, feature.name))
    return found


def _leaves(node: dict[str, Any], ranges: dict[int, _Range]) -> Iterator[_Leaf]:
    if "leaf_value" in node:
        yield ranges, node["leaf_value"]
        return
    column, bound = node["split_feature"], node["threshold"]
    before = ranges.get(column, _ANY)
    # Where no row of training lacked the feature, the unknown counts as zero.
    left = node["default_left"] if node["missing_type"] == "NaN" else bound >= 0
    yield from _leaves(
        node["left_child"], ranges | {column: _Range(before.low, min(before.high, bound), before.unknown and left)}
    )
    yield from _leaves(
        node["right_child"], ranges | {column: _Range(max(before.low, bound), before.high, before.unknown and not left)}
    )
