"""Settings that are refused at start."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server.config import Config

GOOD = {"database_url": "postgresql://nobody@127.0.0.1/none", "secret_key": "a secret of the tests, and long enough"}


def test_metrics_are_offered_nowhere_unless_told() -> None:
    """Without METRICS_LISTEN no port is opened."""
    assert Config.model_validate(GOOD).metrics_listen == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"metrics_listen": "0.0.0.0:9464"},
        {"metrics_listen": "127.0.0.1"},
        {"metrics_listen": "127.0.0.1:70000"},
        {"listen": ""},
    ],
)
def test_address_that_others_reach_or_that_is_none_is_refused(settings: dict[str, str]) -> None:
    """Metrics, too, stay on this machine, since they are in clear; and an address has a port."""
    with pytest.raises(ValidationError):
        Config.model_validate(GOOD | settings)


def test_metrics_may_be_read_from_elsewhere_in_a_trusted_network() -> None:
    """INSECURE_PLAINTEXT allows it."""
    settings = GOOD | {"metrics_listen": "0.0.0.0:9464", "insecure_plaintext": "true"}
    assert Config.model_validate(settings).metrics_listen == "0.0.0.0:9464"


ADDRESSES = [
    *("127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:", "127.0.0.1", ":50051", "127.0.0.1: 80", " 127.0.0.1:80"),
    *("127.0.0.1:80 ", "127.0.0.1:\u0663\u0663", "127.0.0.1:\u00b2", "127.0.0.1:1e3", "::1:80", "[::1:80", "a b:80"),
    *("127.0.0.1:80\n", "http://127.0.0.1:80", " ", "127.0.0.1:000080"),
]
NUMBERS = ["nan", "inf", "-inf", "-1", "1e9999", "", " ", "x", "1" * 30, "0x10", "\u0663e9"]
WHOLE_NUMBERS = ["0", "2.5", *NUMBERS]
NONSENSE: dict[str, list[str]] = {
    "listen": ["", *ADDRESSES],
    "fraud_worker": ["", "127.0.0.1:0", *ADDRESSES],
    "metrics_listen": ["127.0.0.1:0", *ADDRESSES],
    "secret_key": ["", "short", " " * 64, f"{' ' * 40}short"],
    "database_url": [
        *(
            "",
            " ",
            "x",
            "mysql://h/x",
            "postgresql://",
            "postgresql:///",
            "postgresql://h:99999/x",
            "postgresql://h:x/x",
        ),
        *("postgresql://h:0/x", "postgresql://a b/x", "postgresql://h/x\n", "postgresql://h/x?sslmode=maybe"),
        *("postgresql://one:1,two:70000/x", "postgresql://[::1/x"),
    ],
    "insecure_plaintext": ["", " ", "maybe", "2"],
    "reflection": ["", "maybe"],
    "database_connections": WHOLE_NUMBERS,
    "score_timeout_ms": WHOLE_NUMBERS,
    "batch_max": WHOLE_NUMBERS,
    "queue_max": WHOLE_NUMBERS,
    "review_claims_max": WHOLE_NUMBERS,
    "watchers_max": WHOLE_NUMBERS,
    "nats_url": ["x", "http://127.0.0.1:4222", "nats://", "nats://127.0.0.1:x", "nats://127.0.0.1:99999", "tls://a b"],
    "nats_credentials": ["", " ", "/nowhere/nats.creds", "."],
    "nats_stream": ["", " ", "a.b", "x" * 65],
    "sweep_every_s": ["3601", *NUMBERS],
    "nats_subject": ["", " ", "a..b", ".a", "a.", "a.*", "a.>"],
    "drain_s": NUMBERS,
    "support_key": ["too-short", "x" * 31, "x" * 31 + " ", "\u00e9" * 40, "x" * 257],
    "model_health_every_s": ["1e-300", "0.5", *NUMBERS],
    "log_level": ["", "info", "INFO\n", "TRACE"],
}


def test_every_setting_is_tried_with_nonsense() -> None:
    """A new setting is told what it must refuse."""
    assert set(NONSENSE) == set(Config.model_fields)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NONSENSE.items() for value in values])
def test_nonsense_is_refused(name: str, value: str) -> None:
    """Whatever cannot be meant is refused at start, by the setting's name, and a secret is not told again."""
    with pytest.raises(ValidationError) as refused:
        Config.model_validate(GOOD | {name: value})
    (problem,) = refused.value.errors()
    assert problem["loc"] == (name,)
    assert name not in ("database_url", "secret_key", "support_key") or not value.strip() or value not in problem["msg"]


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": "127.0.0.1:0"},
        {"listen": "[::1]:65535"},
        {"listen": "localhost:1"},
        {"fraud_worker": "worker.example:50052", "insecure_plaintext": "1"},
        {"database_url": "postgres://me:p%40ss@one:5432,two:5433/x?sslmode=verify-full"},
        {"database_url": "postgresql://[::1]:5433/x"},
        {"database_url": "postgresql://me@/x?host=/run/postgresql"},
        {"model_health_every_s": "0"},
        {"drain_s": "0"},
    ],
)
def test_what_makes_sense_is_accepted(settings: dict[str, Any]) -> None:
    """Free ports, names, IPv6 in brackets, several databases and sockets are settings like any other."""
    Config.model_validate(GOOD | settings)


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["server"], {"LISTEN": "127.0.0.1:99999"}),
        (["server", "put-policies", "policies"], {"DATABASE_URL": "postgresql://h:x/x"}),
        (["fraud_worker", "serve", "--listen", "127.0.0.1:99999"], {}),
        (["fraud_worker", "serve", "--metrics-listen", "127.0.0.1:x"], {}),
    ],
)
def test_process_says_so_in_a_line_and_ends(arguments: list[str], environment: dict[str, str]) -> None:
    """With a setting that makes no sense a process says which in one line, and ends with a code other than 0."""
    good = {name.upper(): value for name, value in GOOD.items()}
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | good | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2 and not ended.stdout
    (line,) = ended.stderr.splitlines()
    assert "port" in line and "Value error" not in line


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:4222", "nats://", "nats://nats.example.com:4222", "nats://127.0.0.1:4222,nats://10.0.0.1"]
)
def test_events_do_not_leave_in_clear(url: str) -> None:
    """NATS is asked for by its own schemes, and elsewhere by TLS alone."""
    with pytest.raises(ValidationError):
        Config.model_validate(GOOD | {"nats_url": url})


def test_events_may_go_to_several_servers() -> None:
    """NATS_URL is a list; TLS may go anywhere."""
    config = Config.model_validate(GOOD | {"nats_url": "tls://a.example.com:4222, nats://127.0.0.1:4223"})
    assert config.nats_servers == ["tls://a.example.com:4222", "nats://127.0.0.1:4223"]
    assert Config.model_validate(GOOD).nats_servers == []
