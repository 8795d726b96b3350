"""A report of models' health as tables: bars and colours by rules of thumb. Knows the report; must not make calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from card_recycling.v1 import insights_service_pb2 as pb
    from rich.console import RenderableType

DRIFT_SOME: Final = 0.1
DRIFT_MUCH: Final = 0.25
"""Where a population stability index begins to tell of some drift, and of much: the usual rule of thumb."""

NULL_RATE_MOVED: Final = 0.05
"""By so much a null rate may differ from training's before it is marked."""

_BAR_WIDTH: Final = 20
_BAR_PSI: Final = 0.5
"""The index that fills a bar."""


def tables(report: pb.GetModelHealthResponse) -> Iterator[RenderableType]:
    """What there is to print, from top to bottom."""
    yield _summary(report)
    for model in report.models:
        yield _model(model)
        if model.features:
            yield _features(model)
        if model.calibration.bins:
            yield _reliability(model)
        if model.challengers:
            yield _challengers(model)


def _summary(report: pb.GetModelHealthResponse) -> Table:
    table = _table("Model health", "figure", "value")
    table.add_row("decisions", f"{report.rows}{_at_most(report.rows, report.rows_max)}")
    table.add_row("from", report.from_time.ToJsonString())
    table.add_row("to", report.to_time.ToJsonString())
    table.add_row("without a score", _share(report.degraded_rows / report.rows) if report.rows else "-")
    table.add_row("calibrated from", report.mature_from_time.ToJsonString())
    table.add_row("calibrated to", report.mature_to_time.ToJsonString())
    for use in report.conversion_models:
        table.add_row("conversion model", f"{use.model_version}, heard in {use.rows} decisions")
    return table


def _model(model: pb.ModelHealth) -> Table:
    table = _table(f"model {model.model_version}", "figure", "value", "")
    table.add_row("decisions", str(model.rows))
    if not model.reference_known:
        table.add_row("training", Text("not known to the worker: no drift can be told", "yellow"))
    if model.HasField("alert_rate"):
        expected, style = "", ""
        if model.HasField("alert_rate_expected"):
            style = "green" if model.alert_rate_expected else "red"
            expected = f"{_share(model.alert_rate_low)} to {_share(model.alert_rate_high)} expected"
        table.add_row("alert rate", Text(_share(model.alert_rate), style), expected)
    if model.HasField("score_psi"):
        table.add_row("score drift", *_drift(model.score_psi))
    found = model.calibration
    table.add_row("outcomes known", str(found.rows), f"{found.positives} of abuse")
    for name in ("ece", "brier", "slope", "auc"):
        if found.HasField(name):
            table.add_row(name, f"{getattr(found, name):.4f}")
    return table


def _features(model: pb.ModelHealth) -> Table:
    """Those that drift most first."""
    table = _table("features", "feature", "psi", "drift", "unknown", "in training")
    for feature in sorted(model.features, key=lambda each: -each.psi):
        style = ""
        if feature.HasField("expected_null_rate"):
            style = "red" if abs(feature.null_rate - feature.expected_null_rate) > NULL_RATE_MOVED else ""
        table.add_row(
            feature.name,
            *(_drift(feature.psi) if feature.HasField("psi") else ("-", "")),
            Text(_share(feature.null_rate), style),
            _share(feature.expected_null_rate) if feature.HasField("expected_null_rate") else "-",
        )
    return table


def _reliability(model: pb.ModelHealth) -> Table:
    table = _table("scores beside outcomes", "score", "requests", "mean score", "abuse", "")
    for each in model.calibration.bins:
        table.add_row(
            f"{each.low:.2f} to {each.high:.2f}",
            str(each.rows),
            f"{each.mean_score:.4f}",
            f"{each.positive_share:.4f}",
            _bar(each.positive_share, ""),
        )
    return table


def _challengers(model: pb.ModelHealth) -> Table:
    table = _table(
        "challengers", "model", "requests", "same band", "correlation", "outcomes", "its auc", "auc beside it"
    )
    for each in model.challengers:
        table.add_row(
            each.model_version,
            str(each.rows),
            _share(each.band_agreement) if each.HasField("band_agreement") else "-",
            f"{each.score_correlation:.4f}" if each.HasField("score_correlation") else "-",
            str(each.labelled_rows),
            f"{each.challenger_auc:.4f}" if each.HasField("challenger_auc") else "-",
            f"{each.champion_auc:.4f}" if each.HasField("champion_auc") else "-",
        )
    return table


def _drift(psi: float) -> tuple[Text, Text]:
    style = "red" if psi >= DRIFT_MUCH else "yellow" if psi >= DRIFT_SOME else "green"
    return Text(f"{psi:.4f}", style), _bar(psi / _BAR_PSI, style)


def _bar(share: float, style: str) -> Text:
    return Text("█" * round(min(1.0, max(0.0, share)) * _BAR_WIDTH), style)


def _share(share: float) -> str:
    return f"{share:.2%}"


def _at_most(rows: int, rows_max: int) -> str:
    return ", the newest" if rows >= rows_max else ""


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left")
