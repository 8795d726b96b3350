"""Fitting: mature rows become trees and a calibration, in memory.

Knows LightGBM, the order of time, and which rows which trees have not seen. Must not know logs, files or thresholds.

Three sets of trees are grown. The first, on the oldest rows, says on the next ones how many trees are enough. The
second adds those, and so both have scored rows later than any they saw: by these the scores are calibrated and judged.
The third, on all rows, is the model, for the latest rows are worth most.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import polars as pl

from fraud_worker import attacks, calibration
from fraud_worker.event_log import JudgedRows
from fraud_worker.registry import FEATURE_NAMES, FEATURES
from fraud_worker.scorer import Calibration

_FIT_SHARE: Final = 0.7
_STOP_SHARE: Final = 0.15
_OF_EACH_KIND_MIN: Final = 3
_OF_EACH_KIND_IN_SLICE_MIN: Final = 10
_FOLDS: Final = 3
_SETTLED_QUANTILE: Final = 0.95

_TREES_MAX: Final = 600
_TREES_WITHOUT_GAIN: Final = 40
_TREES_MIN: Final = 60
_TREES_UNTOLD: Final = 150
"""How many where no later slice can tell."""
_LEAF_ROWS_MIN: Final = 100

_PARAMETERS: Final = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 16,
    "lambda_l2": 5.0,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "max_bin": 127,
    # "advanced" breaks constraints now and then (LightGBM issues 5358, 6155).
    "monotone_constraints_method": "intermediate",
    "deterministic": True,
    "force_row_wise": True,
    # Another number adds in another order; and on a busy machine, two that wait for each other are slower than one.
    "num_threads": 1,
    "verbosity": -1,
}

Scores = npt.NDArray[np.float64]


class TrainingError(ValueError):
    """The logs do not hold what training needs; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """Rows, and what trees that had not seen them made of them."""

    rows: JudgedRows
    raw: Scores
    """Log odds before calibration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """The latest rows as the model would have scored them then: by trees and a calibration from before."""

    rows: JudgedRows
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Trees and all that is known of their scores."""

    booster: lgb.Booster
    content: bytes
    """The trees as LightGBM's text."""
    calibration: Calibration
    unseen: Unseen
    """What calibrates: for the order of time, the later rows."""
    backtest: Backtest
    validation: str
    parameters: dict[str, Any]
    attack_copies: int

    def score(self, features: npt.NDArray[np.float64]) -> Scores:
        """Calibrated probabilities of abuse."""
        return self.calibration.probabilities(self.raw(features))

    def raw(self, features: npt.NDArray[np.float64]) -> Scores:
        """Log odds before calibration."""
        return _raw(self.booster, features)


def fit(rows: JudgedRows, seed: int) -> Fitted:
    """Trees for mature `rows`, which are in the order of time. Deterministic by `seed`. Raises `TrainingError`."""
    positives = int(rows.labels.sum())
    if _kinds_min(rows.labels) < _OF_EACH_KIND_MIN:
        raise TrainingError(
            f"{len(rows)} labels are older than the label delay, {positives} of them abuse;"
            f" training needs at least {_OF_EACH_KIND_MIN} of each kind"
        )
    parts = _slices(_settled(rows))
    if all(_kinds_min(part.labels) >= _OF_EACH_KIND_IN_SLICE_MIN for part in parts):
        trees, unseen, backtest = _forward(parts, seed)
        validation = (
            f"forward in time: trees of the oldest {_FIT_SHARE:.0%} score the next {_STOP_SHARE:.0%}, and trees of both"
            " the latest; the metrics are of the latest alone, calibrated on those before"
        )
    else:
        trees, unseen, backtest = _crossed(rows, seed)
        validation = (
            f"crossed over accounts in {_FOLDS} parts: a later slice would hold fewer than"
            f" {_OF_EACH_KIND_IN_SLICE_MIN} of a kind"
        )
    parameters = _parameters(rows, seed)
    copies = _copies(rows, seed)
    booster = _grown(rows, copies, parameters, trees)
    return Fitted(
        booster=booster,
        content=booster.model_to_string().encode(),
        calibration=calibration.fitted(unseen.raw, unseen.rows.labels),
        unseen=unseen,
        backtest=backtest,
        validation=validation,
        parameters=parameters,
        attack_copies=len(copies),
    )


def _settled(rows: JudgedRows) -> JudgedRows:
    """The rows old enough that 95 % of abuse is known to be abuse; of later ones, the honest are known first.

    All rows, where labels carry no time or hardly any row is so old.
    """
    times = rows.events["event_time"]
    lags = (rows.events["label_time"] - times).filter(pl.Series(rows.labels == 1)).drop_nulls()
    if lags.is_empty():
        return rows
    lag_us = float(np.quantile(lags.dt.total_microseconds().to_numpy(), _SETTLED_QUANTILE))
    last = times.max()
    assert isinstance(last, datetime)
    settled = rows.where((times <= last - timedelta(microseconds=lag_us)).to_numpy())
    return settled if len(settled) >= len(rows) / 2 else rows


def _slices(rows: JudgedRows) -> tuple[JudgedRows, JudgedRows, JudgedRows]:
    """Oldest to latest. Events of the same moment are never parted."""
    times = rows.events["event_time"].to_physical().to_numpy()
    first, second = (times[int(len(times) * share)] for share in (_FIT_SHARE, _FIT_SHARE + _STOP_SHARE))
    return (
        rows.where(times < first),
        rows.where((times >= first) & (times < second)),
        rows.where(times >= second),
    )


def _kinds_min(labels: npt.NDArray[np.int8]) -> int:
    positives = int(labels.sum())
    return min(positives, len(labels) - positives)


def _forward(parts: tuple[JudgedRows, JudgedRows, JudgedRows], seed: int) -> tuple[int, Unseen, Backtest]:
    oldest, next_, latest = parts
    first = _grown(oldest, _copies(oldest, seed), _parameters(oldest, seed), _TREES_MAX, stop=next_)
    # Logarithmic loss stops more steadily than AUC, which a few dozen positives throw about.
    trees = max(_TREES_MIN, first.best_iteration)
    before = _joined(oldest, next_)
    second = _grown(before, _copies(before, seed), _parameters(before, seed), trees)
    raw = np.concatenate([_raw(first, next_.features, trees), _raw(second, latest.features)])
    then = calibration.fitted(raw[: len(next_)], next_.labels)
    return (
        trees,
        Unseen(rows=_joined(next_, latest), raw=raw),
        Backtest(rows=latest, scores=then.probabilities(raw[len(next_) :])),
    )


def _crossed(rows: JudgedRows, seed: int) -> tuple[int, Unseen, Backtest]:
    """For small logs. Each account is in one part, unless a kind has too few accounts; and each kind in every part."""
    kinds = pl.DataFrame({"account": rows.events["account_id"], "label": rows.labels})
    accounts = kinds.group_by("account", maintain_order=True).agg(pl.col("label").max())
    per_part = pl.int_range(pl.len()).over("label") % _FOLDS
    if _kinds_min(accounts["label"].to_numpy()) < _FOLDS:
        part = kinds.select(per_part).to_series().to_numpy()
    else:
        parted = accounts.select("account", part=per_part)
        part = kinds.join(parted, on="account", how="left", maintain_order="left")["part"].to_numpy()
    raw = np.zeros(len(rows))
    for fold in range(_FOLDS):
        others = rows.where(part != fold)
        booster = _grown(others, _copies(others, seed), _parameters(others, seed), _TREES_UNTOLD)
        raw[part == fold] = _raw(booster, rows.features[part == fold])
    scores = calibration.fitted(raw, rows.labels).probabilities(raw)
    return _TREES_UNTOLD, Unseen(rows=rows, raw=raw), Backtest(rows=rows, scores=scores)


def _joined(first: JudgedRows, second: JudgedRows) -> JudgedRows:
    return JudgedRows(
        features=np.concatenate([first.features, second.features]),
        labels=np.concatenate([first.labels, second.labels]),
        events=pl.concat([first.events, second.events]),
    )


def _copies(rows: JudgedRows, seed: int) -> attacks.Copies:
    return attacks.together(
        attacks.disguised(rows.features, rows.labels, seed=seed),
        attacks.excessive(rows.features, rows.labels, seed=seed),
        attacks.blanked(rows.features, rows.labels, rows.weights, seed=seed),
    )


def _parameters(rows: JudgedRows, seed: int) -> dict[str, Any]:
    # A small log needs small leaves.
    return _PARAMETERS | {"min_data_in_leaf": min(_LEAF_ROWS_MIN, max(5, len(rows) // 200)), "seed": seed}


def _grown(
    rows: JudgedRows, copies: attacks.Copies, parameters: dict[str, Any], trees: int, *, stop: JudgedRows | None = None
) -> lgb.Booster:
    constrained = parameters | {"monotone_constraints": [feature.direction for feature in FEATURES]}
    data = lgb.Dataset(
        np.concatenate([rows.features, copies.features]),
        np.concatenate([rows.labels, copies.labels]),
        weight=np.concatenate([rows.weights, copies.weights]),
        feature_name=list(FEATURE_NAMES),
        params=constrained,
    )
    if stop is None:
        return lgb.train(constrained, data, num_boost_round=trees)
    return lgb.train(
        constrained,
        data,
        num_boost_round=trees,
        valid_sets=[lgb.Dataset(stop.features, stop.labels, reference=data)],
        callbacks=[lgb.early_stopping(_TREES_WITHOUT_GAIN, verbose=False)],
    )


def _raw(booster: lgb.Booster, features: npt.NDArray[np.float64], trees: int | None = None) -> Scores:
    scores = booster.predict(features, raw_score=True, num_iteration=trees, num_threads=1)
    return np.asarray(scores, dtype=np.float64)
