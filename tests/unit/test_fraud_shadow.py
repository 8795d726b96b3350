"""Challengers score in the shadow: a share of the batches, bounded, and never at the champion's cost."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fraud_worker.scorer import Model
from fraud_worker.shadow import PENDING_MAX, Shadows
from tests.fraud_models import noise, write_model

ROWS = noise(5)


class Failing(Model):
    """Fails."""

    def probabilities(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Always."""
        raise RuntimeError("planted")


class Slow(Model):
    """Scores when it is let go."""

    go = threading.Event()

    def probabilities(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Waits first."""
        assert self.go.wait(30)
        return super().probabilities(rows)


def like(kind: type[Model], folder: Path) -> Model:
    """The model in `folder` as one of another kind, which no self-test has seen."""
    model = kind.__new__(kind)
    model.__dict__.update(Model.load(folder).__dict__)
    return model


@asynccontextmanager
async def shadows_of(share: float = 1.0) -> AsyncIterator[Shadows]:
    shadows = Shadows(share)
    try:
        yield shadows
    finally:
        Slow.go.set()
        shadows.close()
        Slow.go.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A challenger's."""
    folder = tmp_path_factory.mktemp("challenger")
    write_model(folder, 7)
    return folder


async def asked(shadows: Shadows, challengers: Sequence[Model], time_left_s: float = 60.0) -> list[str]:
    """Who gave scores, which must be the model's own."""
    found = []
    for model, scores in await shadows.scores(challengers, ROWS, time_left_s):
        assert scores == Model.probabilities(model, ROWS).tolist()
        found.append(model.version)
    return found


async def test_all_challengers_score_the_same_rows(folder: Path) -> None:
    """In the order in which they were given. On a busy machine that may take several calls: late ones are dropped."""
    challenger = Model.load(folder)
    async with shadows_of() as shadows:
        for _ in range(100):
            found = await asked(shadows, [challenger, challenger])
            if found:
                break
    assert found == [challenger.version] * 2


async def test_share_of_the_batches(folder: Path) -> None:
    """A quarter is every fourth; none is none."""
    slow = like(Slow, folder)
    async with shadows_of(0.25) as shadows:
        due = [shadows._is_due() for _ in range(8)]
    assert due == [False, False, False, True] * 2
    async with shadows_of(0.0) as shadows:
        assert not any([await asked(shadows, [slow]) for _ in range(3)])


async def test_failing_challenger_is_left_out_and_logged_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others' scores come all the same."""
    failing, good = like(Failing, folder), Model.load(folder)
    found: list[str] = []
    async with shadows_of() as shadows:
        for _ in range(100):
            found += await asked(shadows, [failing, good])
    assert set(found) == {good.version}
    assert [record.message for record in caplog.records] == [f"challenger {failing.version} failed"]


async def test_late_challenger_is_dropped(folder: Path) -> None:
    """A batch does not wait for who takes long, and those after it neither."""
    slow = like(Slow, folder)
    async with shadows_of() as shadows:
        for _ in range(PENDING_MAX + 3):
            assert await asyncio.wait_for(asked(shadows, [slow]), 30) == []
        assert shadows._pending == PENDING_MAX
