"""The worker as a process whose models come and go: reload, refusals, challengers, and health without a model."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc as pb_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fraud_worker.registry import REGISTRY_NAME
from fraud_worker.scorer import MODEL_FILE, Model
from fraud_worker.serving import SERVICE
from tests.fraud_models import noise, write_model

PATIENCE_S = 30.0
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

Found = TypeVar("Found")


class Worker:
    """A worker process and a channel to it. `log` is its standard error."""

    def __init__(self, process: subprocess.Popen[str], channel: grpc.Channel, log: Path) -> None:
        self.process = process
        self.stub = pb_grpc.FraudScoringServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)
        self.log = log

    def score(self, rows: int = 3) -> pb.ScoreResponse:
        """The scores of rows of which nothing is known."""
        return self.stub.Score(pb.ScoreRequest(feature_registry=REGISTRY_NAME, row_count=rows), timeout=PATIENCE_S)

    def version(self) -> str:
        """The champion's."""
        return self.model().model_version

    def model(self) -> pb.GetModelResponse:
        """What is in use."""
        return self.stub.GetModel(pb.GetModelRequest(), timeout=PATIENCE_S)

    def status(self) -> int:
        """Health."""
        status: int = self.health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=PATIENCE_S).status
        return status


@contextlib.contextmanager
def worker(log: Path, model: Path, *flags: str) -> Iterator[Worker]:
    """A worker of the models in `model`."""
    command = [sys.executable, "-m", "fraud_worker", "serve", "--listen", "127.0.0.1:0", "--model", str(model), *flags]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline().split()
            assert line, log.read_text()
            with grpc.insecure_channel(line[line.index("on") + 1]) as channel:
                yield Worker(process, channel, log)
        finally:
            process.kill()


def until(look: Callable[[], Found], wanted: Found) -> None:
    """Returns once `look` gives what is wanted."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := look()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def expected(folder: Path, rows: int = 3) -> list[float]:
    """What the model in `folder` says of rows of which nothing is known."""
    scores: list[float] = Model.load(folder).score(noise(rows) * float("nan")).tolist()
    return scores


def test_another_model_is_served_without_a_restart(tmp_path: Path) -> None:
    """A link that points to another model is followed; a bad model is refused, told and logged, and the old goes on."""
    one, two = write_model(tmp_path / "one", 1), write_model(tmp_path / "two", 2)
    write_model(tmp_path / "bad", 3)
    (tmp_path / "bad" / MODEL_FILE).write_text("changed")
    current = tmp_path / "current"

    def point_to(name: str) -> None:
        (tmp_path / "next").symlink_to(name)
        (tmp_path / "next").rename(current)

    point_to("one")
    with worker(tmp_path / "log", current) as served:
        assert (served.version(), [*served.score().scores]) == (one, expected(tmp_path / "one"))
        point_to("two")
        until(served.version, two)
        assert [*served.score().scores] == expected(tmp_path / "two")
        point_to("bad")
        until(lambda: len(served.model().refused) == 1, True)
        described = served.model()
        assert described.refused[0].folder == str(current) and "SHA-256" in described.refused[0].why
        assert (described.model_version, served.score().model_version, served.status()) == (two, two, SERVING)
        point_to("one")
        until(served.version, one)
        assert [*served.model().refused] == []
        assert served.log.read_text().count("SHA-256") == 1


def test_sighup_reloads_at_once(tmp_path: Path) -> None:
    """It takes what is there now, and does not end the worker."""
    write_model(tmp_path / "model", 1)
    with worker(tmp_path / "log", tmp_path / "model") as served:
        two = write_model(tmp_path / "model", 2)
        os.kill(served.process.pid, signal.SIGHUP)
        until(served.version, two)
        assert served.process.poll() is None


def test_no_batch_mixes_two_models(tmp_path: Path) -> None:
    """While models are exchanged under load, every answer is wholly one model's, and no call fails."""
    current = tmp_path / "current"
    versions, named = {}, {}
    for seed in (1, 2):
        medium = 0.3 + seed / 10
        named[str(seed)] = write_model(
            tmp_path / str(seed), seed, thresholds={"medium": medium, "high": 0.9, "rule": ""}
        )
        versions[named[str(seed)]] = (expected(tmp_path / str(seed), 200), medium)
    current.symlink_to("1")
    seen = []
    with worker(tmp_path / "log", current) as served:
        for name in ("2", "1", "2"):
            (tmp_path / "next").symlink_to(name)
            (tmp_path / "next").rename(current)
            os.kill(served.process.pid, signal.SIGHUP)
            while True:
                answer = served.score(200)
                scores, medium = versions[answer.model_version]
                assert ([*answer.scores], answer.medium_threshold) == (scores, medium)
                seen.append(answer.model_version)
                if answer.model_version == named[name]:
                    break
    assert {*seen} == {*versions}


def test_challenger_scores_in_the_shadow(tmp_path: Path) -> None:
    """Its scores come beside the champion's, it is described, and it reloads by itself."""
    champion, challenger = write_model(tmp_path / "champion", 1), write_model(tmp_path / "challenger", 2)
    with worker(tmp_path / "log", tmp_path / "champion", "--challenger", str(tmp_path / "challenger")) as served:

        def shadow() -> dict[str, list[float]]:
            return {one.model_version: [*one.scores] for one in served.score().shadow}

        until(shadow, {challenger: expected(tmp_path / "challenger")})  # late ones are left out on a busy machine
        assert [one.model_version for one in served.model().challengers] == [challenger]
        assert served.score().model_version == champion
        other = write_model(tmp_path / "challenger", 3)
        until(shadow, {other: expected(tmp_path / "challenger")})
        assert served.version() == champion


def test_share_of_none_asks_no_challenger(tmp_path: Path) -> None:
    """The share of batches that challengers score is the operator's."""
    write_model(tmp_path / "champion", 1)
    write_model(tmp_path / "challenger", 2)
    flags = ("--challenger", str(tmp_path / "challenger"), "--challenger-share", "0")
    with worker(tmp_path / "log", tmp_path / "champion", *flags) as served:
        assert [[*served.score().shadow] for _ in range(5)] == [[]] * 5


def test_worker_without_a_model_is_not_serving(tmp_path: Path) -> None:
    """It says so in its health, answers UNAVAILABLE, and serves as soon as a model is there."""
    folder = tmp_path / "model"
    with worker(tmp_path / "log", folder, "--await-model") as served:
        assert served.status() == NOT_SERVING
        with pytest.raises(grpc.RpcError) as refused:
            served.score()
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        described = served.model()
        assert (described.model_version, described.refused[0].folder) == ("", str(folder))
        version = write_model(folder, 1)
        until(lambda: served.status() == SERVING, True)
        assert served.score().model_version == version


def test_worker_that_must_have_a_model_does_not_start_without(tmp_path: Path) -> None:
    """Unless it is to wait, a worker that was given no good model ends with code 1 and says why."""
    command = [sys.executable, "-m", "fraud_worker", "serve", "--listen", "127.0.0.1:0", "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "is not a model folder" in done.stderr
