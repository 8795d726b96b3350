"""Trees that would kill or hold LightGBM, under hashes that fit: no worker dies of them, and none serves them."""

from __future__ import annotations

import math
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fraud_worker import probe
from fraud_worker.scorer import MODEL_FILE, Model, ModelRefused
from tests.fraud_models import replace_trees, write_model
from tests.integration.test_fraud_reload import PATIENCE_S, SERVING, until, worker

Mutation = Callable[[bytes], bytes]

MUTATIONS = 24
"""Random ones, each of which the worker tries: about a second apiece."""


def changed(key: str, number: int, value: str, tree: int = 3) -> Mutation:
    """Number `number` of the array `key` of one tree becomes `value`."""

    def mutated(content: bytes) -> bytes:
        at = content.index(f"\n{key}=".encode(), content.index(f"Tree={tree}\n".encode())) + len(key) + 2
        line, _, rest = content[at:].partition(b"\n")
        numbers = line.split()
        numbers[number] = value.encode()
        return sized(content[:at] + b" ".join(numbers) + b"\n" + rest)

    return mutated


def sized(content: bytes) -> bytes:
    """The same text with sizes that fit its trees, so that what was changed is reached."""
    trees = content[content.index(b"Tree=0\n") : content.index(b"end of trees")]
    sizes = [len(b"Tree=" + each) for each in trees.split(b"Tree=")[1:]]
    return re.sub(rb"tree_sizes=[0-9 ]*", b"tree_sizes=" + b" ".join(b"%d" % size for size in sizes), content)


DEADLY: dict[str, Mutation] = {
    "truncated": lambda content: content[: len(content) // 2],
    "cut within a number": lambda content: content[: content.index(b"leaf_value=") + 15],
    "empty": lambda content: b"",
    "child out of range": changed("left_child", 0, "123456789"),
    "leaf out of range": changed("right_child", 1, "-123456789"),
    "walks for ever": changed("left_child", 0, "0"),
    "two nodes in a ring": changed("right_child", 2, "1"),
    "one leaf twice": changed("right_child", -1, "-1"),
    "feature out of range": changed("split_feature", 0, "1000000"),
    "negative feature": changed("split_feature", 0, "-7"),
    "category without categories": changed("decision_type", 0, "1"),
    "huge num_leaves": changed("num_leaves", 0, "2000000000"),
    "negative num_leaves": changed("num_leaves", 0, "-5"),
    "one leaf less": changed("num_leaves", 0, "6"),
    "linear leaves": changed("is_linear", 0, "1"),
    "leaf not a number": changed("leaf_value", 0, "nan"),
    "counts of nothing": changed("internal_count", 0, "0"),
    "sizes out of range": lambda content: re.sub(rb"tree_sizes=\d+", b"tree_sizes=999999999", content),
    "other columns": lambda content: content.replace(b"max_feature_idx=53", b"max_feature_idx=5"),
    "classes": lambda content: content.replace(b"num_tree_per_iteration=1", b"num_tree_per_iteration=3"),
}


def at_random(content: bytes, draw: random.Random) -> bytes:
    """A few bytes of the trees changed, lost or doubled."""
    mutated = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(content.index(b"Tree=0\n"), content.index(b"end of trees"))
        kind = draw.choice(("bit", "digit", "lost", "doubled"))
        if kind == "bit":
            mutated[at] ^= 1 << draw.randrange(7)
        elif kind == "digit":
            mutated[at] = draw.choice(b"0123456789- ")
        elif kind == "lost":
            del mutated[at : at + draw.randint(1, 40)]
        else:
            mutated[at:at] = mutated[at : at + draw.randint(1, 40)]
    return sized(bytes(mutated)) if draw.random() < 0.7 else bytes(mutated)


def refusals(log: Path) -> int:
    """How often a worker has said that it refused a model."""
    return log.read_text().count("champion refused")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Trees of a small model."""
    folder = tmp_path_factory.mktemp("trees")
    write_model(folder)
    return (folder / MODEL_FILE).read_bytes()


@pytest.mark.parametrize("name", DEADLY)
def test_deadly_trees_are_refused(trees: bytes, tmp_path: Path, name: str) -> None:
    """They never reach LightGBM in this process."""
    write_model(tmp_path)
    mutated = DEADLY[name](trees)
    assert mutated != trees
    replace_trees(tmp_path, mutated)
    with pytest.raises(ModelRefused, match=f"{MODEL_FILE} is refused"):
        Model.load(tmp_path)


def test_trees_are_told_as_they_are(trees: bytes) -> None:
    """What is no mutation passes, with finite scores."""
    count, raw = probe.probed(sized(trees))
    assert count == trees.count(b"Tree=")
    assert all(map(math.isfinite, raw))


def test_worker_survives_every_mutation(trees: bytes, tmp_path: Path) -> None:
    """Whatever is put into its folder, the worker goes on: it refuses and says why, or takes what does no harm."""
    folder, draw = tmp_path / "model", random.Random(7)
    good = write_model(folder)
    deadly = [DEADLY[name](trees) for name in ("child out of range", "walks for ever", "feature out of range")]
    refused = 0
    with worker(tmp_path / "log", folder) as served:
        for mutated in [*deadly, *(at_random(trees, draw) for _ in range(MUTATIONS))]:
            version = replace_trees(folder, mutated)
            os.kill(served.process.pid, signal.SIGHUP)

            def decided(version: str = version, before: int = refused) -> bool:
                return served.model().model_version == version or refusals(tmp_path / "log") > before

            until(decided, True)
            refused = refusals(tmp_path / "log")
            assert (served.process.poll(), served.status()) == (None, SERVING)
            assert all(0 <= score <= 1 for score in served.score().scores)
        assert refused >= len(deadly)
        write_model(folder)
        os.kill(served.process.pid, signal.SIGHUP)
        until(lambda: (served.version(), len(served.model().refused)), (good, 0))


def test_worker_does_not_start_with_deadly_trees(trees: bytes, tmp_path: Path) -> None:
    """It ends with code 1 and one line that says why, and is not killed."""
    write_model(tmp_path)
    replace_trees(tmp_path, DEADLY["child out of range"](trees))
    command = [sys.executable, "-m", "fraud_worker", "serve", "--listen", "127.0.0.1:0", "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"fraud-worker: {tmp_path / MODEL_FILE} is refused: ")
