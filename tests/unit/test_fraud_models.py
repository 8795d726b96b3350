"""The shelf of models: a good one is taken, a bad one is refused, and the one before goes on."""

import logging
import shutil
from pathlib import Path

import pytest

from fraud_worker.models import Models, ModelShelf
from fraud_worker.scorer import MODEL_FILE
from tests.fraud_models import write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with model 1."""
    write_model(tmp_path / "model", 1)
    return tmp_path / "model"


@pytest.fixture
def shelf(folder: Path) -> ModelShelf:
    """A shelf that has taken it."""
    shelf = ModelShelf(folder)
    shelf.look(at_once=True)
    return shelf


def version(models: Models) -> str:
    """The champion's."""
    assert models.champion is not None
    return models.champion.model.version


def settle(shelf: ModelShelf) -> bool:
    """Looks twice, since what has just changed is left alone once; whether that changed anything."""
    return any([shelf.look(), shelf.look()])


def test_unchanged_folder_is_read_once(shelf: ModelShelf) -> None:
    """Nothing happens while nothing changes."""
    before = shelf.models
    assert not settle(shelf)
    assert shelf.models is before


def test_renamed_folder_takes_the_place(shelf: ModelShelf, folder: Path, tmp_path: Path) -> None:
    """A folder that was prepared beside the old one and renamed into its place is taken."""
    other = write_model(tmp_path / "new", 2)
    folder.rename(tmp_path / "old")
    (tmp_path / "new").rename(folder)
    assert settle(shelf)
    assert version(shelf.models) == other


def test_link_to_another_folder_takes_the_place(tmp_path: Path) -> None:
    """A link that is replaced in one step is followed to the new model."""
    versions = [write_model(tmp_path / name, seed) for seed, name in ((1, "a"), (2, "b"))]
    link, new_link = tmp_path / "current", tmp_path / "next"
    link.symlink_to("a")
    shelf = ModelShelf(link)
    shelf.look(at_once=True)
    new_link.symlink_to("b")
    new_link.rename(link)
    assert settle(shelf)
    assert version(shelf.models) == versions[1]


def test_rewritten_manifest_is_taken(shelf: ModelShelf, folder: Path) -> None:
    """The same trees with other thresholds are another model in use."""
    write_model(folder, 1, thresholds={"medium": 0.3, "high": 0.6, "rule": "by hand"})
    assert settle(shelf)
    assert shelf.models.champion is not None
    assert shelf.models.champion.model.manifest.thresholds.medium == 0.3


def test_folder_that_still_changes_is_left_alone(shelf: ModelShelf, folder: Path) -> None:
    """A model that is being copied is neither refused nor taken half-way."""
    before = version(shelf.models)
    content = (folder / MODEL_FILE).read_bytes()
    for length in (10, 20):
        (folder / MODEL_FILE).write_bytes(content[:length])
        assert not shelf.look()
    assert (version(shelf.models), shelf.models.refused) == (before, ())
    other = write_model(folder, 2)
    assert settle(shelf)
    assert version(shelf.models) == other


def test_bad_model_is_refused_once_and_the_old_one_goes_on(
    shelf: ModelShelf, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Why is logged once, and kept for who asks, until a good one comes."""
    before = version(shelf.models)
    with (folder / MODEL_FILE).open("ab") as file:
        file.write(b"\n")
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            shelf.look()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    (refused,) = shelf.models.refused
    assert "SHA-256 differs" in refused.why and refused.folder == folder
    assert version(shelf.models) == before
    other = write_model(folder, 3)
    assert settle(shelf)
    assert (version(shelf.models), shelf.models.refused) == (other, ())


def test_vanished_folder_leaves_the_model_in_use(shelf: ModelShelf, folder: Path) -> None:
    """What is loaded needs its folder no more."""
    before = version(shelf.models)
    shutil.rmtree(folder)
    assert settle(shelf)
    assert version(shelf.models) == before
    assert "not a model folder" in shelf.models.refused[0].why


def test_look_at_once_waits_for_nothing(shelf: ModelShelf, folder: Path) -> None:
    """As SIGHUP asks for."""
    other = write_model(folder, 2)
    assert shelf.look(at_once=True)
    assert version(shelf.models) == other


def test_models_of_a_moment_stay_as_they_are(shelf: ModelShelf, folder: Path) -> None:
    """Who has the models of one request never sees a newer one among them."""
    held = shelf.models
    before = version(held)
    write_model(folder, 2)
    settle(shelf)
    assert version(held) == before != version(shelf.models)


def test_former_champion_can_still_be_asked_about(shelf: ModelShelf, folder: Path) -> None:
    """Scores given just before a reload can be explained just after it; those of the one before that cannot."""
    versions = [version(shelf.models)]
    for seed in (2, 3):
        versions.append(write_model(folder, seed))
        settle(shelf)
    found = [shelf.models.of_version(each) for each in versions]
    assert [model and model.version for model in found] == [None, *versions[1:]]
    assert shelf.models.of_version("") is shelf.models.of_version(versions[-1])


def test_challengers_have_folders_of_their_own(folder: Path, tmp_path: Path) -> None:
    """A bad challenger is refused alone, and a new one is taken alone."""
    challenger = write_model(tmp_path / "challenger", 5)
    shelf = ModelShelf(folder, [tmp_path / "challenger", tmp_path / "missing"])
    shelf.look(at_once=True)
    assert [loaded.model.version for loaded in shelf.models.challengers] == [challenger]
    assert [refused.folder.name for refused in shelf.models.refused] == ["missing"]
    champion = shelf.models.champion
    late = write_model(tmp_path / "missing", 6)
    assert settle(shelf)
    assert [loaded.model.version for loaded in shelf.models.challengers] == [challenger, late]
    assert shelf.models.champion is champion
