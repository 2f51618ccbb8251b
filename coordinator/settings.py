"""The coordinator's settings: read once in the command, passed inward."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from coordinator.database.limits import DatabaseLimits
from shared.addresses import is_loopback
from shared.environment import PREFIX, check_environment, shown
from shared.terminal.logs import LogFormat

MAX_UPLOAD_SECONDS = 12 * 3600.0
"""No coordinator takes longer over an update. What is twice as old is no upload any more, whichever
replica began it and whatever its settings were, and is swept."""

_HOST = r"(\*\.)?[\w-]+(\.[\w-]+)*"


class CoordinatorSettings(BaseSettings):
    """Every setting, from ``HYPERFL_*`` environment variables or the command line."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    data_dir: Path = Path("hyperfl-data")
    """Folder of the SQLite file and of the admin token."""
    database_url: str | None = Field(default=None, json_schema_extra=shown("SQLite in `data_dir`"))
    """`postgresql://…` or `postgres://…`, by PgBouncer too in any mode; or `sqlite:///path`."""
    database_connections: int = Field(default=15, ge=1, le=1000)
    """Most connections of this process to its database."""
    database_pool_seconds: float = Field(default=10.0, gt=0.0, le=3600.0)
    """A request that finds no free database connection for this long is answered 503."""
    database_connect_seconds: int = Field(default=5, ge=2, le=3600)
    """Longest time for a database to accept a connection, or to answer on an idle one."""
    database_transaction_seconds: float = Field(default=60.0, gt=0.0, le=3600.0)
    """Longest transaction, and longest wait for another writer."""
    database_migration_seconds: float = Field(default=600.0, gt=0.0, le=86400.0)
    """A start waits this long for another coordinator that migrates the same database."""
    max_database_bytes: int | None = Field(
        default=None, ge=16 << 20, json_schema_extra=shown("unbounded")
    )
    """Largest SQLite file; its write-ahead log comes on top. Bound a PostgreSQL at its server."""
    admin_token_file: Path | None = Field(
        default=None, json_schema_extra=shown("`admin-token` in `data_dir`")
    )
    """Written at the first start, mode 0600; read when it exists."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8400, ge=0, le=65535)
    """Port to listen on; 0 takes any free one and logs it."""
    tls_certificate: Path | None = Field(default=None, json_schema_extra=shown("no TLS"))
    """PEM file with the certificate and those above it."""
    tls_key: Path | None = Field(default=None, json_schema_extra=shown("no TLS"))
    """PEM file with the certificate's key."""
    plaintext: Literal["loopback-only", "behind-proxy"] = "loopback-only"
    """Where to listen without TLS: `loopback-only`, or anywhere with `behind-proxy`."""
    allowed_hosts: str | None = Field(
        default=None, pattern=rf"^{_HOST}(,{_HOST})*$", json_schema_extra=shown("any")
    )
    """Host names that a request may name, such as `fl.example.org,*.example.net`; others are
    answered 400. Probes may name any."""
    metrics_need_token: bool = True
    """Whether `/metrics` asks for a token, read-only or an administrator's. Who reads it learns how
    many clients train and when, how large updates are, and what is refused, but no name."""
    page: bool = True
    """Whether browsers find a page at `/`, for administrators and readers who sign in."""
    page_path: str = Field(default="", pattern=r"^(/[A-Za-z0-9._~-]+)*$")
    """The path under which a proxy shows the page, such as `/hyperfl`. The proxy takes it off; the
    page's links begin with it."""
    page_session_seconds: float = Field(default=12 * 3600.0, gt=0.0, le=30 * 86400.0)
    """How long a sign-in to the page lasts; it ends earlier with its token."""
    api_docs: bool = True
    """Whether `/docs` shows the interface in a browser; nothing is fetched from elsewhere."""
    max_connections: int = Field(default=10_000, ge=1)
    """Most open connections; one more closes the connection that has waited longest for a request,
    or is answered 503. The hard limit of open files, less 64 and `database_connections`, bounds it
    too."""
    max_connections_per_address: int | None = Field(
        default=None, ge=1, json_schema_extra=shown("half of all")
    )
    """Most open connections from one address, such as a proxy's; more are answered 429."""
    max_target_bytes: int = Field(default=8 << 10, ge=256)
    """Largest path and query of a request; more is answered 414."""
    max_head_bytes: int = Field(default=64 << 10, ge=1024)
    """Largest request head; more is answered 431."""
    max_headers: int = Field(default=100, ge=20)
    """Most headers of a request; more are answered 431."""
    head_seconds: float = Field(default=30.0, gt=0.0, le=3600.0)
    """A connection without a whole request head for this long is closed."""
    keep_alive_seconds: int = Field(default=75, ge=1, le=3600)
    """A connection without a further request for this long is closed; keep it longer than workers
    pause."""
    json_body_seconds: float = Field(default=60.0, gt=0.0, le=3600.0)
    """Longest time for a whole JSON body; more is answered 408."""
    response_stall_seconds: float = Field(default=60.0, gt=0.0, le=3600.0)
    """A client that reads nothing of its answer for this long is cut off."""
    listen_backlog: int = Field(default=2048, ge=1)
    """Connections that the system keeps until they are accepted; it may keep fewer."""
    shutdown_seconds: int = Field(default=10, ge=1, le=3600)
    """A stop waits this long for requests that are being answered."""
    max_update_bytes: int = Field(default=2 << 30, gt=0)
    """The largest update, whatever a federation's tensors are."""
    upload_stall_seconds: float = Field(default=60.0, gt=0.0, le=3600.0)
    """Longest silence within an update before it is given up."""
    upload_seconds: float = Field(default=6 * 3600.0, gt=0.0, le=MAX_UPLOAD_SECONDS)
    """Longest time for a whole update; at most 12 hours."""
    tick_seconds: float = Field(default=1.0, gt=0.0, le=3600.0)
    """Time between two looks at deadlines, leases and the work of other coordinators."""
    aggregation_lease_seconds: float = Field(default=60.0, gt=0.0, le=86400.0)
    """A coordinator that dies while it aggregates is replaced after this time."""
    enrolment_token_seconds: float = Field(default=7 * 86400.0, gt=0.0, le=366 * 86400.0)
    """How long an invitation is valid."""
    keep_last_versions: int = Field(default=10, ge=1)
    """Number of newest versions whose weights are kept; older ones are removed."""
    keep_every_version: int = Field(default=0, ge=0)
    """With n, versions n, 2n, 3n … are kept for good too; 0 keeps none."""
    audit_days: int = Field(default=365, ge=30, le=36500)
    """Audit events are deleted after so many days; export them before with `hyperfl audit export`.
    """
    requests_per_second_per_token: float = Field(default=100.0, gt=0.0)
    """Rate of one token, averaged over 10 s; more is answered 429."""
    requests_per_second_per_address: float = Field(default=2000.0, gt=0.0)
    """The same for all workers at one address together."""
    unauthenticated_requests_per_second_per_address: float = Field(default=200.0, gt=0.0)
    """The same for enrolments, and for requests without a known token."""
    max_concurrent_requests: int = Field(default=10_000, ge=1)
    """Most requests at once, long polls included; more are answered 503."""
    max_concurrent_requests_per_token: int = Field(default=32, ge=1)
    """Most requests at once with one token, so of one client; more are answered 429."""
    traces: bool = False
    """`1` sends spans of each round to the OpenTelemetry collector that the standard `OTEL_*`
    variables name. It needs the extra `otel`."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    """`debug`, `info`, `warning` or `error`."""
    log_format: LogFormat | None = Field(
        default=None, json_schema_extra=shown("`console` on a terminal, else `json`")
    )
    """`json`: one object a line. `console`: text for people."""

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
        from coordinator.database.addresses import (  # noqa: PLC0415 - slow, and seldom needed
            checked_database_url,
        )

        return checked_database_url(url)

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("give both HYPERFL_TLS_CERTIFICATE and HYPERFL_TLS_KEY, or neither")
        return self

    @model_validator(mode="after")
    def _check_max_database_bytes(self) -> Self:
        is_sqlite = self.effective_database_url.startswith("sqlite")
        if self.max_database_bytes is not None and not is_sqlite:
            raise ValueError(
                "HYPERFL_MAX_DATABASE_BYTES is for SQLite only; bound PostgreSQL at its server"
            )
        return self

    def require_protection(self) -> None:
        """Raises ValueError where others than this machine could read what is sent."""
        is_allowed = self.plaintext == "behind-proxy" or is_loopback(self.host)
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
