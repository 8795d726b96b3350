"""A circuit breaker: stops asking one who fails. Knows failures and time; must not know what is asked.

After `failures_max` failures in a row nothing is asked for `pause_s`. Then one attempt is let through: its success
closes the breaker, its failure opens it for another pause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class BreakerState(StrEnum):
    """CLOSED: everything is asked. OPEN: nothing is. HALF_OPEN: the pause is over, and one attempt may find out."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


class BreakerOpen(Exception):
    """Nothing is asked at the moment."""


class Breaker:
    """For one event loop."""

    def __init__(self, *, failures_max: int, pause_s: float, monotonic: Callable[[], float]) -> None:
        self._failures_max = failures_max
        self._pause_s = pause_s
        self._monotonic = monotonic
        self._failures = 0
        self._open_until = 0.0
        self._trying = False
        self._opened = 0

    @property
    def opened(self) -> int:
        """How often it has opened: at the failure that was one too many, and at each try that failed."""
        return self._opened

    @property
    def state(self) -> BreakerState:
        """As of now."""
        if self._failures < self._failures_max:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._monotonic() < self._open_until else BreakerState.HALF_OPEN

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around each thing asked; an exception is a failure, but for a cancelled attempt, which shows nothing.

        Raises `BreakerOpen` instead of beginning, and where another attempt is finding out.
        """
        is_try = self.state is not BreakerState.CLOSED
        if is_try:
            if self._trying or self.state is BreakerState.OPEN:
                raise BreakerOpen("the breaker is open")
            self._trying = True
        try:
            yield
        except Exception:
            self._failures += 1
            if self._failures == self._failures_max or is_try:
                self._opened += 1
            self._open_until = self._monotonic() + self._pause_s
            raise
        else:
            self._failures = 0
        finally:
            if is_try:
                self._trying = False
