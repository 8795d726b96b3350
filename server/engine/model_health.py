"""How the fraud models fare, from the decisions on record: no counter in memory, so any server tells the same.

Knows which requests are looked at and what is asked of whom; must not know statements, the wire, or how a figure comes
about, which is the worker's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from server.domain.errors import Reason, Refusal
from server.domain.model_health import ConversionModelUse, HealthQuestion, HealthReport, ModelHealth, Window
from server.engine.ports import HealthMeasurer, JudgedRequest, JudgedStore, ScoreUnavailable

ROWS_MAX = 5_000
"""So many of the newest requests of a window are looked at."""

WINDOW = timedelta(days=7)
MATURE_DAYS = 30


class ModelHealthReporter:
    """Answers one question at a time; others wait, since each costs what many decisions cost."""

    def __init__(self, store: JudgedStore, measurer: HealthMeasurer) -> None:
        self._store = store
        self._measurer = measurer
        self._one = asyncio.Semaphore(1)

    async def report(self, asked: HealthQuestion) -> HealthReport:
        """How the models fare. Raises Refusal FIELD_INVALID, FRAUD_SCORE_UNAVAILABLE; StoreUnavailable."""
        async with self._one:
            recent = await self._window(asked)
            age = timedelta(days=MATURE_DAYS if asked.mature_days is None else asked.mature_days)
            mature = Window(from_time=recent.from_time - age, to_time=recent.to_time - age)
            seen = await self._store.judged(recent, asked.platform, ROWS_MAX)
            known = await self._store.judged(mature, asked.platform, ROWS_MAX, mature=age)
            try:
                models = await self._models(seen, [request for request in known if request.label is not None])
            except ScoreUnavailable as error:
                reason = Reason.FRAUD_SCORE_UNAVAILABLE
                raise Refusal(reason, "the fraud worker, which measures, cannot be reached at the moment") from error
        return HealthReport(
            recent=recent,
            mature=mature,
            rows_max=ROWS_MAX,
            rows=len(seen),
            degraded_rows=sum(request.score is None for request in seen),
            models=tuple(models),
            conversion_models=_conversion_models(seen),
        )

    async def _window(self, asked: HealthQuestion) -> Window:
        to_time = asked.to_time or await self._store.now()
        from_time = asked.from_time or to_time - WINDOW
        if from_time >= to_time:
            text = "must be before to_time"
            raise Refusal(Reason.FIELD_INVALID, f"from_time: {text}", fields=(("from_time", text),))
        return Window(from_time=from_time, to_time=to_time)

    async def _models(self, seen: Sequence[JudgedRequest], labelled: Sequence[JudgedRequest]) -> list[ModelHealth]:
        """The models of both samples, the one that scored last first."""
        recent, mature = _by_model(seen), _by_model(labelled)
        return [
            ModelHealth(
                model_version=version,
                rows=len(recent.get(version, ())),
                last_time=recent[version][0].time if version in recent else None,
                figures=await self._measurer.measure(recent.get(version, ()), mature.get(version, ())),
            )
            for version in {**recent, **mature}
        ]


def _conversion_models(seen: Sequence[JudgedRequest]) -> tuple[ConversionModelUse, ...]:
    """The one that was heard last first."""
    times: dict[str, list[datetime]] = {}
    for request in seen:
        if request.conversion_model_version:
            times.setdefault(request.conversion_model_version, []).append(request.time)
    return tuple(
        ConversionModelUse(model_version=version, rows=len(found), last_time=found[0])
        for version, found in times.items()
    )


def _by_model(requests: Sequence[JudgedRequest]) -> dict[str, list[JudgedRequest]]:
    """Those with a score, by the model that gave it; models in the order in which they come."""
    found: dict[str, list[JudgedRequest]] = {}
    for request in requests:
        if request.score is not None:
            found.setdefault(request.score.model_version, []).append(request)
    return found
