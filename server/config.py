"""The server's settings: read once, at start, from the environment, and checked. Nothing else reads the environment
(but OpenTelemetry, whose own standard variables are left to it)."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, FilePath, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from process.addresses import PORT_MAX, is_address, is_loopback
from server.domain.review import CLAIMS_MAX


class DatabaseConfig(BaseSettings):
    """What every command of the server needs."""

    model_config = SettingsConfigDict(frozen=True, case_sensitive=False)

    database_url: SecretStr = Field(description="postgresql://... of a login that may become `recycling_server`.")

    @field_validator("database_url")
    @classmethod
    def _of_postgres(cls, value: SecretStr) -> SecretStr:
        if problem := _problem_of_url(value.get_secret_value()):
            raise ValueError(problem)
        return value


def _listed(value: SecretStr) -> list[str]:
    return [part.strip() for part in value.get_secret_value().split(",") if part.strip()]


class Config(DatabaseConfig):
    """Every setting, with the environment variable of the same name in capitals."""

    listen: str = Field("127.0.0.1:50051", description="HOST:PORT; port 0 takes a free one.")
    fraud_worker: str = Field("127.0.0.1:50052", description="HOST:PORT of the fraud worker.")
    secret_key: SecretStr = Field(
        description="At least 32 characters, the same on every server: keys of hashes and quotes."
    )
    support_key: SecretStr = Field(
        SecretStr(""),
        description="32 to 256 characters: who shows it may grant goodwill; empty: nobody may.",
    )
    insecure_plaintext: bool = Field(False, description="Allows plaintext outside loopback: inside a trusted network.")
    reflection: bool = Field(False, description="Whether server reflection is offered.")
    database_connections: int = Field(8, ge=3, le=100, description="Greatest number of database connections.")
    score_timeout_ms: int = Field(250, ge=1, le=10_000, description="How long a batch waits for its scores.")
    batch_max: int = Field(256, ge=1, le=1000, description="Commands decided and recorded together.")
    queue_max: int = Field(
        8192, ge=1000, le=1_000_000, description="Commands that may wait; beyond it calls are OVERLOADED."
    )
    review_claims_max: int = Field(
        CLAIMS_MAX, ge=1, le=1000, description="Reviews that one reviewer may have claimed at once."
    )
    drain_s: float = Field(20.0, ge=0, le=600, description="How long calls in progress may still take at shutdown.")
    metrics_listen: str = Field("", description="HOST:PORT at which Prometheus may read metrics; empty: nowhere.")
    model_health_every_s: float = Field(
        300.0, ge=0, le=86_400, description="How often the metrics of the model's health are refreshed; 0: never."
    )
    watchers_max: int = Field(100, ge=1, le=900, description="Streams of WatchEvents that may be open at once.")
    nats_url: SecretStr = Field(
        SecretStr(""),
        description="nats:// or tls://HOST:PORT of JetStream, several by commas; empty: events stay here.",
    )
    nats_credentials: FilePath | None = Field(None, description="File with the NATS user's JWT and seed.")
    nats_stream: str = Field(
        "CARD_RECYCLING", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The stream, made if missing."
    )
    nats_subject: str = Field(
        "card_recycling",
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        description="What subjects begin with; platform, source and kind follow.",
    )
    sweep_every_s: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="How often what time has done is looked for and recorded; 0: never.",
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least severity logged.")

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value().strip()) < 32:
            raise ValueError("must have at least 32 characters, white space about it aside")
        return value

    @field_validator("support_key")
    @classmethod
    def _too_long_to_guess(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value()
        if key and not re.fullmatch("[!-~]{32,256}", key):
            raise ValueError("must have 32 to 256 characters, printable ones of ASCII without spaces, or none at all")
        return value

    @field_validator("model_health_every_s")
    @classmethod
    def _no_busy_loop(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("must be 0, or at least 1")
        return value

    @field_validator("listen", "fraud_worker", "metrics_listen")
    @classmethod
    def _is_address(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.field_name == "metrics_listen":
            return value
        if not is_address(value, any_port=info.field_name == "listen"):
            least = 0 if info.field_name == "listen" else 1
            raise ValueError(f"must be HOST:PORT, the port from {least} to {PORT_MAX}")
        return value

    @field_validator("nats_url")
    @classmethod
    def _of_nats(cls, value: SecretStr) -> SecretStr:
        for server in _listed(value):
            try:
                parts = urlsplit(server)
                sound = parts.scheme in ("nats", "tls") and parts.hostname and (parts.port is None or parts.port > 0)
            except ValueError:  # a port that is none
                sound = False
            if not sound or re.search(r"\s", server):
                raise ValueError("must be nats://HOST:PORT or tls://HOST:PORT, several by commas")
        return value

    @property
    def nats_servers(self) -> list[str]:
        """Where events are published; empty: nowhere."""
        return _listed(self.nats_url)

    @model_validator(mode="after")
    def _events_go_safely(self) -> Config:
        for server in self.nats_servers:
            parts = urlsplit(server)
            if parts.scheme == "nats" and not self.insecure_plaintext and not is_loopback(f"{parts.hostname}:0"):
                raise ValueError("NATS_URL must be tls:// or a loopback address, unless INSECURE_PLAINTEXT is set")
        return self

    @model_validator(mode="after")
    def _plaintext_stays_home(self) -> Config:
        for name in ("listen", "fraud_worker", "metrics_listen"):
            if getattr(self, name) and not self.insecure_plaintext and not is_loopback(getattr(self, name)):
                raise ValueError(
                    f"{name.upper()} must be a loopback address, since there is no TLS, or INSECURE_PLAINTEXT set"
                )
        return self


_SSL_MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}


def _problem_of_url(url: str) -> str | None:
    """What the driver would say only when it first connects, and to the log alone. Never tells the URL itself."""
    if not url.startswith(("postgresql://", "postgres://")):
        return "must be postgresql://..."
    if re.search(r"\s", url):
        return "must not hold white space"
    try:
        parts = urlsplit(url)
    except ValueError:
        return "must be postgresql://..."
    options = parse_qs(parts.query)
    hosts = parts.netloc.rpartition("@")[2]
    if not hosts and "host" not in options:
        return "must name a host"
    for host in filter(None, hosts.split(",")):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= PORT_MAX):
            return f"must have a port from 1 to {PORT_MAX}"
    if not {*options.get("sslmode", ())} <= _SSL_MODES:
        return f"must have an sslmode of {', '.join(sorted(_SSL_MODES))}"
    return None
