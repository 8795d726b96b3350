"""Training the conversion model: event logs with outcomes become a model folder.

Knows LightGBM, the order of time, and what the folder holds. Must not know how features are computed, what a conversion
is worth, or what the prior is.

As for the model of abuse, three sets of trees are grown: the first, on the oldest rows, says on the next ones how many
trees are enough; the second adds those; both have so scored later rows than any they saw, by which the probabilities
are calibrated, and judged on the latest alone. The third, on all rows, is the model.

What it cannot know: what owners would have done after another disposition than the one that was taken. Where the best
one is always taken the others gain no support, and the prior rules there.
"""

from __future__ import annotations

import hashlib
import shlex
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import msgspec
import numpy as np
import numpy.typing as npt

from fraud_worker import calibration, conversion_card, evaluation, identity, probe
from fraud_worker.conversion import ConversionManifest
from fraud_worker.conversion_inputs import DISPOSITIONS, INPUT_NAMES, SEGMENTS, Matrix, Numbers, cell, matrix
from fraud_worker.event_log import JudgedRows, converted_rows
from fraud_worker.fitting import TrainingError
from fraud_worker.registry import REGISTRY_NAME, registry_sha256
from fraud_worker.scorer import MANIFEST_FILE, MODEL_FILE, Calibration

MATURE: Final = timedelta(days=90)

_FIT_SHARE: Final = 0.7
_STOP_SHARE: Final = 0.15
_OF_EACH_KIND_MIN: Final = 30
"""In each slice: with fewer the calibration is chance."""
_TREES_MAX: Final = 400
_TREES_WITHOUT_GAIN: Final = 30
_TREES_MIN: Final = 10

_PARAMETERS: Final = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 16,
    "min_data_in_leaf": 100,
    "lambda_l2": 10.0,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "max_bin": 127,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}

Labels = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Recycles as a model sees them, and what came of them, in the order of time."""

    inputs: Matrix
    labels: Labels
    cells: Sequence[str]
    """Segment and disposition of each; see `conversion_inputs.cell`."""

    @classmethod
    def of(cls, rows: JudgedRows) -> Questions:
        """The questions that serving would have asked about the dispositions that were taken."""
        dispositions = _numbers(rows, "disposition", DISPOSITIONS)
        segments = _numbers(rows, "segment", SEGMENTS)
        names = [cell(segment, disposition) for segment, disposition in zip(segments, dispositions, strict=True)]
        return cls(inputs=matrix(rows.features, dispositions, segments), labels=rows.labels, cells=names)

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, begin: int, end: int) -> Questions:
        """Those from place `begin` to `end`, exclusive."""
        return Questions(inputs=self.inputs[begin:end], labels=self.labels[begin:end], cells=self.cells[begin:end])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Trees, what makes their scores probabilities, and how those fared on the latest rows, which they had not seen."""

    booster: lgb.Booster
    calibration: Calibration
    judged: Questions
    judged_scores: Matrix
    cell_scores: Matrix
    """The same rows by the mean rate of segment and disposition."""
    calibrated: int
    parameters: dict[str, Any]


def train(logs: Sequence[Path], out: Path, *, mature: timedelta = MATURE, seed: int = 0) -> ConversionManifest:
    """Trains on the recycles of `logs` that are `mature`, and writes the folder `out`; deterministic by `seed`.

    Raises `TrainingError` and `EventLogError`.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise TrainingError(f"{out} cannot be written to: {error.strerror}") from error
    rows = converted_rows(logs, mature=mature)
    questions = Questions.of(rows)
    fitted = fit(questions, seed)
    content = fitted.booster.model_to_string().encode()
    days = mature / timedelta(days=1)
    times = rows.events["event_time"]
    draft = ConversionManifest(
        version="",  # follows from all the rest
        model_sha256=hashlib.sha256(content).hexdigest(),
        feature_registry=REGISTRY_NAME,
        feature_registry_sha256=registry_sha256(),
        inputs=INPUT_NAMES,
        train_time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=_command(logs, days, seed),
        seed=seed,
        mature_days=days,
        data_window=[moment.isoformat() for moment in (times[0], times[-1])],
        rows={
            "trained": {"rows": len(questions), "positives": int(questions.labels.sum())},
            "calibrated": {"rows": fitted.calibrated, "positives": int(questions.labels[-fitted.calibrated :].sum())},
            "judged": {"rows": len(fitted.judged), "positives": int(fitted.judged.labels.sum())},
        },
        support=dict(sorted(Counter(questions.cells).items())),
        trees=fitted.booster.num_trees(),
        calibration=fitted.calibration,
        metrics=_metrics(fitted, rows),
        libraries={name: version(name) for name in ("lightgbm", "numpy", "polars", "scikit-learn", "scipy")},
        parameters=fitted.parameters,
        self_test=_raw(fitted.booster, probe.rows("conversion")).tolist(),
    )
    fields = identity.sealed(msgspec.to_builtins(draft))
    manifest = msgspec.convert(fields, ConversionManifest)
    (out / MODEL_FILE).write_bytes(content)
    (out / MANIFEST_FILE).write_bytes(identity.written(fields))
    conversion_card.write(out, manifest, fitted.judged.labels, fitted.judged_scores, fitted.judged.cells)
    return manifest


def _command(logs: Sequence[Path], days: float, seed: int) -> str:
    events = [part for log in logs for part in ("--events", log.name)]
    options = ["--mature-days", f"{days:g}", "--seed", str(seed)]
    return shlex.join(["fraud-worker", "train-conversion", *events, *options, "--out", "DIR"])


def fit(questions: Questions, seed: int) -> Fitted:
    """Trees and calibration for mature `questions`, which are in the order of time. Raises `TrainingError`."""
    first, second = int(len(questions) * _FIT_SHARE), int(len(questions) * (_FIT_SHARE + _STOP_SHARE))
    oldest, next_, latest = (
        questions.part(0, first),
        questions.part(first, second),
        questions.part(second, len(questions)),
    )
    for part in (oldest, next_, latest):
        positives = int(part.labels.sum())
        if min(positives, len(part) - positives) < _OF_EACH_KIND_MIN:
            raise TrainingError(
                f"{len(questions)} recycles are old enough; in the order of time, 70, 15 and 15 % of them must each"
                f" hold {_OF_EACH_KIND_MIN} whose owners paid again, and as many whose did not"
            )
    parameters = _PARAMETERS | {"seed": seed}
    growing = _grown(oldest, parameters, _TREES_MAX, stop=next_)
    trees = max(_TREES_MIN, growing.best_iteration)
    before = questions.part(0, second)
    raw_next = _raw(growing, next_.inputs, trees)
    raw_latest = _raw(_grown(before, parameters, trees), latest.inputs)
    then = calibration.fitted(raw_next, next_.labels)
    later = np.concatenate([next_.labels, latest.labels])
    return Fitted(
        booster=_grown(questions, parameters, trees),
        calibration=calibration.fitted(np.concatenate([raw_next, raw_latest]), later),
        judged=latest,
        judged_scores=then.probabilities(raw_latest),
        cell_scores=_rates(before, latest),
        calibrated=len(later),
        parameters=parameters,
    )


def _metrics(fitted: Fitted, rows: JudgedRows) -> dict[str, Any]:
    accounts = rows.events["account_id"].tail(len(fitted.judged))
    by_cells = evaluation.metrics(fitted.judged.labels, fitted.cell_scores, accounts)
    return evaluation.metrics(fitted.judged.labels, fitted.judged_scores, accounts) | {
        "cells_auc": by_cells["auc"],
        "cells_brier": by_cells["brier"],
    }


def _rates(before: Questions, latest: Questions) -> Matrix:
    """For each of `latest`, the share of its cell that had converted `before`; of all, where the cell is new."""
    count, positive = (
        Counter(before.cells),
        Counter(name for name, label in zip(before.cells, before.labels, strict=True) if label),
    )
    overall = float(before.labels.mean())
    return np.array([positive[name] / count[name] if count[name] else overall for name in latest.cells])


def _numbers(rows: JudgedRows, column: str, words: Sequence[str]) -> Numbers:
    numbers = {word: place for place, word in enumerate(words, 1)}
    return np.array([numbers.get(word, 0) for word in rows.events[column]], dtype=np.int64)


def _grown(
    questions: Questions, parameters: dict[str, Any], trees: int, *, stop: Questions | None = None
) -> lgb.Booster:
    data = lgb.Dataset(questions.inputs, questions.labels, feature_name=list(INPUT_NAMES), params=parameters)
    if stop is None:
        return lgb.train(parameters, data, num_boost_round=trees)
    return lgb.train(
        parameters,
        data,
        num_boost_round=trees,
        valid_sets=[lgb.Dataset(stop.inputs, stop.labels, reference=data)],
        callbacks=[lgb.early_stopping(_TREES_WITHOUT_GAIN, verbose=False)],
    )


def _raw(booster: lgb.Booster, inputs: Matrix, trees: int | None = None) -> Matrix:
    return np.asarray(booster.predict(inputs, raw_score=True, num_iteration=trees, num_threads=1), dtype=np.float64)
