"""Expectations: what serving should see, if the world stays as it was in training.

Knows fixed bins, population stability and the band of the alert rate. Must not know what a feature means, nor who is
told when the world has changed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fraud_worker.scorer import AlertRate, Bins

_BINS_MAX: Final = 10
_SHARE_MIN: Final = 1e-4
_ABOVE_A_CONSTANT: Final = 1e-6
_BOOTSTRAPS: Final = 1_000
_Z95: Final = 1.959964
_DAY_US: Final = 86_400_000_000

Values = npt.NDArray[np.float64]


def binned(values: Values) -> Bins:
    """Deciles of `values` where they differ; a value that fills whole deciles gets a bin that ends right above it."""
    known = values[~np.isnan(values)]
    edges: list[float] = []
    if len(known):
        deciles = np.unique(np.quantile(known, np.arange(1, _BINS_MAX) / _BINS_MAX, method="lower"))
        least = known.min()
        # Rounded, for nobody reads seventeen digits; what rounding brings together is one edge.
        edges = sorted({float(f"{edge:.6g}") for edge in deciles if edge > least})
        if not edges:
            above = known[known > least]
            edges = [float(above.min() if len(above) else least + _ABOVE_A_CONSTANT)]
    empty = Bins(edges=edges, shares=[0.0] * (len(edges) + 1), unknown=0.0)
    shares = empty.counts(values) / max(1, len(values))
    return Bins(
        edges=edges, shares=[round(float(share), 6) for share in shares[:-1]], unknown=round(float(shares[-1]), 6)
    )


def stability(expected: Bins, values: Values) -> float:
    """The population stability index of `values`; by custom, below 0.1 is calm and above 0.25 a change.

    Both shares are held above 0.0001, so that an empty bin gives a large number and not an infinite one.
    """
    before = np.maximum([*expected.shares, expected.unknown], _SHARE_MIN)
    now = np.maximum(expected.counts(values) / max(1, len(values)), _SHARE_MIN)
    return float(np.sum((now - before) * np.log(now / before)))


def alert_rate(alerts: npt.NDArray[np.bool_], times_us: npt.NDArray[np.int64]) -> AlertRate:
    """The share of `alerts` and its band; days are drawn whole, for abuse comes in waves. Deterministic."""
    share = float(alerts.mean())
    low, high = _wilson(share, len(alerts))
    days = np.unique(times_us // _DAY_US, return_inverse=True)[1]
    rows = np.bincount(days).astype(np.float64)
    hits = np.bincount(days, weights=alerts)
    draws = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), _BOOTSTRAPS)
    drawn = (draws @ hits) / (draws @ rows)
    return AlertRate(
        share=share,
        low=min(low, float(np.quantile(drawn, 0.025))),
        high=max(high, float(np.quantile(drawn, 0.975))),
        rows=len(alerts),
    )


def _wilson(share: float, rows: int) -> tuple[float, float]:
    """E. B. Wilson, "Probable inference", 1927."""
    z2 = _Z95**2 / rows
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z95 / (1 + z2) * np.sqrt(share * (1 - share) / rows + z2 / (4 * rows))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
