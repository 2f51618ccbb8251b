"""The coordinator's settings: read once in the command, passed inward."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from coordinator.database import DatabaseLimits
from shared.environment import PREFIX, check_environment

MAX_UPLOAD_SECONDS = 12 * 3600.0
"""No coordinator takes longer over an update. What is twice as old is no upload any more, whichever
replica began it and whatever its settings were, and is swept."""

_DATABASES = ("sqlite", "postgresql")


class CoordinatorSettings(BaseSettings):
    """Every setting, from ``HYPERFL_*`` environment variables or the command line."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    data_dir: Path = Path("hyperfl-data")
    """Holds the SQLite file, unless another database is named, and the admin token."""
    database_url: str | None = None
    """``postgresql://…`` or ``sqlite:///path``; None: ``hyperfl.db`` in ``data_dir``."""
    database_connections: int = Field(default=15, ge=1, le=1000)
    """Most connections that this process opens to its database."""
    database_pool_seconds: float = Field(default=10.0, gt=0.0, le=3600.0)
    """A request that has found none of them free for so long is answered 503."""
    database_connect_seconds: int = Field(default=5, ge=2, le=3600)
    """So long may a database take to take a connection, or to answer on one that was idle."""
    database_transaction_seconds: float = Field(default=60.0, gt=0.0, le=3600.0)
    """So long may one transaction take, or wait for another that writes."""
    database_migration_seconds: float = Field(default=600.0, gt=0.0, le=86400.0)
    """A start waits so long for another coordinator that migrates the same database."""
    max_database_bytes: int | None = Field(default=None, ge=16 << 20)
    """The SQLite file grows no larger; PostgreSQL's size is bounded at the server."""
    admin_token_file: Path | None = None
    """Written (mode 0600) at first start, read when it exists; ``admin-token`` in ``data_dir``."""
    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535)
    """0 takes any free port and prints it."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    plaintext: Literal["loopback-only", "behind-proxy"] = "loopback-only"
    """Where to listen without TLS: on other addresses only if a proxy in front serves TLS."""
    max_connections: int = Field(default=10_000, ge=1)
    """Open at once; for one more, that which has waited longest for a request is closed, or it is
    answered 503. Fewer if the process may not open so many files."""
    max_connections_per_address: int | None = Field(default=None, ge=1)
    """From one address, such as a proxy's; more are answered 429. None: half of all."""
    max_target_bytes: int = Field(default=8 << 10, ge=256)
    """Of a request's path with its query; more is answered 414."""
    max_head_bytes: int = Field(default=64 << 10, ge=1024)
    """Of a request before its body; more is answered 431, as is more than ``max_headers``."""
    max_headers: int = Field(default=100, ge=20)
    head_seconds: float = Field(default=30.0, gt=0.0, le=3600.0)
    """A connection on which no whole head has come for so long is closed."""
    keep_alive_seconds: int = Field(default=75, ge=1, le=3600)
    """A connection without a further request is closed; longer than workers pause."""
    json_body_seconds: float = Field(default=60.0, gt=0.0, le=3600.0)
    """A JSON body that has not come whole by then is answered 408."""
    response_stall_seconds: float = Field(default=60.0, gt=0.0, le=3600.0)
    """A client that reads nothing of its answer for so long is cut off."""
    listen_backlog: int = Field(default=2048, ge=1)
    """Connections that the system keeps until they are taken; it may keep fewer."""
    shutdown_seconds: int = Field(default=10, ge=1, le=3600)
    """A stop waits so long for requests that are being answered."""
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
    max_concurrent_requests_per_token: int = Field(default=32, ge=1)
    """Of one client or administrator; what is more is answered 429."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    @model_validator(mode="before")
    @classmethod
    def _check_environment(cls, values: Any) -> Any:
        check_environment(os.environ, cls.model_fields)
        return values

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: str | None) -> str | None:
        if url is None:
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

    @model_validator(mode="after")
    def _check_max_database_bytes(self) -> Self:
        is_sqlite = self.effective_database_url.startswith("sqlite")
        if self.max_database_bytes is not None and not is_sqlite:
            raise ValueError("HYPERFL_MAX_DATABASE_BYTES is for SQLite; bound PostgreSQL's disk")
        return self

    def require_protection(self) -> None:
        """Raises ValueError where others than this machine could read what is sent."""
        is_allowed = self.plaintext == "behind-proxy" or _is_loopback(self.host)
        if self.tls_certificate is None and not is_allowed:
            raise ValueError(
                f"no TLS on {self.host}: set HYPERFL_TLS_CERTIFICATE and HYPERFL_TLS_KEY, "
                "or HYPERFL_PLAINTEXT=behind-proxy if a proxy serves TLS in front"
            )

    @property
    def database_limits(self) -> DatabaseLimits:
        """The bounds that the database keeps."""
        return DatabaseLimits(
            connections=self.database_connections,
            pool_seconds=self.database_pool_seconds,
            connect_seconds=self.database_connect_seconds,
            transaction_seconds=self.database_transaction_seconds,
            max_bytes=self.max_database_bytes,
        )

    @property
    def effective_database_url(self) -> str:
        """The database to open."""
        return self.database_url or f"sqlite:///{self.data_dir / 'hyperfl.db'}"

    @property
    def effective_admin_token_file(self) -> Path:
        """Where the admin token is kept."""
        return self.admin_token_file or self.data_dir / "admin-token"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
