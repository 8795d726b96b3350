"""The scorer: which model folders and which rows it refuses."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import pytest

from fraud_worker.__main__ import DEFAULT_MODEL
from fraud_worker.registry import FEATURE_NAMES
from fraud_worker.scorer import MANIFEST_FILE, MODEL_FILE, Model, ModelRefused, RowsRefused
from tests.fraud_models import replace_trees, rewrite


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model's folder."""
    return Path(shutil.copytree(DEFAULT_MODEL, tmp_path / "model"))


def test_changed_model_file_is_refused(folder: Path) -> None:
    """One changed byte of the trees is noticed before they are parsed."""
    content = bytearray((folder / MODEL_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / MODEL_FILE).write_bytes(content)
    with pytest.raises(ModelRefused, match="SHA-256"):
        Model.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": {"medium": 0.5, "high": 0.9, "rule": "by hand"}},
        {"calibration": {"method": "platt", "slope": 1.0, "intercept": 0.0}},
        {"a_field_of_nobody": 1},
    ],
)
def test_manifest_changed_under_its_old_version_is_refused(folder: Path, change: dict[str, Any]) -> None:
    """Other thresholds or another calibration are another model: the refusal names both versions."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | change))
    with pytest.raises(ModelRefused, match=f"changed after training: it says version {manifest['version']}"):
        Model.load(folder)
    version = rewrite(folder)
    assert Model.load(folder).version == version != manifest["version"]


def test_version_does_not_depend_on_how_the_manifest_is_laid_out(folder: Path) -> None:
    """Order and spaces say nothing, nor does the time of training: the same training gives the same version."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text()) | {"train_time": "2020-01-01T00:00:00+00:00"}
    (folder / MANIFEST_FILE).write_text(json.dumps(dict(reversed(manifest.items())), indent=3))
    assert Model.load(folder).version == Model.load(DEFAULT_MODEL).version


def test_trees_that_score_otherwise_than_told_are_refused(folder: Path) -> None:
    """A manifest tells what its trees make of the self-test's rows; a changed leaf shows."""
    content = (folder / MODEL_FILE).read_bytes()
    leaf = re.search(rb"leaf_value=(-?[0-9.]+)", content)
    assert leaf is not None
    replace_trees(folder, content[: leaf.start(1)] + b"-0.5" + content[leaf.start(1) + 4 :])
    with pytest.raises(ModelRefused, match="does not give the scores"):
        Model.load(folder)


def test_trees_are_as_many_as_told(folder: Path) -> None:
    """A manifest that counts other trees belongs to other ones."""
    rewrite(folder, trees=1)
    with pytest.raises(ModelRefused, match="tells of 1 trees"):
        Model.load(folder)


@pytest.mark.parametrize(
    "change", [{"train_time": "yesterday"}, {"score_bins": {"edges": [1], "shares": [1], "unknown": 0}}]
)
def test_manifest_that_would_fail_later_is_refused(folder: Path, change: dict[str, Any]) -> None:
    """What GetModel and MeasureHealth could not tell."""
    rewrite(folder, **change)
    with pytest.raises(ModelRefused, match=next(iter(change))):
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


@pytest.mark.parametrize("thresholds", [{"medium": 0.0, "high": 0.5}, {"medium": 0.5, "high": 1.5}])
def test_thresholds_out_of_range_are_refused(folder: Path, thresholds: dict[str, float]) -> None:
    """Everything MEDIUM, or nothing ever HIGH, is no model that the server would believe."""
    rewrite(folder, thresholds=thresholds | {"rule": ""})
    with pytest.raises(ModelRefused, match="thresholds"):
        Model.load(folder)


def test_file_that_is_no_model_is_refused(folder: Path) -> None:
    """A hash that fits does not make trees of noise."""
    replace_trees(folder, b"noise")
    with pytest.raises(ModelRefused, match="no LightGBM model"):
        Model.load(folder)


def test_model_of_fewer_columns_fails_its_self_test(folder: Path) -> None:
    """A manifest that claims this registry for trees of another width is found out before any request."""
    data = lgb.Dataset(np.random.default_rng(0).random((300, 3)), np.arange(300) % 2)
    trees = lgb.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, num_boost_round=2)
    replace_trees(folder, trees.model_to_string().encode())
    with pytest.raises(ModelRefused, match="its columns are not"):
        Model.load(folder)


def test_model_that_gives_no_probabilities_fails_its_self_test() -> None:
    """Trees that come to no number are found out before any request."""

    class Mad(Model):
        def raw(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return np.full(len(rows), np.nan)

    with pytest.raises(ModelRefused, match="does not give probabilities"):
        Mad.load(DEFAULT_MODEL)


@pytest.mark.parametrize(("slope", "intercept"), [(0.0, 0.0), (1e308, 0.0), (1.0, -1e308)])
def test_senseless_calibration_is_refused(folder: Path, slope: float, intercept: float) -> None:
    """A calibration that makes every score the same, or 0 and 1, is no calibration."""
    rewrite(folder, calibration={"method": "platt", "slope": slope, "intercept": intercept})
    with pytest.raises(ModelRefused, match="calibration"):
        Model.load(folder)
