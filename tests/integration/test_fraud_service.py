"""The worker as a process: it announces itself, scores, refuses, logs, and drains."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
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
from fraud_worker.service import SERVICE, feature_matrix

DEADLINE_S = 10
PROJECT = Path(__file__).resolve().parents[2]
SERVE = [sys.executable, "-m", "fraud_worker", "serve", "--listen", "127.0.0.1:0"]
BROKEN_WORKER = """
from fraud_worker.__main__ import DEFAULT_MODEL
from fraud_worker.scorer import Model
from fraud_worker.service import run

class Broken(Model):
    def score(self, rows):
        raise RuntimeError("planted")

run(Broken.load(DEFAULT_MODEL), "127.0.0.1:0")
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


def score(channel: grpc.Channel, *rows: pb.FeatureRow, registry: str = REGISTRY_NAME) -> pb.ScoreResponse:
    request = pb.ScoreRequest(feature_registry=registry, rows=rows)
    return pb_grpc.FraudScoringServiceStub(channel).Score(request, timeout=DEADLINE_S)


def test_scores_are_the_models(channel: grpc.Channel) -> None:
    """The service answers what the model says, in order, with its version and thresholds."""
    rows = [pb.FeatureRow(), pb.FeatureRow(device_accounts_1h=9, device_accounts_24h=9, device_accounts_30d=9)]
    model = Model.load(DEFAULT_MODEL)
    response = score(channel, *rows)
    assert list(response.scores) == model.score(feature_matrix(rows)).tolist()
    assert (response.model_version, response.medium_threshold) == (model.version, model.manifest.thresholds.medium)


def test_model_is_described(channel: grpc.Channel) -> None:
    """GetModel names the file's hash and the features in order."""
    response = pb_grpc.FraudScoringServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=DEADLINE_S)
    assert response.model_sha256 == Model.load(DEFAULT_MODEL).manifest.model_sha256
    assert list(response.features) == list(FEATURE_NAMES)


@pytest.mark.parametrize(
    ("rows", "registry", "field"),
    [
        ([pb.FeatureRow()], "v0", "feature_registry"),
        ([], REGISTRY_NAME, "rows"),
        ([pb.FeatureRow()] * 1001, REGISTRY_NAME, "rows"),
        ([pb.FeatureRow(), pb.FeatureRow(session_seconds=float("nan"))], REGISTRY_NAME, "rows[1].session_seconds"),
        ([pb.FeatureRow(session_seconds=float("inf"))], REGISTRY_NAME, "rows[0].session_seconds"),
        ([pb.FeatureRow(device_accounts_1h=-1)], REGISTRY_NAME, "rows[0].device_accounts_1h"),
    ],
)
def test_refusal_names_the_field(channel: grpc.Channel, rows: list[pb.FeatureRow], registry: str, field: str) -> None:
    """INVALID_ARGUMENT carries a machine-readable reason and the field at fault."""
    with pytest.raises(grpc.RpcError) as refused:
        score(channel, *rows, registry=registry)
    status = rpc_status.from_call(refused.value)  # type: ignore[arg-type]
    assert status is not None
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, info.domain, info.metadata["field"]) == ("FIELD_INVALID", "card-recycling", field)


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
                    pb.ScoreRequest(feature_registry=REGISTRY_NAME, rows=[pb.FeatureRow()]),
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


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "worker:0", ":0"])
def test_plaintext_outside_of_loopback_must_be_asked_for(listen: str) -> None:
    """Without TLS a worker listens on loopback only, unless told otherwise."""
    command = [sys.executable, "-m", "fraud_worker", "serve", "--listen", listen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"--listen {listen}: without TLS only a loopback address" in done.stderr


def test_taken_address_is_named() -> None:
    """A worker that cannot listen says where, and leaves with code 1."""
    command = [sys.executable, "-m", "fraud_worker", "serve", "--listen", "203.0.113.1:1", "--insecure-plaintext"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "cannot listen on 203.0.113.1:1" in done.stderr
