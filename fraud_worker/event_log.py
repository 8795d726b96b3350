"""The event log: files of past events, and the feature rows of those that carry a label.

Knows how logs are merged, which events are judged, and which only came before. How a file is read is `log_reading`'s
matter, how features come about `log_features`'. Must not know models, scores or gRPC.

A log has one row an event. Only `event_time`, `event_kind` and `account_id` are required; any other column, and any
cell, may be missing (unknown), and columns that are not listed in `COLUMNS` are ignored. Rows need not be sorted:
events of the same moment keep the order of the log.

A log holds raw values, or, where it was exported from production, the keyed hashes of them (hexadecimal) and the
signals that followed from them. Where both are given, hash and signal win.

A label of abuse is known to later events from `label_time` on, or, where the log has none, from `LABEL_DELAY` after its
event: so long a chargeback takes, and a feature must not know more than serving will. A log that tells any
`abuse_time`, as an export does, tells all: abuse became known at those times, once each, whatever its labels say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from fraud_worker.log_features import (
    Matrix,
    StoredEvent,
    feature_matrix,
    features_in_scratch,
    load,
    progress_bars,
    stored_events,
)
from fraud_worker.log_reading import COLUMNS, EVENT_KINDS, LABEL_DELAY, SIGNALS, EventLogError, column_type, read_log

__all__ = [
    "COLUMNS",
    "EVENT_KINDS",
    "JUDGED_KINDS",
    "LABEL_DELAY",
    "SIGNALS",
    "EventLogError",
    "JudgedRows",
    "StoredEvent",
    "column_type",
    "converted_rows",
    "feature_matrix",
    "judged_rows",
    "load",
    "merged_logs",
    "progress_bars",
    "read_log",
    "row_to_judge",
    "stored_events",
]

_LEARNT_LATER: Final = ("abuse_time", "converted", "converted_time")
_OF_EVENTS: Final = tuple(name for name in COLUMNS if name not in _LEARNT_LATER)

JUDGED_KINDS: Final = ("RECYCLE", "AUTO_RECYCLE", "REACTIVATE")
"""What the server asks a score for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRows:
    """The labelled events of some logs in the order of time, with the features that serving would have computed."""

    features: Matrix
    """One row an event, one column a feature of the registry; NaN is unknown."""
    labels: npt.NDArray[np.int8]
    """1 abuse, 0 honest."""
    events: pl.DataFrame
    """The events themselves: `COLUMNS`, and `row`, the event's number in its own file, counted from 0."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """How many rows like it each one stands for: what was let through at random stands for those that were not."""
        if "weight" not in self.events.columns:
            return np.ones(len(self))
        return self.events["weight"].fill_null(1.0).to_numpy()

    def where(self, mask: npt.NDArray[np.bool_]) -> JudgedRows:
        """The rows for which `mask` holds."""
        return JudgedRows(
            features=self.features[mask], labels=self.labels[mask], events=self.events.filter(pl.Series(mask))
        )


def judged_rows(events: Sequence[Path], history: Sequence[Path] = ()) -> JudgedRows:
    """The labelled events of the logs `events`, with features from all earlier events of `events` and `history`.

    Runs a scratch Postgres, so call it from the main thread and outside any event loop. Raises `EventLogError`.
    """
    log = merged_logs(events, history)
    wanted = log.filter(pl.col("judged") & pl.col("label").is_not_null())
    if wanted.is_empty():
        raise EventLogError(f"{', '.join(map(str, events))}: no event has a label, so there is nothing to judge")
    features = features_in_scratch(log, wanted)
    labels = wanted["label"].to_numpy().astype(np.int8)
    return JudgedRows(features=features, labels=labels, events=wanted.select("row", *COLUMNS))


def converted_rows(events: Sequence[Path], *, mature: timedelta) -> JudgedRows:
    """The recycles of the logs `events` of which it is known whether the owner paid again within `mature`, 1 or 0:
    those that old when the logs end, since of younger ones the converted are known first.

    Scratch Postgres and errors are those of `judged_rows`.
    """
    log = merged_logs(events, ())
    end = log["event_time"].max()
    assert isinstance(end, datetime)
    wanted = log.filter(
        pl.col("disposition").is_not_null() & pl.col("converted").is_not_null() & (pl.col("event_time") <= end - mature)
    )
    if wanted.is_empty():
        days = mature / timedelta(days=1)
        raise EventLogError(
            f"{', '.join(map(str, events))}: no recycle with disposition and converted is {days:g} days old"
        )
    # One that came later came too late to be told from none when it mattered.
    in_time = pl.col("converted_time").is_null() | (pl.col("converted_time") <= pl.col("event_time") + mature)
    labels = wanted.select(pl.col("converted") & in_time).to_series().to_numpy().astype(np.int8)
    return JudgedRows(features=features_in_scratch(log, wanted), labels=labels, events=wanted.select("row", *COLUMNS))


def row_to_judge(events: Path, row: int, history: Sequence[Path] = ()) -> tuple[dict[str, Any], Matrix]:
    """The event with number `row` in the log `events` (from 0), and its features as a matrix of one row.

    It need not have a label, if it is of a kind that is judged in service. Scratch Postgres and errors are those of
    `judged_rows`.
    """
    log = merged_logs([events], history)
    wanted = log.filter(pl.col("judged") & (pl.col("row") == row))
    if wanted.is_empty():
        raise EventLogError(f"{events}: there is no row {row}; rows go from 0 to {log['judged'].sum() - 1}")
    event = wanted.row(0, named=True)
    if event["label"] is None and event["event_kind"] not in JUDGED_KINDS:
        kinds = ", ".join(JUDGED_KINDS)
        raise EventLogError(
            f"{events}: row {row} is of kind {event['event_kind']} and has no label; judged are {kinds}"
        )
    earlier = log.filter(pl.col("seq") <= event["seq"])  # what came later counts for nothing
    return event, features_in_scratch(earlier, wanted)


def merged_logs(events: Sequence[Path], history: Sequence[Path]) -> pl.DataFrame:
    """All events in the order of time, with `seq`; `judged` tells those of `events`.

    What is to be judged is no history of its own: a history that holds the same events again gives up those.
    """
    judged_files = {path.resolve() for path in events}
    if len(judged_files) < len(events):
        raise EventLogError("a log is given twice, and would count twice")
    judged = pl.concat([read_log(path).with_columns(judged=pl.lit(True)) for path in events])
    past = [
        read_log(path)
        # Of what became known later logs of the same events may tell more and less.
        .join(judged, on=_OF_EVENTS, how="anti", nulls_equal=True, maintain_order="left")
        .with_columns(judged=pl.lit(False))
        for path in history
        if path.resolve() not in judged_files
    ]
    log = pl.concat([*past, judged]).sort("event_time", maintain_order=True)
    return log.with_columns(seq=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
