"""Evasion: the abuse of a log as if each abuser had spent more on hiding.

Knows which events of a log an abuser could have changed. Must not know models or scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from fraud_worker.event_log import COLUMNS, JudgedRows


class NothingToDisguise(ValueError):
    """The log holds nothing that an abuser could have renewed; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """The days of a burst: training ends at `known_until` (exclusive), judging at `until` (exclusive)."""

    known_until: datetime
    until: datetime

    def judged(self, rows: JudgedRows) -> JudgedRows:
        """The rows to judge."""
        return rows.where(rows.events["event_time"].is_between(self.known_until, self.until, closed="left").to_numpy())


def later_accounts_of_devices(log: pl.DataFrame) -> npt.NDArray[np.int64]:
    """The rows whose account was not the first on its device."""
    seen = _with_device(log).filter(pl.col("device").is_not_null()).sort("event_time", maintain_order=True)
    firsts = seen.group_by("device").agg(first=pl.col("account_id").first())
    return seen.join(firsts, on="device").filter(pl.col("account_id") != pl.col("first"))["row"].to_numpy()


def _with_device(log: pl.DataFrame) -> pl.DataFrame:
    """With `device`: the hash, where the log was exported, or else what it says."""
    return log.with_columns(device=pl.coalesce(pl.col("device_hash").bin.encode("hex"), "device_id"))


def evade(log: pl.DataFrame, burst: Burst, seed: int) -> pl.DataFrame:
    """`log` as if each account of abuse judged in `burst` had a fresh device and had signed up long before.

    Each of its unlabelled ACTIVATE events lies before its first judged request by a gap that honest accounts of the log
    had between the two, drawn by `seed`; the requests stay where they were. What the log does not tell stays unknown:
    no device appears where there was none. Raises `NothingToDisguise` where neither changes.
    """
    asked = (
        log.filter(pl.col("label").is_not_null())
        .group_by("account_id")
        .agg(asked=pl.col("event_time").min(), abuse=pl.col("label").max())
    )
    sign_up = (pl.col("event_kind") == "ACTIVATE") & pl.col("label").is_null()
    signed_up = log.filter(sign_up).group_by("account_id").agg(signed_up=pl.col("event_time").min())
    accounts = (
        asked.join(signed_up, on="account_id")
        .with_columns(gap=pl.col("asked") - pl.col("signed_up"))
        .sort("account_id")
    )
    gaps = accounts.filter(~pl.col("abuse") & (pl.col("gap") >= timedelta()))["gap"].to_physical().to_numpy()
    judged = pl.col("asked").is_between(burst.known_until, burst.until, closed="left")
    evading = asked.filter(judged & pl.col("abuse")).sort("account_id")
    draw = np.random.default_rng(seed)
    drawn = list(draw.choice(gaps, evading.height)) if len(gaps) else [None] * evading.height
    evading = evading.select(
        "account_id",
        new_sign_up=pl.col("asked") - pl.Series(drawn, dtype=pl.Int64).cast(pl.Duration("us")),
        new_device="fresh-" + pl.col("account_id"),
    )
    joined = _with_device(log).join(evading, on="account_id", how="left", maintain_order="left")
    moved = sign_up & pl.col("new_sign_up").is_not_null()
    renewed = pl.col("new_device").is_not_null() & pl.col("device").is_not_null()
    if not joined.select((moved | renewed).any()).item():
        raise NothingToDisguise("no judged abuser has a device, or a sign-up of its own, that could be another")
    return joined.with_columns(
        event_time=pl.when(moved).then("new_sign_up").otherwise("event_time"),
        device_id=pl.when(renewed).then("new_device").otherwise("device_id"),
        device_hash=pl.when(~renewed).then("device_hash"),
    ).select(COLUMNS)
