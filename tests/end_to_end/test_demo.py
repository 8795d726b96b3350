"""The demo keeps what it promises, and can fail to; what runs the service locally starts and stops it well."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import polars as pl
import pytest
from fraud_scoring.v1.fraud_scoring_service_pb2 import GetModelRequest
from fraud_scoring.v1.fraud_scoring_service_pb2_grpc import FraudScoringServiceStub

from local.stack import Process, Settings, Stack, StackError, private_file, running
from migrations.postgres import EmbeddedPostgres
from tests.fraud_models import write_model

PROJECT = Path(__file__).resolve().parents[2]


def run(*arguments: str, expect: int) -> str:
    """Runs a module of the project and returns what it printed; its exit code must be `expect`."""
    return finished(*arguments, expect=expect).stdout


def finished(*arguments: str, expect: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a module of the project to its end; its exit code must be `expect`."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done


@pytest.fixture(scope="module")
def shuffled_model(open_folder: Path) -> Path:
    """A model trained like the shipped one, but on labels dealt out at random."""
    log, model = open_folder / "shuffled.parquet", open_folder / "shuffled-model"
    run("fraud_worker", "simulate", "--out", str(log), "--seed", "5", "--accounts", "3000", "--days", "30", expect=0)
    events = pl.read_parquet(log)
    judged = events["label"].is_not_null()
    labels = events.filter(judged)["label"].sample(fraction=1.0, shuffle=True, seed=3)
    dealt = events["label"].clone().scatter(judged.arg_true(), labels)
    events.with_columns(dealt.alias("label")).write_parquet(log)
    run("fraud_worker", "train", "--events", str(log), "--out", str(model), expect=0)
    return model


def test_demo_keeps_its_promises() -> None:
    """With the shipped model every promise of the demo is kept."""
    shown = run("local", "demo", expect=0)
    assert "BROKEN" not in shown
    assert shown.count("kept") >= 7
    assert re.search(r"│ VOUCHER \d+ +│", shown)  # the Y of each alternative


def test_demo_fails_with_a_model_that_knows_nothing(shuffled_model: Path) -> None:
    """A model trained on shuffled labels cannot tell the farm from honest owners, and the demo says so."""
    shown = run("local", "demo", "--model", str(shuffled_model), expect=1)
    assert "BROKEN" in shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_demo_tells_so(number: signal.Signals, code: int) -> None:
    """A demo that was stopped on its way has not kept its promises, and its exit code names the signal."""
    command = [sys.executable, "-m", "local", "demo"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert " of " in demo.stdout.readline()  # its first tenth
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=60)
    assert (demo.returncode, errors.splitlines()[-1]) == (code, "stopped")


@pytest.mark.parametrize(("name", "text"), [("missing.csv", None), ("bad.csv", "a,b\n1,2\n"), ("bad.parquet", "x")])
def test_replay_of_no_log_starts_nothing(tmp_path: Path, name: str, text: str | None) -> None:
    """A log that cannot be read is told before anything is started, and nothing is verified."""
    if text is not None:
        (tmp_path / name).write_text(text)
    done = finished("local", "replay", "--events", str(tmp_path / name), expect=2)
    assert done.stdout == ""
    assert "Invalid value for" in done.stderr and "stopping" not in done.stderr


def test_run_tells_of_an_unreachable_database_in_a_line() -> None:
    """A database that cannot be reached ends `run` with one line."""
    done = finished("local", "run", expect=1, DATABASE_URL="postgresql://127.0.0.1:1/x")
    (line,) = done.stderr.splitlines()
    assert line.startswith("the database cannot be prepared: ")


def test_run_tells_of_a_login_that_may_not_serve(postgres: EmbeddedPostgres) -> None:
    """So does a login that owns the database and may not become the server's role."""
    postgres.create_database("owned")
    done = finished("local", "run", expect=1, DATABASE_URL=postgres.owner_url("owned"))
    (line,) = done.stderr.splitlines()
    assert line == 'the database cannot be prepared: permission denied to set role "recycling_server"'


def test_dead_postgres_is_noticed(open_folder: Path) -> None:
    """An embedded Postgres that was killed is a part that has ended."""
    folder = open_folder / "killed"
    with running(Settings(folder=folder, durable=False, log=open_folder / "killed.log")) as stack:
        assert stack.dead() is None
        pid = int((folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
        while stack.dead() is None:
            pass
        assert stack.dead() == "embedded Postgres"


def test_challenger_is_told_to_the_worker(open_folder: Path) -> None:
    """A service that is run with a challenger has a worker in which it scores beside the model."""
    challenger = write_model(open_folder / "challenger", 3)
    settings = Settings(
        folder=open_folder / "challenged",
        durable=False,
        challengers=[open_folder / "challenger"],
        log=open_folder / "challenged.log",
    )
    with running(settings) as stack, grpc.insecure_channel(stack.worker_address) as channel:
        used = FraudScoringServiceStub(channel).GetModel(GetModelRequest(), timeout=10)
    assert [each.model_version for each in used.challengers] == [challenger] != [used.model_version]


def test_silent_process_has_no_address() -> None:
    """A process that runs and never says where it listens is waited for so long and no longer."""
    process = Process("mute", ["http.server", "--bind", "127.0.0.1", "0"], {}, None)
    try:
        with pytest.raises(StackError, match=r"the mute did not start within 0\.1 s"):
            process.address(0.1)
    finally:
        process.stop()


def test_ended_process_has_no_address() -> None:
    """A process that ends before it listens is told with its exit code."""
    process = Process("broken", ["fraud_worker", "serve", "--listen", "nowhere:1"], {}, None)
    try:
        with pytest.raises(StackError, match=r"the broken did not start \(exit code 2\)"):
            process.address()
    finally:
        process.stop()


def test_address_may_be_asked_for_again(stack: Stack) -> None:
    """A process's address is remembered."""
    assert (stack.server.address(), stack.worker.address()) == (stack.address, stack.worker_address)


def test_worker_is_not_told_the_servers_secrets(stack: Stack) -> None:
    """Database and secret key are for the server alone."""

    def secrets_of(process: Process) -> set[str]:
        environment = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        return {"DATABASE_URL", "SECRET_KEY"} & {setting.partition("=")[0] for setting in environment}

    assert (secrets_of(stack.server), secrets_of(stack.worker)) == ({"DATABASE_URL", "SECRET_KEY"}, set())


def test_private_file_is_the_owners_alone(tmp_path: Path) -> None:
    """A file with a secret is closed to others, whatever was there before, and does not stay."""
    file = tmp_path / "database_url"
    file.touch(mode=0o644)
    with private_file(file, "postgresql://..."):
        assert (file.stat().st_mode & 0o777, file.read_text()) == (0o600, "postgresql://...")
    assert not file.exists()
