"""The coordinator's settings: read once in the command, passed inward."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

MAX_UPLOAD_SECONDS = 12 * 3600.0
"""No coordinator takes longer over an update. What is twice as old is no upload any more, whichever
replica began it and whatever its settings were, and is swept."""

_DATABASES = ("sqlite", "postgresql")


class CoordinatorSettings(BaseSettings):
    """Every setting, from ``HYPERFL_*`` environment variables or the command line."""

    model_config = SettingsConfigDict(
        env_prefix="HYPERFL_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    data_dir: Path = Path("hyperfl-data")
    """Holds the SQLite file, unless another database is named, and the admin token."""
    database_url: str = ""
    """``postgresql://…`` or ``sqlite:///path``; empty: ``hyperfl.db`` in ``data_dir``."""
    admin_token_file: Path | None = None
    """Written (mode 0600) at first start, read when it exists; ``admin-token`` in ``data_dir``."""
    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535)
    """0 takes any free port and prints it."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    max_update_bytes: int = Field(default=2 << 30, gt=0)
    """No update may be larger, whatever a federation's tensors are."""
    upload_stall_seconds: float = Field(default=60.0, gt=0.0, le=3600.0)
    """An update of which nothing has come for so long is given up."""
    upload_seconds: float = Field(default=6 * 3600.0, gt=0.0, le=MAX_UPLOAD_SECONDS)
    """An update that has not come in full after so long is given up."""
    tick_seconds: float = Field(default=1.0, gt=0.0, le=3600.0)
    """How often deadlines, leases and the work of other replicas are looked at."""
    aggregation_lease_seconds: float = Field(default=60.0, gt=0.0, le=86400.0)
    """A coordinator that dies while it aggregates is replaced after so long."""
    enrolment_token_seconds: float = Field(default=7 * 86400.0, gt=0.0, le=366 * 86400.0)
    keep_last_versions: int = Field(default=10, ge=1)
    """Weights of so many newest versions are kept; older ones are removed."""
    keep_every_version: int = Field(default=0, ge=0)
    """Every so manyth version is kept for good besides; 0 keeps none."""
    requests_per_second_per_token: float = Field(default=100.0, gt=0.0)
    """Over ten seconds on average, like the next two; what is more is answered 429."""
    requests_per_second_per_address: float = Field(default=2000.0, gt=0.0)
    """For all workers at one address together."""
    unauthenticated_requests_per_second_per_address: float = Field(default=200.0, gt=0.0)
    """Enrolments, first requests with a token, and requests with none that is valid."""
    max_concurrent_requests: int = Field(default=10_000, ge=1)
    """Long polls included; what is more is answered 503."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: str) -> str:
        if not url:
            return url
        try:
            backend = make_url(url).get_backend_name()
        except ArgumentError:
            raise ValueError("not a URL such as postgresql://user@host/name") from None
        if backend not in _DATABASES:
            raise ValueError(f"{backend} is not one of {', '.join(_DATABASES)}")
        return url

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("HYPERFL_TLS_CERTIFICATE and HYPERFL_TLS_KEY go together")
        return self

    @property
    def effective_database_url(self) -> str:
        """The database to open."""
        return self.database_url or f"sqlite:///{self.data_dir / 'hyperfl.db'}"

    @property
    def effective_admin_token_file(self) -> Path:
        """Where the admin token is kept."""
        return self.admin_token_file or self.data_dir / "admin-token"
