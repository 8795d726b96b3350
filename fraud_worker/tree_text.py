"""The text in which LightGBM keeps trees, checked before and after LightGBM reads it.

LightGBM believes what it reads: a child index that points nowhere makes it read foreign memory, one that points back
makes it walk for ever. Knows the text's format and what makes a tree a tree. Must not know LightGBM's library, what a
feature means, or where the text came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

TREES_MAX: Final = 10_000
LEAVES_MAX: Final = 10_000
"""Of one tree; ours have 16."""

_HEAD: Final = {"version": "v4", "num_class": "1", "num_tree_per_iteration": "1"}
_OBJECTIVE: Final = "binary sigmoid:1"
_INTERNAL: Final = ("split_feature", "decision_type", "left_child", "right_child", "threshold")
_TOLD: Final = ("split_gain", "internal_value", "internal_weight", "internal_count", "leaf_weight", "leaf_count")
"""What explanations and tools read beside what scores need."""
_KEYS: Final = {*_INTERNAL, *_TOLD, "num_leaves", "num_cat", "leaf_value", "is_linear", "shrinkage"}
_DECISIONS: Final = (0, 2, 4, 6, 8, 10)
"""By a threshold, never by a category: unknown goes right or left (2), missing is nothing, zero (4) or NaN (8)."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class TreesRefused(ValueError):
    """A text is not that of a model of ours; the message says where."""


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """What decides of one tree: node i has a feature, a threshold, and children (~c is leaf c)."""

    split_feature: Ints
    decision_type: Ints
    left_child: Ints
    right_child: Ints
    threshold: Floats
    leaf_value: Floats
    leaf_count: Ints
    internal_count: Ints

    def is_same(self, other: Tree) -> bool:
        """Whether both decide alike, and explain alike."""
        return all(np.array_equal(getattr(self, each.name), getattr(other, each.name)) for each in fields(self))


def read(text: str, features: Sequence[str]) -> list[Tree]:
    """The trees of `text`, whose columns must be `features`. Raises `TreesRefused`."""
    head, blank, rest = text.partition("\n\n")
    if not head.startswith("tree\n") or not blank:
        raise TreesRefused("it does not begin as LightGBM's text does")
    said = _pairs(head.removeprefix("tree\n"), "its head", loose=True)
    wrong = next((key for key, value in _HEAD.items() if said.get(key) != value), None)
    if wrong or said.get("objective") != _OBJECTIVE:
        raise TreesRefused(f"its {wrong or 'objective'} is not one of this worker's models")
    if said.get("max_feature_idx") != str(len(features) - 1) or said.get("feature_names", "").split() != [*features]:
        raise TreesRefused(f"its columns are not the {len(features)} features of the registry")
    if "average_output" in said:
        raise TreesRefused("it averages its trees, which this worker's models do not")
    sizes = _numbers(said.get("tree_sizes", ""), np.int64, "tree_sizes")
    if not 1 <= len(sizes) <= TREES_MAX or sizes.min() < 1 or sizes.sum() > len(rest):
        raise TreesRefused("tree_sizes does not fit its trees")
    ends = np.cumsum(sizes)
    if not rest[int(ends[-1]) :].startswith("end of trees\n"):
        raise TreesRefused("tree_sizes does not fit its trees")
    return [
        _tree(rest[int(end - size) : int(end)], place, len(features))
        for place, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


def _tree(text: str, place: int, features: int) -> Tree:
    title, _, body = text.partition("\n")
    body = body.rstrip("\n")
    if title != f"Tree={place}" or "\n\n" in body:
        raise TreesRefused("tree_sizes does not fit its trees")
    where = f"tree {place}"
    said = _pairs(body, where)
    if set(said) != _KEYS:
        raise TreesRefused(f"{where}: {min(set(said) ^ _KEYS)} is missing, or nothing that trees of ours have")
    if said["num_cat"] != "0" or said["is_linear"] != "0":
        raise TreesRefused(f"{where}: it has categories or linear leaves, which this worker's models do not")
    (leaves,) = _counted(said, "num_leaves", where, 1, np.int64)
    if not 1 <= leaves <= LEAVES_MAX:
        raise TreesRefused(f"{where}: num_leaves must be 1 to {LEAVES_MAX:,}")
    _counted(said, "shrinkage", where, 1, np.float64)
    nodes = int(leaves) - 1
    ints = {key: _counted(said, key, where, nodes, np.int64) for key in _INTERNAL[:4]}
    for key in ("split_gain", "internal_value", "internal_weight"):
        _counted(said, key, where, nodes, np.float64)
    # A tree without a split may say nothing of its only leaf but its value.
    told = int(leaves) if nodes or said["leaf_count"] else 0
    _counted(said, "leaf_weight", where, told if said["leaf_weight"] else 0, np.float64)
    tree = Tree(
        **ints,
        threshold=_counted(said, "threshold", where, nodes, np.float64),
        leaf_value=_counted(said, "leaf_value", where, int(leaves), np.float64),
        leaf_count=_counted(said, "leaf_count", where, told, np.int64),
        internal_count=_counted(said, "internal_count", where, nodes, np.int64),
    )
    _check(tree, where, features)
    return tree


def _check(tree: Tree, where: str, features: int) -> None:
    nodes = len(tree.split_feature)
    if nodes and not 0 <= tree.split_feature.min() <= tree.split_feature.max() < features:
        raise TreesRefused(f"{where}: split_feature names a feature that is not there")
    if not np.isin(tree.decision_type, _DECISIONS).all():
        raise TreesRefused(f"{where}: decision_type is none of this worker's models")
    children = np.concatenate([tree.left_child, tree.right_child])
    # A node is split after the one that it hangs from, so children are numbered higher: then there is no way round.
    inner = children >= 0
    if (children[inner] <= np.tile(np.arange(nodes), 2)[inner]).any():
        raise TreesRefused(f"{where}: a child lies above its parent")
    # Leaves are ~0 to ~nodes; node 0 is the root, and hangs from none.
    every = np.concatenate([np.arange(-nodes - 1, 0), np.arange(1, nodes)])
    if nodes and not np.array_equal(np.sort(children), every):
        raise TreesRefused(f"{where}: not every node and leaf hangs from exactly one node")
    if not np.isfinite(tree.leaf_value).all() or np.isnan(tree.threshold).any():
        raise TreesRefused(f"{where}: a leaf_value is not finite, or a threshold no number")
    if (tree.leaf_count < 0).any() or (tree.internal_count < 1).any():
        raise TreesRefused(f"{where}: a count is not one")


def _pairs(text: str, where: str, *, loose: bool = False) -> dict[str, str]:
    """The lines `key=value`, each key once; `loose`: a key may stand alone."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        key, is_pair, value = line.partition("=")
        if key in found or not (is_pair or loose):
            raise TreesRefused(f"{where}: {key[:40]!r} stands there twice, or without a value")
        found[key] = value
    return found


def _counted(said: Mapping[str, str], key: str, where: str, count: int, kind: type[Any]) -> npt.NDArray[Any]:
    numbers = _numbers(said[key], kind, f"{where}, {key}")
    if len(numbers) != count:
        raise TreesRefused(f"{where}: {key} must hold {count:,} numbers, and not {len(numbers):,}")
    return numbers


def _numbers(text: str, kind: type[Any], where: str) -> npt.NDArray[Any]:
    try:
        return np.array(text.split(), dtype=kind)
    except (ValueError, OverflowError) as error:
        raise TreesRefused(f"{where}: {error}") from error
