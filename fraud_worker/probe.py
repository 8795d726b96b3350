"""The probe of a model: trees are read and tried in a process of their own, before a process that serves reads them.

LightGBM is C++ and believes its input: bytes that are no model may kill the process, or hold it for ever. A hash only
tells that they are the bytes that somebody meant. Knows what trees must do to be taken; must not know manifests,
calibration or gRPC. Run as `python -m fraud_worker.probe`, it reads trees from standard input and answers in JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fraud_worker import lean, tree_text
from fraud_worker.conversion_inputs import INPUTS as CONVERSION_INPUTS
from fraud_worker.registry import FEATURES, Feature

TIMEOUT_S: Final = 30.0
"""How long a probe may take; the shipped model's takes a second, on a busy machine several."""
MEMORY_BYTES_MAX: Final = 8 << 30
"""Of address space, of which libraries take one or two."""

Kind: TypeAlias = Literal["abuse", "conversion"]
INPUTS: Final[Mapping[Kind, Sequence[Feature]]] = {"abuse": FEATURES, "conversion": CONVERSION_INPUTS}
"""The columns of each kind of model."""

_ROWS: Final = 64
_EXPLAINED_ROWS: Final = 8
_EXPLANATION_TOLERANCE: Final = 1e-6
"""How far contributions may be off the score that they explain, log odds."""


class ProbeFailed(Exception):
    """Trees cannot be taken; the message says why."""


def rows(kind: Kind = "abuse") -> npt.NDArray[np.float64]:
    """The rows on which trees are tried: nothing known, everything at its least, at its greatest, and mixtures. They
    depend on the columns alone."""
    lowest = np.array([column.lowest for column in INPUTS[kind]])
    highest = np.array([column.highest for column in INPUTS[kind]])
    row, column = np.mgrid[0 : _ROWS - 3, 0 : len(lowest)]
    # Small values more often than great ones, as in life; each fifth is unknown.
    mixed = lowest + (highest - lowest) * ((row * 29 + column * 17) % 61 / 60) ** 6
    mixed[(row + column) % 5 == 0] = np.nan
    return np.vstack([np.full(len(lowest), np.nan), lowest, highest, mixed])


def probed(content: bytes, kind: Kind = "abuse") -> tuple[int, list[float]]:
    """How many trees `content` holds, and the raw scores they give `rows(kind)`, found in another process.

    What it returns for can be read and walked by LightGBM in this one. Raises `ProbeFailed`, after `TIMEOUT_S` at the
    latest.
    """
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fraud_worker.probe", kind],
            input=content,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            env=os.environ | alone,
        )
    except subprocess.TimeoutExpired:
        raise ProbeFailed(f"its probe took longer than {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise ProbeFailed(f"its probe could not be started: {error}") from error
    if done.returncode < 0:
        with contextlib.suppress(ValueError):
            raise ProbeFailed(f"its probe was killed by {signal.Signals(-done.returncode).name}")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ProbeFailed(f"its probe ended with code {done.returncode}: {last[:200]}") from None
    if why := answer.get("why"):
        raise ProbeFailed(why)
    return answer["trees"], answer["raw"]


def _main() -> None:
    """In the other process: LightGBM writes to standard output what it likes, so the answer goes its own way."""
    answer_to = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(TIMEOUT_S), math.ceil(TIMEOUT_S)))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    with os.fdopen(answer_to, "w") as out:
        json.dump(_tried(sys.stdin.buffer.read(), "conversion" if "conversion" in sys.argv else "abuse"), out)


def _tried(content: bytes, kind: Kind) -> dict[str, Any]:
    names = [column.name for column in INPUTS[kind]]
    try:
        text = content.decode()
        trees = tree_text.read(text, names)
    except ValueError as error:
        return {"why": f"it is no LightGBM model: {error}"}
    lean.leave_out_front_ends()
    import lightgbm as lgb

    some = rows(kind)
    try:
        booster = lgb.Booster(model_str=text)
        # What LightGBM has in memory, and not only what we think that it read.
        understood = tree_text.read(booster.model_to_string(), names)
        raw = np.asarray(booster.predict(some, raw_score=True, num_threads=1))
        parts = np.asarray(booster.predict(some[:_EXPLAINED_ROWS], pred_contrib=True, num_threads=1))
    except (lgb.basic.LightGBMError, ValueError) as error:
        return {"why": f"it cannot score: {error}"}
    if len(understood) != len(trees) or not all(map(tree_text.Tree.is_same, understood, trees)):
        return {"why": "it is no LightGBM model: LightGBM reads other trees from it than stand there"}
    if raw.shape != (len(some),) or not np.isfinite(raw).all():
        return {"why": "its scores are not finite"}
    # What is not finite is never near.
    if not (np.abs(parts.sum(axis=1) - raw[:_EXPLAINED_ROWS]) <= _EXPLANATION_TOLERANCE).all():
        return {"why": "its contributions do not add up to its scores"}
    return {"trees": len(trees), "raw": raw.tolist()}


if __name__ == "__main__":
    _main()
