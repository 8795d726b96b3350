"""Challengers' scores: the same rows in the shadow of the champion's answer, which they may delay a little, never fail.

All batches are scored unless a smaller share is wanted, since a receipt with all scores lets two models be compared on
every decision. They are scored on a thread of their own (LightGBM lets go of the interpreter), so that other calls
are answered meanwhile; a batch waits for them `WAIT_S` at the most, and those that come later are dropped. Must not
know gRPC, nor what the scores are for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from fraud_worker import meter
from fraud_worker.scorer import Model

log = logging.getLogger(__name__)

WAIT_S: Final = 0.02
"""How long an answer waits for challengers."""

PENDING_MAX: Final = 4
"""So many batches may be with the challengers at once; others go without."""

Matrix: TypeAlias = npt.NDArray[np.float64]
ShadowScores: TypeAlias = tuple[Model, list[float]]


class Shadows:
    """Scores a share (0 to 1) of batches by the challengers."""

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self._owed = 0.0
        self._pending = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="challengers")
        self._failed: set[str] = set()

    async def scores(self, challengers: Sequence[Model], rows: Matrix, time_left_s: float) -> list[ShadowScores]:
        """What `challengers` say of checked `rows`; without those that fail or are late. Takes at most half of
        `time_left_s`. Raises nothing."""
        if not challengers or not self._is_due() or self._pending >= PENDING_MAX:
            return []
        self._pending += 1
        scoring = asyncio.get_running_loop().run_in_executor(self._thread, self._score, challengers, rows)
        scoring.add_done_callback(self._scored)
        done, _ = await asyncio.wait({scoring}, timeout=min(WAIT_S, max(0.0, time_left_s / 2)))
        return scoring.result() if done else []

    def close(self) -> None:
        """Ends the thread when it has done what it was given."""
        self._thread.shutdown()

    def _is_due(self) -> bool:
        """Every batch for a share of 1, every fourth for one of 0.25."""
        self._owed += self._share
        if self._owed < 1:
            return False
        self._owed -= 1
        return True

    def _scored(self, _: asyncio.Future[list[ShadowScores]]) -> None:
        self._pending -= 1

    def _score(self, challengers: Sequence[Model], rows: Matrix) -> list[ShadowScores]:
        found = []
        for model in challengers:
            try:
                probabilities = model.probabilities(rows)
                if not np.isfinite(probabilities).all():
                    raise ValueError("its scores are not finite")
            except Exception:
                meter.count_shadow_failure()
                if model.version not in self._failed:  # once: it will fail again and again
                    self._failed.add(model.version)
                    log.exception("challenger %s failed", model.version)
            else:
                found.append((model, probabilities.tolist()))
        return found
