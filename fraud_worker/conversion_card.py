"""The conversion model's card: what people should know of it before they let it move money, with a plot.

Knows a manifest, the latest rows and how to say it. Must not change any of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fraud_worker import card_plots
from fraud_worker.conversion import ConversionManifest

CARD_FILE: Final = "model-card.md"
RELIABILITY_FILE: Final = "model-card-reliability.png"
_FIGURES: Final = ("auc", "auc_ci95", "cells_auc", "brier", "cells_brier", "brier_skill", "ece", "calibration_slope")


def write(
    out: Path,
    manifest: ConversionManifest,
    labels: npt.NDArray[np.int8],
    scores: npt.NDArray[np.float64],
    cells: Sequence[str],
) -> None:
    """Writes the card and its plot into `out`: `scores` of the latest rows beside what came of them."""
    card_plots.conversions(out / RELIABILITY_FILE, labels, scores, cells)
    (out / CARD_FILE).write_text(_text(manifest))


def _text(manifest: ConversionManifest) -> str:
    support = "\n".join(f"| {name} | {count:,} |" for name, count in manifest.support.items())
    slices = "\n".join(f"| {name} | {part['rows']:,} | {part['positives']:,} |" for name, part in manifest.rows.items())
    figures = "\n".join(f"| {name} | {_figure(manifest.metrics.get(name))} |" for name in _FIGURES)
    return f"""# Conversion model {manifest.version}

{manifest.trees} boosted trees over the features of registry {manifest.feature_registry}, the disposition and the
segment. They say how probable it is that the owner of a card that is taken back pays again within
{manifest.mature_days:g} days. Trained by

    {manifest.command}

## What it cannot do

- It has seen what followed the dispositions that were taken, and never what would have followed another. Cells without
  support are left to the policy's prior.
- What it learns goes together; it need not cause. That it says more of a disposition may be that better owners got it.
- Its probabilities hold for owners and offers as they were until {manifest.data_window[1][:10]}.

## Data

Recycles from {manifest.data_window[0][:10]} to {manifest.data_window[1][:10]}, each at least
{manifest.mature_days:g} days old when its log ended; of younger ones those who pay again are known first.

| rows that | rows | paid again |
|---|---|---|
{slices}

| segment/disposition | support |
|---|---|
{support}

## How good it is

On the latest rows, by trees and a calibration from before. `cells_*` is what the mean rate of segment and disposition
alone would do.

| figure | value |
|---|---|
{figures}

![Reliability, and the rate by segment and disposition]({RELIABILITY_FILE})
"""


def _figure(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(f"{part:.4f}" for part in value)
    return f"{value:.4f}" if isinstance(value, float) else "not defined"
