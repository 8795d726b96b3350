"""Fitting: what a row's weight does to the trees."""

from dataclasses import replace

import numpy as np
import polars as pl

from fraud_worker.fitting import fit
from tests.judged import judged


def test_weights_change_what_is_learnt() -> None:
    """Where each row of abuse stands for twenty, the same rows look more suspicious to the trees."""
    draw = np.random.default_rng(0)
    counts = draw.integers(0, 6, 300).astype(float)
    labels = (draw.random(300) < 0.1 + 0.1 * counts).astype(int).tolist()
    plain = judged(labels, {"device_accounts_24h": counts.tolist()})
    weight = pl.Series("weight", np.where(plain.labels == 1, 20.0, 1.0))
    weighted = replace(plain, events=plain.events.with_columns(weight))
    raw, heavier = (fit(rows, seed=0).raw(plain.features) for rows in (plain, weighted))
    assert (heavier > raw).mean() > 0.95
