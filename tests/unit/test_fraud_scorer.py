"""The scorer: which model folders and which rows it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fraud_worker.__main__ import DEFAULT_MODEL
from fraud_worker.registry import FEATURE_NAMES
from fraud_worker.scorer import MANIFEST_FILE, MODEL_FILE, Model, ModelRefused, RowsRefused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model's folder."""
    return Path(shutil.copytree(DEFAULT_MODEL, tmp_path / "model"))


def rewrite(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | changes))


def test_changed_model_file_is_refused(folder: Path) -> None:
    """One changed byte of the trees is noticed before they are parsed."""
    content = bytearray((folder / MODEL_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / MODEL_FILE).write_bytes(content)
    with pytest.raises(ModelRefused, match="SHA-256"):
        Model.load(folder)


@pytest.mark.parametrize("change", [{"feature_registry_sha256": "0" * 64}, {"feature_registry": "v0"}])
def test_model_of_another_registry_is_refused(folder: Path, change: dict[str, str]) -> None:
    """A model whose features have another name or definition never scores these rows."""
    rewrite(folder, **change)
    with pytest.raises(ModelRefused, match="registry"):
        Model.load(folder)


def test_folder_without_a_manifest_is_refused(folder: Path) -> None:
    """A model without its manifest is no model."""
    (folder / MANIFEST_FILE).unlink()
    with pytest.raises(ModelRefused, match="not a model folder"):
        Model.load(folder)


def test_thresholds_out_of_order_are_refused(folder: Path) -> None:
    """HIGH never begins below MEDIUM."""
    rewrite(folder, thresholds={"medium": 0.5, "high": 0.4, "rule": ""})
    with pytest.raises(ModelRefused, match="thresholds"):
        Model.load(folder)


@pytest.mark.parametrize("value", [np.inf, -np.inf, -1.0, 201.0])
def test_row_with_a_value_out_of_range_is_refused(value: float) -> None:
    """The refusal names the row and the feature."""
    rows = np.full((3, len(FEATURE_NAMES)), np.nan)
    rows[1, 0] = value
    with pytest.raises(RowsRefused) as refused:
        Model.load(DEFAULT_MODEL).score(rows)
    assert (refused.value.row, refused.value.feature) == (1, FEATURE_NAMES[0])


def test_rows_of_another_width_are_refused() -> None:
    """A matrix of other features is a defect of the caller, not a row to score."""
    with pytest.raises(ValueError, match="expected rows"):
        Model.load(DEFAULT_MODEL).score(np.zeros((1, 3)))


def test_score_does_not_depend_on_the_batch() -> None:
    """A row gets the same score alone and among others."""
    model = Model.load(DEFAULT_MODEL)
    rows = np.random.default_rng(0).choice([np.nan, 0.0, 1.0], (50, len(FEATURE_NAMES)))
    together = model.score(rows)
    assert together.tolist() == [model.score(row[None, :])[0] for row in rows]


def test_more_accounts_on_the_device_never_lower_the_score() -> None:
    """The trees keep the registry's directions."""
    model = Model.load(DEFAULT_MODEL)
    rows = np.random.default_rng(1).choice([np.nan, 0.0, 1.0], (200, len(FEATURE_NAMES)))
    for name in ("device_accounts_1h", "device_accounts_30d", "account_recycles_24h", "captcha_failures"):
        column = FEATURE_NAMES.index(name)
        fewer, more = rows.copy(), rows.copy()
        fewer[:, column], more[:, column] = 2, 9
        assert (model.score(more) >= model.score(fewer)).all(), name
