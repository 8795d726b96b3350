"""The model card: what people should know of a model before they trust it, as Markdown with plots.

Knows a fitted model, its manifest and how to say it. Must not change any of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fraud_worker import card_plots
from fraud_worker.fitting import Fitted
from fraud_worker.registry import FEATURE_NAMES
from fraud_worker.scorer import Manifest

CARD_FILE: Final = "model-card.md"
QUALITY_FILE: Final = "model-card-quality.png"
CONTRIBUTIONS_FILE: Final = "model-card-contributions.png"
DRIFT_FILE: Final = "model-card-drift.png"

_CONTRIBUTION_ROWS_MAX: Final = 2_000
_FEATURES_TOLD: Final = 15


def write(out: Path, manifest: Manifest, fitted: Fitted, *, left_out: int) -> None:
    """Writes the card and its plots into `out`. `left_out`: labelled rows that were not mature."""
    backtest, unseen = fitted.backtest, fitted.unseen
    card_plots.quality(out / QUALITY_FILE, backtest.rows.labels, backtest.scores)
    features, contributions = _contributions(fitted)
    card_plots.contributions(out / CONTRIBUTIONS_FILE, FEATURE_NAMES, features, contributions, most=_FEATURES_TOLD)
    scores = fitted.calibration.probabilities(unseen.raw)
    assert manifest.score_bins is not None
    card_plots.drift(
        out / DRIFT_FILE, unseen.rows.events["event_time"], scores, manifest.thresholds.medium, manifest.score_bins
    )
    (out / CARD_FILE).write_text(_text(manifest, contributions, left_out))


def _contributions(fitted: Fitted) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rows spread evenly over those that calibrate, and by how much each feature moved each one's log odds."""
    rows = fitted.unseen.rows.features
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), _CONTRIBUTION_ROWS_MAX)).astype(np.int64)]
    found = np.asarray(fitted.booster.predict(some, pred_contrib=True, num_threads=2), dtype=np.float64)
    return some, found[:, :-1]


def _text(manifest: Manifest, contributions: npt.NDArray[np.float64], left_out: int) -> str:
    return "\n".join(
        (
            _head(manifest),
            _LIMITS,
            _data(manifest, left_out),
            _thresholds(manifest),
            _quality(manifest),
            _shares(contributions),
            _drift(manifest),
        )
    )


def _head(manifest: Manifest) -> str:
    return f"""# Model {manifest.version}

{manifest.trees} boosted trees over the {len(manifest.features)} features of registry {manifest.feature_registry},
monotone in every risk count and age, with a score that is the probability that a request to recycle or reactivate a
card is abuse. Trained by

    {manifest.command}
"""


_LIMITS: Final = """## What it cannot do

- A first account on a fresh device, address and profile looks like an honest newcomer. No score tells them apart;
  limits and a delay of the payout answer that.
- Its probabilities hold for the share of abuse among the rows that calibrated it. Where that share moves, they are off
  until it is trained again; its order of requests suffers less.
- It was taught disguises (a fresh device each, accounts grown old, new addresses) and excess in any one count that the
  honest do not outgrow. A way to abuse that leaves no more traces than the honest do goes unseen.
"""


def _data(manifest: Manifest, left_out: int) -> str:
    slices = ((name, f"{part['rows']:,}", f"{part['positives']:,}") for name, part in manifest.rows.items())
    return f"""## Data

Events from {_day(manifest.data_window[0])} to {_day(manifest.data_window[1])}.
A label is mature {manifest.label_delay_hours:g} h after its event, if it was known when the log ended;
{left_out:,} labelled rows were not, and were left out. Beside them trained {manifest.attack_copies:,} made-up rows of
low weight: their abuse in disguise, honest rows with one count raised above what the honest reach, and rows of both
kinds as if their caller had left out device, address or behaviour.

{_table(("rows that", "rows", "abuse"), slices)}

Scores of rows unseen by the trees are {manifest.validation}.
"""


def _thresholds(manifest: Manifest) -> str:
    alert, bands = manifest.alert_rate, manifest.thresholds
    assert alert is not None
    costs = ((name.replace("_", " "), f"{cost:g}") for name, cost in manifest.costs.items())
    return f"""## Thresholds

MEDIUM from {bands.medium:.4f}, HIGH from {bands.high:.4f}: {bands.rule}.

{_table(("cost, any unit", ""), costs)}

Of the {alert.rows:,} rows that calibrate, {alert.share:.2%} are MEDIUM or HIGH;
between {alert.low:.2%} and {alert.high:.2%} are to be expected.
"""


def _quality(manifest: Manifest) -> str:
    figures = ((name, _figure(value)) for name, value in manifest.metrics.items() if not isinstance(value, dict))
    return f"""## How good it is

{_table(("figure", "value"), figures)}
{_single_count(manifest)}
![ROC, precision and recall, calibration]({QUALITY_FILE})
"""


def _shares(contributions: npt.NDArray[np.float64]) -> str:
    mean = np.abs(contributions).mean(axis=0)
    total = max(float(mean.sum()), 1e-12)
    strongest = np.argsort(-mean, kind="stable")[:_FEATURES_TOLD]
    shares = ((FEATURE_NAMES[column], f"{mean[column] / total:.1%}") for column in strongest if mean[column] > 0)
    return f"""## What it looks at

Shares of the mean absolute contribution to the log odds.

{_table(("feature", "share"), shares)}

![Contributions of the features]({CONTRIBUTIONS_FILE})
"""


def _drift(manifest: Manifest) -> str:
    return f"""## How its score moved

Over the rows that calibrate, {_day(manifest.calibration_window[0])} to {_day(manifest.calibration_window[1])}.

![Score quantiles, alert rate and population stability over time]({DRIFT_FILE})
"""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["|".join(("", *(f" {cell} " if cell else " " for cell in cells), "")) for cells in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)


def _single_count(manifest: Manifest) -> str:
    best = manifest.metrics["best_single_count"]
    if best is None:
        return ""
    return (
        f"\nThe best single count, {best['feature']}, ranks the same rows with an AUC of {best['auc']:.4f}:"
        " what a rule of one line would do.\n"
    )


def _day(moment: str) -> str:
    return moment[:10]


def _figure(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(f"{part:.4f}" for part in value)
    if isinstance(value, float):
        return f"{value:.4f}"
    return "not defined" if value is None else f"{value:,}"
