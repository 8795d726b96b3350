"""Parting a log in time: what a training would have had at a moment, and the later rows that judge it.

Knows which labels were known when, and how models are fitted on them. Must not know what is measured of their scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.evasion import Burst
from fraud_worker.event_log import JudgedRows, progress_bars
from fraud_worker.fitting import Fitted, TrainingError, fit
from fraud_worker.training import LABEL_DELAY_HOURS, mature

_LABEL_DELAY: Final = timedelta(hours=LABEL_DELAY_HOURS)
_TRAIN_SHARE: Final = 0.8
BURST_TIMES: Final = 3
"""How many times as common as after it abuse is in the first days, where they are called a burst."""
_OF_EACH_KIND_MIN: Final = 10


class NotMeasurable(ValueError):
    """The log does not hold what a figure needs; the message says what is missing."""


class Split:
    """A log parted at a moment: what a training then would have had, and the later rows that are judged."""

    def __init__(self, judged: JudgedRows, known_until: datetime, until: datetime | None, seeds: Sequence[int]) -> None:
        """`until`: the end of what is judged (exclusive); None for the log's."""
        times = judged.events["event_time"]
        last = times.max()
        assert isinstance(last, datetime)
        self.span = Burst(known_until=known_until, until=until or last + timedelta(microseconds=1))
        self.known = known_before(judged, known_until)
        self.later = self.span.judged(judged)
        self._seeds = seeds

    @cached_property
    def models(self) -> list[Fitted]:
        """One a seed. Raises `NotMeasurable`."""
        kinds = int(self.later.labels.sum())
        if not 0 < kinds < len(self.later):
            raise NotMeasurable(f"of the {len(self.later)} labels to judge, {kinds} are abuse; some of each are needed")
        try:
            with progress_bars() as progress:
                return [fit(self.known, seed) for seed in progress.track(self._seeds, description="fitting models")]
        except TrainingError as error:
            raise NotMeasurable(str(error)) from error

    @cached_property
    def scores(self) -> list[npt.NDArray[np.float64]]:
        """What each model makes of the later rows. Raises `NotMeasurable`."""
        return [model.score(self.later.features) for model in self.models]

    @property
    def beside(self) -> dict[str, Any]:
        """What a reader needs to know of it."""
        return {
            "train_until": self.span.known_until.isoformat(),
            "judge_until": self.span.until.isoformat(),
            "trained": len(self.known),
            "rows": len(self.later),
            "positives": int(self.later.labels.sum()),
            "seeds": len(self._seeds),
        }

    @property
    def starts_in_a_burst(self) -> bool:
        """Whether abuse is far more common in what is known than in what is judged, and there is enough of both."""
        enough = all(
            min(int(part.labels.sum()), int((1 - part.labels).sum())) >= _OF_EACH_KIND_MIN
            for part in (self.known, self.later)
        )
        return enough and float(self.known.labels.mean()) >= BURST_TIMES * float(self.later.labels.mean())


def known_before(judged: JudgedRows, moment: datetime) -> JudgedRows:
    """What a training at `moment` would have had."""
    earlier = judged.where((judged.events["event_time"] < moment).to_numpy())
    return mature(earlier, end=moment, label_delay=_LABEL_DELAY)


def moment_of(judged: JudgedRows, share: float) -> datetime:
    """When that share of the labels' events has passed."""
    moment = judged.events["event_time"][int(share * len(judged))]
    assert isinstance(moment, datetime)
    return moment


def rows_from(judged: JudgedRows, moment: datetime) -> JudgedRows:
    """What there is to judge from `moment` on."""
    return judged.where((judged.events["event_time"] >= moment).to_numpy())


def last_fifth(judged: JudgedRows, seeds: Sequence[int]) -> Split:
    """The last fifth of the labels in time, and what was known before it."""
    return Split(judged, moment_of(judged, _TRAIN_SHARE), None, seeds)


def first_days(judged: JudgedRows, known_days: int, burst_days: int, seeds: Sequence[int]) -> Split:
    """What the first `known_days` taught, judged until the end of the first `burst_days`."""
    first = judged.events["event_time"].min()
    assert isinstance(first, datetime)
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
    return Split(judged, midnight + timedelta(days=known_days), midnight + timedelta(days=burst_days), seeds)
