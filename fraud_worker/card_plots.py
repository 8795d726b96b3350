"""The plots of the model card.

Knows matplotlib, and how a reader of a card looks at it. Must not know models: it is given numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from fraud_worker import expectations
from fraud_worker.scorer import Bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_RELIABILITY_BINS: Final = 10
_WEEKS_MIN: Final = 8
_PERIOD_ROWS_MIN: Final = 30
_WIDE: Final = 100.0

_LINE: Final = "#1f5fa8"
_BAR: Final = "#b9cbe0"
_GUIDE: Final = "0.6"

Values = npt.NDArray[np.float64]


def quality(path: Path, labels: npt.NDArray[np.int8], scores: Values) -> None:
    """The ROC curve, precision over recall, and calibration with how many rows each bin holds. Needs both labels."""
    figure, ((roc, recall), (reliability, low)) = _sheet(2, 2, size=(10, 8))
    fpr, tpr, _ = roc_curve(labels, scores)
    roc.plot(fpr, tpr, color=_LINE, label=f"model, AUC {roc_auc_score(labels, scores):.3f}")
    guide = np.linspace(0, 1, 500)
    roc.plot(guide, guide, color=_GUIDE, linestyle="--", linewidth=1, label="chance")
    roc.axvline(0.01, color=_GUIDE, linestyle=":", linewidth=1, label="1 % of the honest")
    roc.set_xscale("symlog", linthresh=0.01)
    roc.set_xticks([0, 0.005, 0.01, 0.05, 0.1, 1], ["0", "0.5 %", "1 %", "5 %", "10 %", "100 %"])
    roc.minorticks_off()
    roc.set(xlim=(0, 1), ylim=(0, 1.02), title="ROC", ylabel="share of abuse flagged")
    roc.set_xlabel("share of honest requests flagged (linear below 1 %, then logarithmic)")
    roc.legend(loc="best")

    precisions, recalls, _ = precision_recall_curve(labels, scores)
    recall.plot(recalls[:-1], precisions[:-1], color=_LINE, label="model")
    recall.axhline(labels.mean(), color=_GUIDE, linestyle="--", linewidth=1, label=f"chance, {labels.mean():.1%}")
    recall.set(xlim=(0, 1), ylim=(0, 1.02), title="Precision and recall")
    recall.set(xlabel="recall: share of abuse flagged", ylabel="precision: share of flagged that is abuse")
    recall.legend(loc="best")

    _reliability(
        reliability, labels, scores, np.linspace(0, 1, _RELIABILITY_BINS + 1), "Calibration, bins of equal width"
    )
    deciles = np.unique(np.quantile(scores, np.linspace(0, 1, _RELIABILITY_BINS + 1)))
    _reliability(low, labels, scores, deciles, "Calibration, bins of equally many rows", logarithmic=True)
    _save(figure, path)


def conversions(path: Path, labels: npt.NDArray[np.int8], scores: Values, cells: Sequence[str]) -> None:
    """Calibration with how many rows each bin holds, and what was expected of each cell beside what came."""
    figure, ((reliability, beside),) = _sheet(1, 2, size=(11, 4.5))
    edges = np.linspace(0, 1, _RELIABILITY_BINS + 1)
    _reliability(reliability, labels, scores, edges, "Calibration, bins of equal width", of="share who paid again")
    frame = (
        pl.DataFrame({"cell": cells, "label": labels, "score": scores})
        .group_by("cell")
        .agg(pl.len(), pl.col("label", "score").mean())
        .sort("cell", descending=True)
    )
    places = np.arange(frame.height)
    beside.barh(places - 0.2, 100 * frame["score"].to_numpy(), height=0.4, color=_BAR, label="expected")
    beside.barh(places + 0.2, 100 * frame["label"].to_numpy(), height=0.4, color=_LINE, label="came")
    names = [f"{name.removeprefix('/')} ({count:,})" for name, count in frame.select("cell", "len").iter_rows()]
    beside.set_yticks(places, names)
    beside.set(xlabel="% who paid again", title="By segment and disposition (rows)")
    beside.legend(loc="best")
    _save(figure, path)


def _reliability(
    axes: Axes,
    labels: npt.NDArray[np.int8],
    scores: Values,
    edges: Values,
    title: str,
    *,
    logarithmic: bool = False,
    of: str = "share of abuse",
) -> None:
    """Predicted against true share a bin, with a 95 % binomial bar and the number of rows beside each point."""
    bins = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, max(0, len(edges) - 2))
    count = np.bincount(bins)
    filled = count > 0
    rows = count[filled]
    predicted = np.bincount(bins, weights=scores)[filled] / rows
    true = np.bincount(bins, weights=labels)[filled] / rows
    spread = 1.96 * np.sqrt(np.maximum(true * (1 - true), predicted * (1 - predicted)) / rows)
    low, high = np.maximum(true - spread, 0), np.minimum(true + spread, 1)
    least = 1.0
    if logarithmic:
        least = 0.5 * max(1e-5, min(predicted.min(), true[true > 0].min(initial=1.0)))
        axes.set(xscale="log", yscale="log")
        true, low = np.maximum(true, least), np.maximum(low, least)
    guide = np.geomspace(least, 1, 50) if logarithmic else np.linspace(0, 1, 50)
    axes.plot(guide, guide, color=_GUIDE, linestyle="--", linewidth=1, label="perfect")
    bounds = [np.maximum(true - low, 0), np.maximum(high - true, 0)]
    axes.errorbar(
        predicted, true, yerr=bounds, color=_LINE, marker="o", markersize=4, capsize=2, linewidth=1, label="model"
    )
    if logarithmic:
        bound = min(1.0, 2 * max(predicted.max(), high.max()))
        axes.set(
            xlim=(least, bound), ylim=(least, bound), xlabel=f"mean score of the bin (about {rows.max():,} rows each)"
        )
        _in_percent(axes.xaxis)
        _in_percent(axes.yaxis)
    else:
        for x, y, number in zip(predicted, high, rows, strict=True):
            axes.annotate(f"{number:,}", (x, y), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=7)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.12), xlabel="mean score of the bin (rows above each point)")
    axes.set(title=title, ylabel=f"{of}, 95 % interval")
    axes.legend(loc="lower right")


def _in_percent(axis: Axis) -> None:
    """Shares as people write them; at 1, 2 and 5 of every power of ten, or over a wide range at each power alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > _WIDE else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))


def contributions(path: Path, names: Sequence[str], features: Values, moved: Values, *, most: int) -> None:
    """A beeswarm: a point a row and feature, by how far it `moved` the log odds, coloured by the feature's value."""
    order = np.argsort(-np.abs(moved).mean(axis=0), kind="stable")[:most]
    order = order[np.abs(moved[:, order]).max(axis=0) > 0]
    figure, ((axes,),) = _sheet(1, 1, size=(9, 1.4 + 0.36 * max(1, len(order))))
    axes.axvline(0, color=_GUIDE, linewidth=1)
    points: Any = None
    for place, column in enumerate(order[::-1]):
        x, colour = moved[:, column], _ranks(features[:, column])
        y = place + _swarm(x)
        unknown = np.isnan(colour)
        axes.scatter(x[unknown], y[unknown], s=4, color="0.75", linewidths=0, rasterized=True)
        points = axes.scatter(
            x[~unknown],
            y[~unknown],
            s=4,
            c=colour[~unknown],
            cmap="coolwarm",
            vmin=0,
            vmax=1,
            linewidths=0,
            rasterized=True,
        )
    axes.set_yticks(range(len(order)), [names[column] for column in order[::-1]])
    axes.set(title=f"What moved the score, {len(moved):,} rows", xlabel="contribution to the log odds of abuse")
    if points is not None:
        bar = figure.colorbar(points, ax=axes, ticks=[0, 1], aspect=30, pad=0.01)
        bar.set_ticklabels(["low", "high"])
        bar.set_label("value of the feature (grey: unknown)")
    _save(figure, path)


def _ranks(values: Values) -> Values:
    """From 0 for the least known value to 1 for the greatest; ties share a rank; NaN stays."""
    ranks = pl.Series(values).fill_nan(None).rank("dense").cast(pl.Float64).to_numpy()
    known = ranks[~np.isnan(ranks)]
    if not len(known) or known.max() == 1:
        return np.where(np.isnan(ranks), np.nan, 0.0)
    scaled: Values = (ranks - 1) / (known.max() - 1)
    return scaled


def _swarm(x: Values) -> Values:
    """Offsets that spread points of like `x` over at most 0.8 in height, the denser the wider."""
    width = max(float(np.ptp(x)), 1e-12) / 120
    bins = ((x - x.min()) / width).astype(np.int64)
    order = np.argsort(bins, kind="stable")
    count = np.bincount(bins)
    within = np.arange(len(x)) - np.concatenate([[0], np.cumsum(count)[:-1]])[bins[order]]
    offsets = np.empty(len(x))
    offsets[order] = np.where(within % 2 == 0, 1, -1) * ((within + 1) // 2)
    wide = 0.4 * np.sqrt(count / count.max())
    scaled: Values = offsets / np.maximum(1, count[bins] / 2) * wide[bins]
    return scaled


def drift(path: Path, times: pl.Series, scores: Values, medium: float, bins: Bins) -> None:
    """Score quantiles, alert rate and population stability a week, or a day where there are few weeks."""
    first, last = times.min(), times.max()
    assert isinstance(first, datetime) and isinstance(last, datetime)
    period = "week" if (last - first).days >= 7 * _WEEKS_MIN else "day"
    frame = pl.DataFrame({"start": times.dt.truncate("1w" if period == "week" else "1d"), "score": scores})
    parts = [
        (start, part["score"].to_numpy())
        for (start,), part in frame.group_by("start", maintain_order=True)
        if part.height >= _PERIOD_ROWS_MIN
    ]
    figure, ((quantiles,), (alerts,), (stability,)) = _sheet(3, 1, size=(11, 8), sharex=True)
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
    starts: list[Any] = [start for start, _ in parts]
    for share, style in ((0.5, "-"), (0.9, "--"), (0.99, ":")):
        values = [float(np.quantile(part, share)) for _, part in parts]
        quantiles.plot(starts, values, style, marker=".", color=_LINE, label=f"{share:.0%} of requests score below")
    quantiles.axhline(medium, color="#b03030", linewidth=1, label=f"MEDIUM, {medium:.1%}")
    quantiles.set(yscale="log", ylabel="score", title=f"Score a {period}")
    _in_percent(quantiles.yaxis)  # a new scale forgets how ticks are written
    quantiles.legend(**beside)

    width = 5.5 if period == "week" else 0.8
    rates = [100 * float((part >= medium).mean()) for _, part in parts]
    alerts.bar(starts, rates, width=width, color=_BAR)
    overall = 100 * float((scores >= medium).mean())
    alerts.axhline(overall, color=_LINE, linewidth=1, label=f"overall, {overall:.2f} %")
    alerts.set(ylabel="% of requests", title="Alert rate: MEDIUM or HIGH")
    alerts.set_ylim(bottom=0)
    alerts.legend(**beside)

    stability.bar(starts, [expectations.stability(bins, part) for _, part in parts], width=width, color=_BAR)
    for bound, what, colour in ((0.1, "calm below", _GUIDE), (0.25, "changed above", "#b03030")):
        stability.axhline(bound, color=colour, linewidth=1, linestyle="--", label=f"{what} {bound}")
    stability.set(
        ylabel="PSI", title=f"Population stability of the score, each {period} against the whole", xlabel="from, UTC"
    )
    stability.legend(**beside)
    stability.tick_params(axis="x", rotation=30)
    _save(figure, path)


def _sheet(rows: int, columns: int, *, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="0.92", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import pyplot

    # No date and no version: the same numbers give the same bytes.
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)
