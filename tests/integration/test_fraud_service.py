"""The worker as a process: it announces itself, scores, refuses, logs, and drains."""

import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc as pb_grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from fraud_worker.__main__ import DEFAULT_MODEL
from fraud_worker.registry import FEATURE_NAMES, REGISTRY_NAME
from fraud_worker.scorer import Model
from fraud_worker.serving import SERVICE

DEADLINE_S = 10
PROJECT = Path(__file__).resolve().parents[2]
SERVE = [sys.executable, "-m", "fraud_worker", "serve", "--listen", "127.0.0.1:0"]
BROKEN_WORKER = """
from fraud_worker.__main__ import DEFAULT_MODEL
from fraud_worker.models import ModelShelf
from fraud_worker.scorer import Model
from fraud_worker.serving import Settings, run

class Broken(Model):
    def self_test(self):
        pass

    def probabilities(self, rows):
        raise RuntimeError("planted")

run(ModelShelf(DEFAULT_MODEL, load=Broken.load), Settings(listen="127.0.0.1:0", log_level="ERROR"))
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[subprocess.Popen[str]]:
    """A worker with the shipped model."""
    process = subprocess.Popen([*SERVE, "--reflection"], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def channel(worker: subprocess.Popen[str]) -> Iterator[grpc.Channel]:
    """A channel to the address that it announced."""
    with grpc.insecure_channel(announced(worker)) as channel:
        yield channel


def announced(worker: subprocess.Popen[str]) -> str:
    """The address in the worker's first line."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    found = re.fullmatch(r"fraud-worker listening on (127\.0\.0\.1:\d+) model [0-9a-f]{12}\n", line)
    assert found, line
    return found[1]


def score(
    channel: grpc.Channel, rows: int = 1, *, registry: str = REGISTRY_NAME, sha256: str = "", **columns: Sequence[float]
) -> pb.ScoreResponse:
    request = pb.ScoreRequest(
        feature_registry=registry,
        feature_registry_sha256=sha256,
        row_count=rows,
        columns=pb.FeatureColumns(**columns),
    )
    return pb_grpc.FraudScoringServiceStub(channel).Score(request, timeout=DEADLINE_S)


def send_garbage(channel: grpc.Channel, method: str) -> None:
    call: Any = channel.unary_unary(method)
    call(b"\xff\xff\xff", timeout=DEADLINE_S)


@pytest.mark.parametrize(
    "method",
    [f"/{SERVICE}/{name}" for name in ("Score", "Explain", "GetModel", "MeasureHealth")]
    + ["/grpc.health.v1.Health/Check"],
)
def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel, method: str) -> None:
    """As any other bad input: by status and reason."""
    with pytest.raises(grpc.RpcError) as refused:
        send_garbage(channel, method)
    assert (refused.value.code(), error_info(refused.value).reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "FIELD_INVALID",
    )


def test_stream_that_begins_with_garbage_is_refused(channel: grpc.Channel) -> None:
    """Watching health is no exception."""
    watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
    with pytest.raises(grpc.RpcError) as refused:
        next(watch(b"\xff\xff\xff", timeout=DEADLINE_S))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_garbage_leaves_no_trace_in_the_log(tmp_path: Path) -> None:
    """Whoever sends it cannot fill the log."""
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(SERVE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            with grpc.insecure_channel(announced(process)) as channel:
                for _ in range(3):
                    with pytest.raises(grpc.RpcError):
                        send_garbage(channel, f"/{SERVICE}/Score")
        finally:
            process.terminate()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_scores_are_the_models(channel: grpc.Channel) -> None:
    """The service answers what the model says, in order, with its version and thresholds."""
    rows = np.full((2, len(FEATURE_NAMES)), np.nan)
    rows[1, :3] = 9
    model = Model.load(DEFAULT_MODEL)
    nines: dict[str, Any] = {name: [-1.0, 9.0] for name in FEATURE_NAMES[:3]}
    response = score(channel, 2, **nines)
    assert list(response.scores) == model.score(rows).tolist()
    assert [*response.shadow] == []
    assert (response.model_version, response.medium_threshold) == (model.version, model.manifest.thresholds.medium)


def test_model_is_described(channel: grpc.Channel) -> None:
    """GetModel names the file's hash and the features in order."""
    response = pb_grpc.FraudScoringServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=DEADLINE_S)
    assert response.model_sha256 == Model.load(DEFAULT_MODEL).manifest.model_sha256
    assert list(response.features) == list(FEATURE_NAMES)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"registry": "v0"}, "feature_registry"),
        ({"sha256": "0" * 64}, "feature_registry_sha256"),
        ({"rows": 0}, "row_count"),
        ({"rows": 1001}, "row_count"),
        ({"rows": 2, "vpn": [1.0]}, "columns.vpn"),
        ({"rows": 2, "session_seconds": [1.0, math.nan]}, "columns.session_seconds[1]"),
        ({"session_seconds": [math.inf]}, "columns.session_seconds[0]"),
        ({"device_accounts_1h": [-2.0]}, "columns.device_accounts_1h[0]"),
    ],
)
def test_refusal_names_the_field(channel: grpc.Channel, asked: dict[str, Any], field: str) -> None:
    """INVALID_ARGUMENT carries a machine-readable reason and the field at fault."""
    with pytest.raises(grpc.RpcError) as refused:
        score(channel, **asked)
    info = error_info(refused.value)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, info.domain, info.metadata["field"]) == ("FIELD_INVALID", "card-recycling", field)


def error_info(error: grpc.RpcError) -> ErrorInfo:
    """The machine-readable reason of a status."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


@pytest.mark.parametrize("method", ["Score", "Explain", "GetModel"])
def test_call_without_a_deadline_is_refused(channel: grpc.Channel, method: str) -> None:
    """Nobody may wait for ever."""
    request = {"Score": pb.ScoreRequest, "Explain": pb.ExplainRequest, "GetModel": pb.GetModelRequest}[method]()
    with pytest.raises(grpc.RpcError) as refused:
        getattr(pb_grpc.FraudScoringServiceStub(channel), method)(request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(refused.value).reason == "DEADLINE_REQUIRED"


def explain(channel: grpc.Channel, rows: int = 1, version: str = "", **columns: Sequence[float]) -> pb.ExplainResponse:
    request = pb.ExplainRequest(
        feature_registry=REGISTRY_NAME,
        row_count=rows,
        columns=pb.FeatureColumns(**columns),
        model_version=version,
    )
    return pb_grpc.FraudScoringServiceStub(channel).Explain(request, timeout=DEADLINE_S)


def test_explanation_adds_up_to_the_score(channel: grpc.Channel) -> None:
    """The contributions sum to the raw score, whose calibration is the score; a value that is unknown is left out."""
    columns: dict[str, Any] = {"vpn": [1.0, -1.0], "device_accounts_24h": [5.0, 0.0]}
    scores = list(score(channel, 2, **columns).scores)
    response = explain(channel, 2, **columns)
    assert [explanation.probability for explanation in response.explanations] == scores
    for explanation in response.explanations:
        parts = explanation.contributions
        total = math.fsum((explanation.base_value, *(part.contribution for part in parts)))
        assert abs(total - explanation.raw_score) < 1e-9
        assert {part.feature for part in parts} == set(FEATURE_NAMES)
    first, second = ({part.feature: part for part in each.contributions} for each in response.explanations)
    told = first["device_accounts_24h"]
    assert (told.reason_code, told.value) == ("DEVICE_ACCOUNTS_24H", 5.0)
    assert told.sentence == "There were 5 other accounts first seen on this device in the last 24 hours."
    assert not second["vpn"].HasField("value")


def test_explanation_of_a_model_that_is_gone_is_refused(channel: grpc.Channel) -> None:
    """A score of one model is never explained by another."""
    with pytest.raises(grpc.RpcError) as refused:
        explain(channel, version="0123456789ab")
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert error_info(refused.value).reason == "MODEL_CHANGED"


def test_explanations_are_few(channel: grpc.Channel) -> None:
    """More rows than a call may bring are refused by name, and so is a value out of range."""
    cases: list[tuple[dict[str, Any], str]] = [({"rows": 65}, "row_count"), ({"vpn": [2.0]}, "columns.vpn[0]")]
    for asked, field in cases:
        with pytest.raises(grpc.RpcError) as refused:
            explain(channel, **asked)
        assert error_info(refused.value).metadata["field"] == field


def test_health_is_serving(channel: grpc.Channel) -> None:
    """The service's health is its own name's."""
    response = health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]
        health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE_S
    )
    assert response.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_service(channel: grpc.Channel, version: str) -> None:
    """grpcurl finds the service under both names of reflection."""
    assert SERVICE in reflected(channel, version)


def reflected(channel: grpc.Channel, version: str) -> list[str]:
    """The services that reflection lists."""
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    responses = call(iter([reflection_pb2.ServerReflectionRequest(list_services="*")]), timeout=DEADLINE_S)
    return [service.name for service in next(iter(responses)).list_services_response.service]


def test_sigterm_drains() -> None:
    """SIGTERM ends a worker in order, with code 0."""
    with subprocess.Popen(SERVE, stdout=subprocess.PIPE, text=True) as process:
        announced(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def test_reflection_is_off_unless_asked_for() -> None:
    """A worker keeps its contract to itself by default."""
    with subprocess.Popen(SERVE, stdout=subprocess.PIPE, text=True) as process:
        try:
            with grpc.insecure_channel(announced(process)) as channel, pytest.raises(grpc.RpcError) as failed:
                reflected(channel, "v1")
        finally:
            process.kill()
    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_failing_score_is_a_line_in_the_log() -> None:
    """What fails inside is logged as JSON with the caller's trace, and the caller is told nothing of it."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    command = [sys.executable, "-c", BROKEN_WORKER]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            with grpc.insecure_channel(announced(process)) as channel, pytest.raises(grpc.RpcError) as failed:
                pb_grpc.FraudScoringServiceStub(channel).Score(
                    pb.ScoreRequest(feature_registry=REGISTRY_NAME, row_count=1),
                    timeout=DEADLINE_S,
                    metadata=(("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),),
                )
        finally:
            process.terminate()
        _, errors = process.communicate(timeout=DEADLINE_S)
    (line,) = map(json.loads, errors.splitlines())
    assert (line["event"], line["level"], line["trace_id"]) == ("Score failed", "error", trace_id)
    assert "planted" in line["exception"]
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")


@pytest.mark.parametrize("option", ["--listen", "--metrics-listen"])
@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "worker:0", ":0"])
def test_plaintext_outside_of_loopback_must_be_asked_for(option: str, listen: str) -> None:
    """Without TLS a worker listens on loopback only, for scores and metrics alike, unless told otherwise."""
    command = [sys.executable, "-m", "fraud_worker", "serve", option, listen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"{option} {listen}: without TLS only a loopback address" in done.stderr


def test_taken_address_is_named() -> None:
    """A worker that cannot listen says where, and leaves with code 1."""
    command = [sys.executable, "-m", "fraud_worker", "serve", "--listen", "203.0.113.1:1", "--insecure-plaintext"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "cannot listen on 203.0.113.1:1" in done.stderr
