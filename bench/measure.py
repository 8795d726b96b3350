"""What a measurement yields, and how calls are kept in flight. Must not know what is measured."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

MACHINE = {"cpus": os.cpu_count()} | {name: version(name) for name in ("grpcio", "protobuf", "asyncpg", "lightgbm")}


class BenchError(Exception):
    """What was measured is not what should have been: a wrong answer, a missing row, a setting that cheats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`count` things done in `seconds`, and how long each call took."""

    count: int
    seconds: float
    latencies_ms: Sequence[float]

    @property
    def rate(self) -> float:
        """Things a second."""
        return self.count / self.seconds


async def in_flight(
    calls_max: int, call: Callable[[Request], Awaitable[Answer]], requests: Iterable[Request]
) -> tuple[Run, list[Answer]]:
    """Makes a call for each of `requests`, `calls_max` at once; the answers come in the order of their arrival."""
    waiting = iter(requests)
    latencies_ms: list[float] = []
    answers: list[Answer] = []

    async def caller() -> None:
        for request in waiting:
            begin = time.perf_counter()
            answer = await call(request)
            latencies_ms.append(1000 * (time.perf_counter() - begin))
            answers.append(answer)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as callers:
        for _ in range(calls_max):
            callers.create_task(caller())
    seconds = time.perf_counter() - begin
    return Run(count=len(answers), seconds=seconds, latencies_ms=latencies_ms), answers


def middle_rate(runs: Sequence[Run]) -> float:
    """The median of the runs' rates."""
    return median(run.rate for run in runs)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Rates of all the runs, and percentiles over all their calls."""
    latencies_ms = sorted(latency for run in runs for latency in run.latencies_ms)
    return {
        "per_second": _short(middle_rate(runs)),
        "per_second_of_each_round": [_short(run.rate) for run in runs],
        "p50_ms": _short(_percentile(latencies_ms, 50)),
        "p99_ms": _short(_percentile(latencies_ms, 99)),
        "count": sum(run.count for run in runs),
    }


def show(figure: str, value: float, unit: str, **detail: Any) -> None:
    """Prints one figure."""
    line = {"figure": figure, "value": _short(value), "unit": unit, "detail": {**detail, **MACHINE}}
    print(json.dumps(line), flush=True)


def progress(text: str) -> None:
    """Says what goes on."""
    print(text, file=sys.stderr, flush=True)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def _short(value: float) -> float:
    """Four digits: more would be noise."""
    return float(f"{value:.4g}")
