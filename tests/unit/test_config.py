"""Settings that are refused at start."""

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
