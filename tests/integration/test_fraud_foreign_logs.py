"""Logs of other domains, with other columns, other kinds of events and other shares of abuse: each trains, is evaluated
and explained, and gets its figures; or is refused with one line."""

import csv
import json
import random
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from bench.figures import main as figures
from fraud_worker import evaluation
from fraud_worker.__main__ import app
from fraud_worker.event_log import judged_rows
from fraud_worker.fitting import fit
from tests.judged import START

Row = dict[str, Any]

COUNT = 400
RUNNER = CliRunner()


def payments(count: int = COUNT, *, share: float = 0.15, seed: int = 0) -> list[Row]:
    """Payments over ninety days; abuse comes in short rows of big amounts from a device that others share."""
    draw = random.Random(seed)
    rows: list[Row] = []
    while len(rows) < count:
        abuse = draw.random() < share
        time = START + timedelta(minutes=draw.randrange(90 * 24 * 60))
        account = draw.randrange(100)
        rows.append(
            {
                "event_time": time.isoformat(),
                "event_kind": "RECYCLE",
                "account_id": f"a{account}" if not abuse else f"t{len(rows)}",
                "card_id": f"c{account}",
                "device_id": f"farm{draw.randrange(4)}" if abuse else f"d{account}",
                "ip": f"10.0.{draw.randrange(9)}.{account}",
                "amount_minor": draw.randrange(2_000, 9_000) if abuse else draw.randrange(100, 5_000),
                "label": int(abuse),
            }
        )
    return sorted(rows, key=lambda row: row["event_time"])


def write(path: Path, rows: list[Row]) -> Path:
    """As CSV, gzipped or not, or Parquet, by the name's ending."""
    if path.suffix == ".parquet":
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def without(*columns: str) -> Callable[[], list[Row]]:
    return lambda: [{name: value for name, value in row.items() if name not in columns} for row in payments()]


def signups_only() -> list[Row]:
    return [row | {"event_kind": "ACTIVATE"} for row in without("card_id", "amount_minor", "device_id")()]


def with_other_columns() -> list[Row]:
    return [row | {"merchant": "m1", "Unnamed: 0": number, "note": 'a "b", c'} for number, row in enumerate(payments())]


def labels_on_some() -> list[Row]:
    return [row | {"label": row["label"] if number % 3 else ""} for number, row in enumerate(payments(3 * COUNT // 2))]


def labels_known_late() -> list[Row]:
    later = [row | {"label_time": row["event_time"].replace("2026-0", "2027-0")} for row in payments()]
    return [row | {"label_time": ""} if not row["label"] else row for row in later]


def with_offsets() -> list[Row]:
    return [row | {"event_time": row["event_time"].replace("+00:00", "-03:30")} for row in payments()]


def whole_number_ids() -> list[Row]:
    return [row | {"account_id": number % 90, "card_id": number % 120} for number, row in enumerate(payments())]


def of_one_moment() -> list[Row]:
    return [row | {"event_time": START.isoformat()} for row in payments()]


def all_abuse_first() -> list[Row]:
    return [row | {"label": int(number < COUNT // 5)} for number, row in enumerate(payments())]


def all_abuse_last() -> list[Row]:
    return [row | {"label": int(number > COUNT * 17 // 20)} for number, row in enumerate(payments())]


def one_account() -> list[Row]:
    return [row | {"account_id": "shop"} for row in payments()]


def three_of_abuse() -> list[Row]:
    return [row | {"label": int(number in (40, 140, 240))} for number, row in enumerate(payments())]


TRAINS: Mapping[str, Callable[[], list[Row]]] = {
    "payments": payments,
    "no devices": without("device_id"),
    "no addresses": without("ip"),
    "accounts and amounts alone": without("device_id", "ip", "card_id"),
    "accounts alone": without("device_id", "ip", "card_id", "amount_minor"),
    "sign-ups alone": signups_only,
    "columns of its own": with_other_columns,
    "labels on some events": labels_on_some,
    "half of it abuse": lambda: payments(share=0.5),
    "nearly all of it abuse": lambda: payments(share=0.95),
    "three of abuse": three_of_abuse,
    "times with offsets": with_offsets,
    "whole numbers as ids": whole_number_ids,
    "one moment": of_one_moment,
    "abuse in its first days alone": all_abuse_first,
    "abuse in its last days alone": all_abuse_last,
    "one account": one_account,
}

REFUSED: Mapping[str, tuple[Callable[[], list[Row]], str]] = {
    "no abuse": (lambda: [row | {"label": 0} for row in payments(60)], "0 of them abuse"),
    "no labels": (lambda: [row | {"label": ""} for row in payments(60)], "no event has a label"),
    "no label column": (lambda: without("label")()[:60], "no event has a label"),
    "labels of abuse that all come later": (labels_known_late, "0 of them abuse"),
    "no accounts": (lambda: without("account_id")()[:60], "the column account_id is missing"),
    "labels beyond 0 and 1": (lambda: [row | {"label": 7} for row in payments(60)], "column label: '7' is not 0 or 1"),
}


@pytest.mark.parametrize("shape", TRAINS)
def test_a_log_of_another_shape_teaches_and_is_judged(shape: str, tmp_path: Path) -> None:
    """Every row gets a probability and the log its figures, without a warning and in JSON that any reader takes."""
    judged = judged_rows([write(tmp_path / "log.csv", TRAINS[shape]())])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = fit(judged, seed=0).score(judged.features)
        found = strict(json.dumps(evaluation.report(judged, scores)))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert found["rows"] == len(judged) > 0


def test_commands_answer_for_a_log_of_accounts_alone(tmp_path: Path) -> None:
    """Training, evaluation and explanation work on what holds no more than who asked, when, and its label."""
    log = write(tmp_path / "log.csv", TRAINS["accounts alone"]())
    model = str(tmp_path / "model")
    trained = RUNNER.invoke(app, ["train", "--events", str(log), "--out", model])
    assert trained.exit_code == 0, trained.output
    evaluated = RUNNER.invoke(app, ["evaluate", "--model", model, "--events", str(log), "--json"])
    explained = RUNNER.invoke(app, ["explain", "--model", model, "--events", str(log), "--row", "1", "--json"])
    assert strict(evaluated.stdout)["rows"] == COUNT
    assert 0 <= strict(explained.stdout)["probability"] <= 1


@pytest.mark.parametrize("shape", REFUSED)
def test_a_log_that_cannot_teach_is_refused_in_one_line(shape: str, tmp_path: Path) -> None:
    """The line says what is missing; nothing is written."""
    make, why = REFUSED[shape]
    log = write(tmp_path / "log.csv", make())
    refused = RUNNER.invoke(app, ["train", "--events", str(log), "--out", str(tmp_path / "model")])
    assert refused.exit_code not in (0, None)
    assert not isinstance(refused.exception, Exception) or isinstance(refused.exception, SystemExit)
    assert why in refused.output.splitlines()[-1]
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("shape", ["payments", "sign-ups alone", "abuse in its last days alone"])
def test_figures_of_any_log_are_measured_or_said_not_to_be(shape: str, tmp_path: Path) -> None:
    """Every figure has a line; what has no value has a reason, and does not fail."""
    log = write(tmp_path / "log.csv", TRAINS[shape]())
    command = typer.Typer()
    command.command()(figures)
    shown = RUNNER.invoke(command, ["--events", str(log), "--seeds", "1"])
    assert shown.exit_code in (0, 1) and (shown.exception is None or isinstance(shown.exception, SystemExit))
    lines = [strict(line) for line in shown.stdout.splitlines()]
    assert len(lines) == 8
    assert all(line["reached"] is None and line["why"] for line in lines if line["value"] is None)
    assert not any(line.get("leak") for line in lines)


def test_parquet_types_of_others_are_read(tmp_path: Path) -> None:
    """Numbers, flags and times of a column store give the figures that their text gives."""
    rows = payments()
    text = write(tmp_path / "log.csv", rows)
    typed = pl.DataFrame(rows).with_columns(
        pl.col("event_time").str.to_datetime(time_zone="UTC").dt.cast_time_unit("ns"),
        pl.col("label").cast(pl.Boolean),
        pl.col("amount_minor").cast(pl.Float64),
        pl.col("device_id", "account_id").cast(pl.Categorical),
    )
    typed.write_parquet(tmp_path / "log.parquet")
    found = [
        RUNNER.invoke(app, ["evaluate", "--events", str(log), "--json"]).stdout
        for log in (text, tmp_path / "log.parquet")
    ]
    assert strict(found[0]) == strict(found[1])


def strict(text: str) -> dict[str, Any]:
    """One JSON object; NaN and infinity are none."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    content = json.loads(text.strip().splitlines()[-1], parse_constant=refuse)
    assert isinstance(content, dict)
    return content
