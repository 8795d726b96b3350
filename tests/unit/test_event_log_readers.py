"""The two readers of event logs, training's and the replay's, which know nothing of one another, take the same logs."""

from pathlib import Path

import polars as pl
import pytest

from clients.python import event_log as replayed
from fraud_worker import event_log as trained

GOOD = {"event_time": "2026-01-01T00:00:00Z", "event_kind": "RECYCLE", "account_id": "a"}
CELLS = (
    *(
        "",
        " ",
        "0",
        "1",
        "1.0",
        "-1",
        "2.5",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e6",
        "1000001",
        "31536001",
        "1e11",
        "1e13",
    ),
    *("x", " 1", "true", "TRUE", "yes", "T", "2", "\u0663", "2026-01-01", "2026-01-01T00:00:00+09:00", "2026-13-01"),
    *(
        "BASIC",
        "basic",
        "GOLD",
        "VOLUNTARY",
        "voluntary",
        "RECYCLE",
        "recycle",
        "COMPLAINT",
        "1e3",
        "0x10",
        "1_000",
        "+1",
    ),
    *("10.0.0.1", "::ffff:1.2.3.4", "fe80::1%e", "010.0.0.1", "e\u0301\u200b", "S-1200", "a\x00b"),
)
READ_BY_BOTH = sorted({*trained.COLUMNS} & {*replayed.COLUMNS})


def taken(path: Path) -> tuple[bool, bool]:
    """Whether training, and the replay, read a log."""
    try:
        trained.read_log(path)
        by_training = True
    except trained.EventLogError:
        by_training = False
    try:
        replayed.read_events(path)
        by_replay = True
    except replayed.LogError:
        by_replay = False
    return by_training, by_replay


@pytest.mark.parametrize("column", READ_BY_BOTH)
def test_both_take_the_same_values(tmp_path: Path, column: str) -> None:
    """Whatever a cell holds, both readers take it or both refuse it."""
    disputed = []
    for cell in CELLS:
        path = tmp_path / "log.csv"
        pl.DataFrame({name: [value] for name, value in (GOOD | {column: cell}).items()}).write_csv(path)
        by_training, by_replay = taken(path)
        if by_training is not by_replay:
            disputed.append((cell, by_training, by_replay))
    assert not disputed


def test_what_both_read_is_what_requests_can_tell() -> None:
    """The replay reads all columns of the log that a request has a place for."""
    assert {*trained.COLUMNS} - {*READ_BY_BOTH} == {
        *("disposition", "segment", "converted", "converted_time"),
        *(
            "channel",
            "country",
            "inconsistencies",
            "hosting",
            "timezone_mismatch",
            "outcome",
            "label_time",
            "abuse_time",
        ),
        *("device_hash", "address_hash", "prefix_hash", "profile_hash", "serial_block"),
        *("recycling_id", "policy_revision", "model_version", "weight"),
    }


@pytest.mark.parametrize("missing", ["event_time", "event_kind", "account_id"])
def test_both_need_the_same_columns(tmp_path: Path, missing: str) -> None:
    """Without time, kind or account there is no log for either."""
    path = tmp_path / "log.csv"
    pl.DataFrame({name: [value] for name, value in GOOD.items() if name != missing}).write_csv(path)
    assert taken(path) == (False, False)


@pytest.mark.parametrize("name", ["log.csv.gz", "log.parquet"])
def test_both_read_the_same_formats(tmp_path: Path, name: str) -> None:
    """A log may be compressed, or Parquet with types of its own."""
    path = tmp_path / name
    frame = pl.DataFrame({name: [value] for name, value in GOOD.items()}).with_columns(amount_minor=pl.lit(1400.0))
    frame.write_parquet(path) if name.endswith("parquet") else frame.write_csv(path, compression="gzip")
    assert taken(path) == (True, True)
