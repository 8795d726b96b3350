"""Reading event logs: what is accepted, and how a bad cell is named."""

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fraud_worker.event_log import (
    COLUMNS,
    EventLogError,
    JudgedRows,
    StoredEvent,
    merged_logs,
    read_log,
    stored_events,
)
from migrations.risk_log import TraceHasher, serial_block

HEAD = "event_time,event_kind,account_id"


def log(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(text)
    return path


def test_absent_columns_are_unknown(tmp_path: Path) -> None:
    """Three columns make a log; all others are null."""
    frame = read_log(log(tmp_path, f"{HEAD}\n2026-01-01T00:00:00Z,RECYCLE,a\n"))
    assert frame.columns == ["row", *COLUMNS]
    assert frame.select(COLUMNS[3:]).null_count().sum_horizontal().item() == len(COLUMNS) - 3


def test_empty_cells_are_unknown(tmp_path: Path) -> None:
    """An empty cell is null, quoted or not."""
    frame = read_log(log(tmp_path, f'{HEAD},device_id,page_views\n2026-01-01,ISSUE,a,"",\n'))
    assert frame.select("device_id", "page_views").row(0) == (None, None)


def test_unlisted_columns_are_ignored(tmp_path: Path) -> None:
    """A log may say more than we read."""
    assert "family" not in read_log(log(tmp_path, f"{HEAD},family\n2026-01-01,ISSUE,a,farm\n")).columns


def test_times_become_utc(tmp_path: Path) -> None:
    """An offset is converted; a time without one is UTC."""
    text = f"{HEAD}\n2026-01-01T08:00:00+08:00,ISSUE,a\n2026-01-01 00:00:00.5,ISSUE,b\n"
    times = read_log(log(tmp_path, text))["event_time"].to_list()
    assert times == [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("event_time", "yesterday"),
        ("event_kind", "STEAL"),
        ("label", "2"),
        ("page_views", "1.5"),
        ("page_views", "-1"),
        ("session_seconds", "nan"),
        ("session_seconds", "inf"),
        ("amount_minor", "1e30"),
        ("emulator", "maybe"),
        ("label_time", "13:00"),
        ("outcome", "LOST"),
        ("device_hash", "00"),
        ("device_hash", "zz" * 16),
        ("form_fill_ms", "86400001"),
        ("hosting", "perhaps"),
        ("clock_skew_seconds", "-1"),
    ],
)
def test_bad_cell_is_named(tmp_path: Path, column: str, value: str) -> None:
    """The error names the file, the line, the column and the value."""
    good = {"event_time": "2026-01-01", "event_kind": "RECYCLE", "account_id": "a"}
    rows = [good | {column: good.get(column)}, good | {column: value}]
    path = tmp_path / "log.csv"
    pl.DataFrame(rows, infer_schema_length=None).write_csv(path)
    with pytest.raises(EventLogError, match=rf"log\.csv: line 3, column {column}: '{value}'"):
        read_log(path)


def test_missing_required_cell_is_named(tmp_path: Path) -> None:
    """An event without an account is no event."""
    with pytest.raises(EventLogError, match="line 2, column account_id: a value is required"):
        read_log(log(tmp_path, f"{HEAD}\n2026-01-01,ISSUE,\n"))


def test_missing_required_column_is_named(tmp_path: Path) -> None:
    """A log without times is no log."""
    with pytest.raises(EventLogError, match="event_time"):
        read_log(log(tmp_path, "event_kind,account_id\nISSUE,a\n"))


def test_parquet_numbers_written_with_gaps_are_whole_again(tmp_path: Path) -> None:
    """A writer that turned whole numbers with gaps into floats loses nothing."""
    path = tmp_path / "log.parquet"
    pl.DataFrame(
        {
            "event_time": [datetime(2026, 1, 1)] * 2,  # noqa: DTZ001 - a naive time is the point
            "event_kind": ["ISSUE"] * 2,
            "account_id": ["a", "b"],
            "page_views": [3.0, float("nan")],
            "age": [38.0, None],
        }
    ).write_parquet(path)
    assert read_log(path).select("page_views", "age").rows() == [(3, "38"), (None, None)]


def stored(tmp_path: Path, **cells: str) -> StoredEvent:
    """The event that a log of one row becomes."""
    frame = pl.DataFrame([{"event_time": "2026-01-01", "event_kind": "RECYCLE", "account_id": "a"} | cells])
    frame.write_csv(tmp_path / "log.csv")
    (event,) = stored_events(read_log(tmp_path / "log.csv").with_columns(seq=1), TraceHasher(b"a key of sixteen"))
    return event


def test_signals_follow_from_raw_values(tmp_path: Path) -> None:
    """A log of raw values gets the signals that the server would compute."""
    raw = {"os": "android", "model": "iPhone 13", "ip": "52.0.0.1", "timezone": "Asia/Shanghai", "language": "zh-CN"}
    signals = json.loads(stored(tmp_path, **raw, country="US").signals or "")
    assert signals == {"inconsistencies": 1, "hosting": True, "timezone_mismatch": True}


def test_logged_signals_win_over_computed_ones(tmp_path: Path) -> None:
    """What the log says of itself is not computed again."""
    given = {"inconsistencies": "3", "hosting": "0", "timezone_mismatch": "0", "clock_skew_seconds": "1.5"}
    raw = {"os": "android", "model": "iPhone 13", "ip": "52.0.0.1", "timezone": "Asia/Shanghai", "language": "en-US"}
    signals = json.loads(stored(tmp_path, **raw, **given).signals or "")
    assert signals == {"inconsistencies": 3, "hosting": False, "timezone_mismatch": False, "clock_skew_seconds": 1.5}


def test_logged_hashes_win_over_raw_values(tmp_path: Path) -> None:
    """An export of keyed hashes is read as they are; hashes that it lacks come from what it has."""
    event = stored(tmp_path, device_hash="ab" * 16, device_id="d", ip="203.0.113.7", serial="S1200", platform="iqiyi")
    device, address, _, profile, block = event.hashes
    assert (device, profile) == (b"\xab" * 16, None)
    assert address is not None and block == serial_block("iqiyi", "S1299")


def test_other_sellers_tiers_and_reasons_are_unknown(tmp_path: Path) -> None:
    """Ours are read in any case, others are not errors."""
    event = stored(tmp_path, tier="premium", reason="GIFT")
    assert (event.tier, event.reason) == ("PREMIUM", None)


def test_weights_are_one_unless_told(tmp_path: Path) -> None:
    """A row that stands for others says for how many; one that says nothing stands for itself."""
    file = tmp_path / "log.csv"
    file.write_text("event_time,event_kind,account_id,weight\n2026-01-01,RECYCLE,a,200\n2026-01-01,RECYCLE,b,\n")
    events = read_log(file)
    rows = JudgedRows(features=np.empty((2, 0)), labels=np.zeros(2, dtype=np.int8), events=events)
    assert rows.weights.tolist() == [200.0, 1.0]


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "10001"])
def test_impossible_weight_is_refused(tmp_path: Path, weight: str) -> None:
    """A weight is a number above 0 that a policy's share can give."""
    file = tmp_path / "log.csv"
    file.write_text(f"event_time,event_kind,account_id,weight\n2026-01-01,RECYCLE,a,{weight}\n")
    with pytest.raises(EventLogError, match="column weight"):
        read_log(file)


def test_history_gives_up_what_is_judged(tmp_path: Path) -> None:
    """A history that holds the judged events, too, is one without them: no event is history of its own."""
    header = "event_time,event_kind,account_id,device_id,label"
    earlier, later = "2026-01-01T00:00:00Z,RECYCLE,a,d,0", "2026-01-02T00:00:00Z,RECYCLE,b,d,1"
    whole, last = tmp_path / "whole.csv", tmp_path / "last.csv"
    whole.write_text("\n".join((header, earlier, later)))
    last.write_text("\n".join((header, later)))
    merged = merged_logs([last], [whole])
    assert merged.select("account_id", "judged").rows() == [("a", False), ("b", True)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "event_time,event_kind,account_id,event_kind\n2026-01-01,ISSUE,a,RECYCLE\n",
            "column event_kind is there twice",
        ),
        (f"{HEAD}, label\n2026-01-01,RECYCLE,a,1\n", "column ' label' must be called 'label'"),
        (f"{HEAD},Label\n2026-01-01,RECYCLE,a,1\n", "column 'Label' must be called 'label'"),
        (f"{HEAD},label\n2026-01-01,RECYCLE,a,1\n2026-01-01,RECYCLE,a\n", "line 3: it has 3 cells, and the head has 4"),
        (f"{HEAD}\n2026-01-01,RECYCLE,a,1\n", "line 2: it has 4 cells, and the head has 3"),
        (f"{HEAD},label_time\n2026-01-02,RECYCLE,a,2026-01-01\n", "line 2, column label_time: .* before the event"),
        (f"{HEAD}\n9999-12-31T23:59:59Z,RECYCLE,a\n", "line 2, column event_time: .* from 1970 to 2199"),
        (f"{HEAD}\n0001-01-01,RECYCLE,a\n", "line 2, column event_time: .* from 1970 to 2199"),
        (f"{HEAD}\n2026-01-01,RECYCLE,{'a' * 257}\n", "line 2, column account_id: .* at most 256 characters"),
        (f"{HEAD},os\n2026-01-01,RECYCLE,a,{'o' * 200_000}\n", "line 2: field larger than field limit"),
        (f'{HEAD},os\n2026-01-01,RECYCLE,a,"o\n', "unexpected end of data"),
        ("", "it is empty"),
        (f"{HEAD},amount_minor\n2026-01-01,RECYCLE,a,-5\n", "line 2, column amount_minor: '-5' is not a whole number"),
    ],
)
def test_nonsense_is_named(tmp_path: Path, text: str, why: str) -> None:
    """What cannot be meant is refused by line and column, and never guessed at."""
    with pytest.raises(EventLogError, match=why):
        read_log(log(tmp_path, text))


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet"])
def test_junk_is_no_log(tmp_path: Path, name: str) -> None:
    """Bytes of any kind end in one error."""
    for junk in (b"", b"\xff\xfe\x00", bytes(range(256)) * 20, b"\x1f\x8b" + b"\x08" * 50, b"PAR1" * 10):
        (tmp_path / name).write_bytes(junk)
        with pytest.raises(EventLogError, match="log"):
            read_log(tmp_path / name)


@pytest.mark.parametrize("name", ["folder.csv", "folder.parquet"])
def test_folder_is_no_log(tmp_path: Path, name: str) -> None:
    """A folder is named as one."""
    (tmp_path / name).mkdir()
    with pytest.raises(EventLogError, match="it is a folder"):
        read_log(tmp_path / name)


def test_gzip_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    """By their first bytes, whatever the file is called."""
    path = tmp_path / "log.csv"
    path.write_bytes(gzip.compress(f"\ufeff{HEAD}\n2026-01-01,ISSUE,a\n\n".encode()))
    assert read_log(path)["account_id"].to_list() == ["a"]


def test_foreign_columns_may_be_named_twice(tmp_path: Path) -> None:
    """What we do not read may look as it likes."""
    text = f"{HEAD},note,note,\n2026-01-01,ISSUE,a,1,2,3\n"
    assert read_log(log(tmp_path, text)).height == 1


def test_parquet_days_are_midnights(tmp_path: Path) -> None:
    """A column of days is one of times; one of lists is none."""
    path = tmp_path / "log.parquet"
    row = {"event_time": [date(2026, 1, 1)], "event_kind": ["ISSUE"], "account_id": ["a"]}
    pl.DataFrame(row).write_parquet(path)
    assert read_log(path)["event_time"].to_list() == [datetime(2026, 1, 1, tzinfo=UTC)]
    pl.DataFrame(row | {"page_views": [[1]]}).write_parquet(path)
    with pytest.raises(EventLogError, match="line 1, column page_views"):
        read_log(path)


def test_log_without_rows_is_empty(tmp_path: Path) -> None:
    """A head alone is a log."""
    assert read_log(log(tmp_path, f"{HEAD}\n")).shape == (0, len(COLUMNS) + 1)


def test_log_counts_once(tmp_path: Path) -> None:
    """The same file given twice is a slip."""
    path = log(tmp_path, f"{HEAD}\n2026-01-01,ISSUE,a\n")
    with pytest.raises(EventLogError, match="twice"):
        merged_logs([path, path], [])
