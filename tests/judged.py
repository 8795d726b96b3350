"""Judged rows made by hand, and a log like a real shop's, for the tests of training and evaluation."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from fraud_worker.event_log import JudgedRows
from fraud_worker.registry import FEATURE_NAMES

START = datetime(2026, 1, 1, tzinfo=UTC)
_COLUMNS = ("event_time", "event_kind", "account_id", "card_id", "device_id", "ip", "amount_minor", "channel", "age")


def judged(
    labels: Sequence[int],
    features: Mapping[str, Sequence[float]] | None = None,
    *,
    times: Sequence[datetime] | None = None,
    label_times: Sequence[datetime | None] | None = None,
) -> JudgedRows:
    """Rows of an account each, an hour apart; features that are not given are unknown."""
    count = len(labels)
    matrix = np.full((count, len(FEATURE_NAMES)), np.nan)
    for name, values in (features or {}).items():
        matrix[:, FEATURE_NAMES.index(name)] = values
    events = pl.DataFrame(
        {
            "row": np.arange(count, dtype=np.int64),
            "event_time": times or [START + timedelta(hours=hour) for hour in range(count)],
            "account_id": [f"a{number}" for number in range(count)],
            "label_time": label_times or [None] * count,
        },
        schema_overrides={"event_time": pl.Datetime("us", "UTC"), "label_time": pl.Datetime("us", "UTC")},
    )
    return JudgedRows(features=matrix, labels=np.array(labels, dtype=np.int8), events=events)


def write_shop_log(path: Path, *, seed: int = 0, days: int = 150, devices: bool = True) -> None:
    """A shop that is young: rings of accounts on one device buy at once in its first fortnight; later, one buyer in
    twenty is a thief who looks like all the others, but for a device that is shared somewhat more often."""
    draw = random.Random(seed)
    rows: list[tuple[datetime, str, str, str, str, int, str, int, int | str]] = []
    accounts = 0

    def buys(signed_up: datetime, gap: timedelta, label: int, device: str, ip: str, amount: int, age: int) -> None:
        nonlocal accounts
        accounts += 1
        who = (f"u{accounts}", device if devices else "", ip, amount, "ads", age)
        rows.append((signed_up, "ACTIVATE", *who, ""))
        rows.append((signed_up + gap, "RECYCLE", *who, label))

    def anybody() -> tuple[str, int, int]:
        address = f"10.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(1, 255)}"
        return address, 100 * draw.randrange(9, 60), draw.randrange(18, 60)

    for ring in range(90):
        start = START + timedelta(days=14 * draw.random())
        who = anybody()
        for number in range(draw.randrange(3, 9)):
            buys(start + timedelta(seconds=number), timedelta(seconds=1), 1, f"ring{ring}", *who)
    lent: list[str] = []
    for _ in range(5_000):
        signed_up = START + timedelta(days=days * draw.random())
        label = int(draw.random() < 0.045)
        shared = lent and draw.random() < (0.12 if label else 0.02)
        device = draw.choice(lent) if shared else f"own{accounts}"
        lent.append(device)
        buys(signed_up, timedelta(days=100 * draw.random()), label, device, *anybody())
    end = START + timedelta(days=days)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*_COLUMNS, "label"])
        for time, kind, account, *rest in sorted(rows, key=lambda row: row[0]):
            if time < end:
                writer.writerow([time.isoformat(), kind, account, account.replace("u", "c"), *rest])
