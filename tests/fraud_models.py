"""Small models of the worker's registry, trained in a moment on noise: each seed is another model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fraud_worker import identity
from fraud_worker.__main__ import DEFAULT_MODEL
from fraud_worker.conversion import ConversionManifest
from fraud_worker.conversion_inputs import INPUT_NAMES, cell, cells
from fraud_worker.registry import FEATURE_NAMES, REGISTRY_NAME, registry_sha256
from fraud_worker.scorer import MANIFEST_FILE, MODEL_FILE, Calibration

TREES = 10


def noise(rows: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Rows within every feature's range, a quarter of their values unknown."""
    return np.random.default_rng(seed).choice([np.nan, 0.0, 0.5, 1.0], (rows, len(FEATURE_NAMES)))


def write_model(folder: Path, seed: int = 1, **manifest: Any) -> str:
    """Writes a model folder; returns the model's version. `manifest` replaces what the manifest would say."""
    import lightgbm as lgb

    rows = noise(400, seed)
    labels = (np.nan_to_num(rows[:, :5]).sum(axis=1) + np.random.default_rng(seed).random(400) > 2.5).astype(int)
    parameters = {"objective": "binary", "num_leaves": 7, "seed": seed, "verbose": -1, "num_threads": 1}
    data = lgb.Dataset(rows, labels, feature_name=list(FEATURE_NAMES))
    content = lgb.train(parameters, data, num_boost_round=TREES).model_to_string().encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(content)
    described = json.loads((DEFAULT_MODEL / MANIFEST_FILE).read_text())
    sha256 = hashlib.sha256(content).hexdigest()
    return _seal(folder, described | {"model_sha256": sha256, "trees": TREES, "self_test": []} | manifest)


def write_conversion_model(folder: Path, seed: int = 1, **manifest: Any) -> str:
    """Writes the folder of a model of conversions, which knows every segment and disposition; returns its version."""
    import lightgbm as lgb

    draw = np.random.default_rng(seed)
    rows = draw.choice([np.nan, 0.0, 1.0], (600, len(INPUT_NAMES)))
    likely = 0.2 + 0.5 * np.nan_to_num(rows[:, INPUT_NAMES.index("segment_middle")])
    labels = (draw.random(600) < likely).astype(int)
    parameters = {"objective": "binary", "num_leaves": 7, "seed": seed, "verbose": -1, "num_threads": 1}
    data = lgb.Dataset(rows, labels, feature_name=list(INPUT_NAMES))
    content = lgb.train(parameters, data, num_boost_round=TREES).model_to_string().encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(content)
    described = ConversionManifest(
        version="",
        model_sha256=hashlib.sha256(content).hexdigest(),
        feature_registry=REGISTRY_NAME,
        feature_registry_sha256=registry_sha256(),
        inputs=INPUT_NAMES,
        train_time="2026-01-01T00:00:00+00:00",
        command="by hand",
        seed=seed,
        mature_days=90.0,
        data_window=("2025-01-01T00:00:00+00:00", "2025-12-31T00:00:00+00:00"),
        rows={},
        support={cell(*each): 600 for each in cells()},
        trees=TREES,
        calibration=Calibration(method="platt", slope=1.0, intercept=0.0),
        metrics={},
        libraries={},
    )
    return _seal(folder, msgspec.to_builtins(described) | manifest)


def replace_trees(folder: Path, content: bytes) -> str:
    """Other trees in the model in `folder`, hash and version to match; returns the version."""
    (folder / MODEL_FILE).write_bytes(content)
    return rewrite(folder, model_sha256=hashlib.sha256(content).hexdigest())


def rewrite(folder: Path, **changes: Any) -> str:
    """Another manifest for the trees in `folder`, under the version that follows from it, which is returned."""
    return _seal(folder, json.loads((folder / MANIFEST_FILE).read_text()) | changes)


def _seal(folder: Path, fields: dict[str, Any]) -> str:
    sealed = identity.sealed(fields)
    (folder / MANIFEST_FILE).write_bytes(identity.written(sealed))
    return str(sealed["version"])
