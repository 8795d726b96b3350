"""Challengers score in the shadow: a share of the batches, bounded, and never at the champion's cost."""

import asyncio
import subprocess
import sys
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


COUNTED = """
import asyncio, sys
from pathlib import Path
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))

from fraud_worker.shadow import Shadows
from tests.unit.test_fraud_shadow import ROWS, Failing, like

async def main():
    shadows = Shadows()
    failing = like(Failing, Path(sys.argv[1]))
    for _ in range(3):
        await shadows.scores([failing], ROWS, 60.0)
    shadows.close()

asyncio.run(main())
found = {
    metric.name: sum(point.value for point in metric.data.data_points)
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics
    for metric in scope.metrics
}
print(found["fraud.shadow.failures"])
"""


def test_every_failure_is_counted(folder: Path) -> None:
    """The log tells it once, the metric each time. In a process of its own, for a process has one meter provider."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["3"], done.stderr
