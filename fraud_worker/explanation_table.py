"""An explanation as a table for people, with a bar for what each feature adds. Knows rich; must not know models."""

from __future__ import annotations

from typing import Final

from rich.table import Table
from rich.text import Text

from fraud_worker.explanation import Explanation
from fraud_worker.scorer import Thresholds

_BAR_CELLS: Final = 16


def lines(explanation: Explanation, thresholds: Thresholds, title: str) -> tuple[Table, str]:
    """The table of all features that add anything, and what they come to."""
    table = Table("feature", "adds", "", "what is known", title=Text(title))
    parts = [part for part in explanation.contributions if part.contribution]
    greatest = max((abs(part.contribution) for part in parts), default=1.0)
    for part in parts:
        colour = "red" if part.contribution > 0 else "green"
        bar = "█" * round(_BAR_CELLS * abs(part.contribution) / greatest)
        table.add_row(part.feature, f"{part.contribution:+.3f}", Text(bar or "▏", colour), Text(part.sentence))
    silent = len(explanation.contributions) - len(parts)
    score = explanation.probability
    band = "HIGH" if score >= thresholds.high else "MEDIUM" if score >= thresholds.medium else "LOW"
    return table, (
        f"{silent} other features add nothing. Base value {explanation.base_value:+.3f}, all together"
        f" {explanation.raw_score:+.3f} log odds, calibrated to a score of {score:.4f}: {band}"
        f" (MEDIUM from {thresholds.medium:.4f}, HIGH from {thresholds.high:.4f}). Model {explanation.model_version}."
    )
