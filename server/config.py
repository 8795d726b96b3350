"""The server's settings: read once, at start, from the environment, and checked. Nothing else reads the environment
(but OpenTelemetry, whose own standard variables are left to it)."""

from __future__ import annotations

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from process.addresses import is_loopback


class DatabaseConfig(BaseSettings):
    """What every command of the server needs."""

    model_config = SettingsConfigDict(frozen=True, case_sensitive=False)

    database_url: SecretStr = Field(description="postgresql://... of a login that may become `recycling_server`.")

    @field_validator("database_url")
    @classmethod
    def _of_postgres(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must be postgresql://...")
        return value


class Config(DatabaseConfig):
    """Every setting, with the environment variable of the same name in capitals."""

    listen: str = Field("127.0.0.1:50051", description="HOST:PORT; port 0 takes a free one.")
    fraud_worker: str = Field("127.0.0.1:50052", description="HOST:PORT of the fraud worker.")
    secret_key: SecretStr = Field(
        description="At least 32 characters, the same on every server: keys of hashes and quotes."
    )
    insecure_plaintext: bool = Field(False, description="Allows plaintext outside loopback: inside a trusted network.")
    reflection: bool = Field(False, description="Whether server reflection is offered.")
    database_connections: int = Field(8, ge=3, le=100, description="Greatest number of database connections.")
    score_timeout_ms: int = Field(250, ge=1, le=10_000, description="How long a batch waits for its scores.")
    batch_max: int = Field(256, ge=1, le=1000, description="Commands decided and recorded together.")
    queue_max: int = Field(8192, ge=1000, description="Commands that may wait; beyond it calls are OVERLOADED.")
    drain_s: float = Field(20.0, ge=0, le=600, description="How long calls in progress may still take at shutdown.")
    metrics_listen: str = Field("", description="HOST:PORT at which Prometheus may read metrics; empty: nowhere.")
    model_health_every_s: float = Field(
        300.0, ge=0, le=86_400, description="How often the metrics of the model's health are refreshed; 0: never."
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
        if len(value.get_secret_value()) < 32:
            raise ValueError("must have at least 32 characters")
        return value

    @field_validator("listen", "fraud_worker", "metrics_listen")
    @classmethod
    def _has_port(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.field_name == "metrics_listen":
            return value
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("must be HOST:PORT")
        return value

    @model_validator(mode="after")
    def _plaintext_stays_home(self) -> Config:
        for name in ("listen", "fraud_worker", "metrics_listen"):
            if getattr(self, name) and not self.insecure_plaintext and not is_loopback(getattr(self, name)):
                raise ValueError(
                    f"{name.upper()} must be a loopback address, since there is no TLS, or INSECURE_PLAINTEXT set"
                )
        return self
