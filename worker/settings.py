"""The worker's settings, and the TOML file that says which clients it hosts.

A wait is a setting where a site may know better. Those that depend on no site are constants beside
their use: the pauses between polls and tries, and the gathering of a round's clients.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.addresses import check_address, unprotected_host
from shared.environment import PREFIX, check_environment, shown
from shared.federation.specification import CLIENT_NAME, FEDERATION_NAME
from shared.terminal.logs import LogFormat
from shared.terminal.text_files import UnreadableText, read_text
from shared.validation import first_fault
from worker.data.source import DataSource
from worker.errors import ConfigError
from worker.site_policy import SitePolicy

_NAME = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
HostName = Annotated[str, Field(pattern=r"^[\w-]+(\.[\w-]+)*$", max_length=253)]
AllowedImport = Annotated[str, Field(pattern=rf"^{_NAME}(:{_NAME})?$", max_length=200)]


class WorkerSettings(BaseSettings):
    """What is the machine's matter and not the federation's, from ``HYPERFL_*`` variables."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    worker_config: Path | None = None
    """The worker's TOML file, where `--config` is not given."""
    coordinator_url: str | None = None
    """Replaces the address in the TOML file; the administrator's commands read it too."""
    allow_plaintext: bool = False
    """Reach a coordinator on another machine without TLS, where nobody can read the network
    between. It holds for the worker, whose TOML file can say so too, and for the administrator's
    commands."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` …; `auto` takes CUDA where it is. With several, such as
    `cuda:0,cuda:1`, a round's clients are spread over them; the first does all else."""
    give_up_after_seconds: float = Field(default=3600.0, gt=0.0)
    """A worker whose coordinator does not answer for this long ends with 1."""
    poll_wait_seconds: float = Field(default=20.0, ge=0.0, le=30.0)
    """How long the coordinator may hold a poll; at most 30: proxies cut silent connections."""
    request_timeout_seconds: float = Field(default=60.0, gt=0.0)
    """Longest silence within a request."""
    transfer_seconds: float = Field(default=6 * 3600.0, gt=0.0)
    """Longest request in all, with the weights or the update that it carries. A download goes on
    where it was broken off."""
    least_bytes_per_second: float = Field(default=8192.0, gt=0.0)
    """Least speed of a request's bodies; what is slower is broken off. Lower it for a slow line."""
    max_memory_bytes: int | None = Field(
        default=None, gt=0, json_schema_extra=shown("half of what is free at the start")
    )
    """Most memory that a federation may ask for: for its weights, for a batch of its images, and
    for the site's images at its size. One that asks for more is refused before anything is made."""
    max_factor_bytes: int = Field(default=1 << 30, gt=0)
    """Memory of each device for clients that train in lock step; those that need more train in
    parts."""
    max_feature_cache_bytes: int | None = Field(
        default=None, ge=0, json_schema_extra=shown("a quarter of what is free at the start")
    )
    """Memory on the training device for what a frozen backbone makes of images, and on a GPU for
    the images of other models; 0 keeps nothing."""
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, json_schema_extra=shown("no metrics")
    )
    """Port on which `hyperfl worker run` serves metrics to Prometheus, by HTTP and to anyone."""
    metrics_host: str = "127.0.0.1"
    """Address of that port. Who reaches it learns when this site trains, and how long."""
    site_page: str | None = Field(
        default=None, pattern=r"^[\w.-]+:\d{1,5}$", json_schema_extra=shown("no page")
    )
    """`127.0.0.1:8420`: where `hyperfl worker run` shows a page about its clients' rounds. Whoever
    reaches it reads it."""
    site_page_hosts: Annotated[tuple[HostName, ...], NoDecode] = Field(
        default=(), json_schema_extra=shown("none")
    )
    """Names that the page is asked by besides this machine's own, such as
    `site.example.org,site`. Without one the page stays on this machine."""
    traces: bool = False
    """`1` sends spans of each round to the OpenTelemetry collector that the standard `OTEL_*`
    variables name. It needs the extra `otel`."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    """`debug`, `info`, `warning` or `error`."""
    log_format: LogFormat | None = Field(
        default=None, json_schema_extra=shown("`console` on a terminal, else `json`")
    )
    """`json`: one object a line. `console`: text for people."""

    @field_validator("site_page_hosts", mode="before")
    @classmethod
    def _split(cls, names: Any) -> Any:
        return names.split(",") if isinstance(names, str) else names

    @model_validator(mode="before")
    @classmethod
    def _check_environment(cls, values: Any) -> Any:
        check_environment(os.environ, cls.model_fields)
        return values


class ClientConfig(BaseModel):
    """One hosted client: a ``[[clients]]`` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=CLIENT_NAME)
    state_dir: Path
    """Keeps the credential and the private state; nobody else's."""
    enrolment_token: str | None = None
    enrolment_token_file: Path | None = None
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    """Seed of the client's private draws, for experiments that must repeat; else from the system's
    entropy. Noise of a known seed protects nothing."""
    data: DataSource

    @model_validator(mode="after")
    def _check_token(self) -> Self:
        if self.enrolment_token is not None and self.enrolment_token_file is not None:
            raise ValueError("give enrolment_token or enrolment_token_file, not both")
        return self


class WorkerConfig(BaseModel):
    """The TOML file. Relative paths in it are relative to its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coordinator_url: str = Field(pattern=r"^https?://[^/\s]+(/\S*)?$")
    federation: str = Field(pattern=FEDERATION_NAME)
    allow_plaintext: bool = False
    """Whether `coordinator_url` may lead to another machine without TLS."""
    ca_file: Path | None = None
    """Certificates that may sign the coordinator's, instead of the system's."""
    backbone_weights_file: Path | None = None
    """This site's copy of the federation's pretrained backbone, instead of a download."""
    allowed_imports: tuple[AllowedImport, ...] = ()
    """Code of this machine's that the federation's specification may name: `package.module:name`,
    or a whole `package`."""
    policy: SitePolicy = SitePolicy()
    """What this site takes part in, whatever the federation asks."""
    clients: tuple[ClientConfig, ...] = Field(min_length=1)

    @field_validator("coordinator_url")
    @classmethod
    def _check_coordinator_url(cls, url: str) -> str:
        check_address(url)
        return url

    @model_validator(mode="after")
    def _check_clients(self) -> Self:
        for name, count in Counter(client.name for client in self.clients).items():
            if count > 1:
                raise ValueError(f"two clients have the name {name}")
        return self

    def only(self, name: str) -> Self:
        """The same worker with one of its clients alone.

        Raises:
            ConfigError: it hosts none of this name.
        """
        for client in self.clients:
            if client.name == name:
                return self.model_copy(update={"clients": (client,)})
        hosted = [client.name for client in self.clients]
        close = ", ".join(difflib.get_close_matches(name, hosted, n=3, cutoff=0.0))
        raise ConfigError(f"this worker hosts no client {name!r}; the closest are {close}")


def load_config(file: Path, settings: WorkerSettings) -> WorkerConfig:
    """Reads the TOML file; environment variables replace what they name.

    Raises:
        ConfigError: the file is missing or wrong; says where.
    """
    try:
        document = tomllib.loads(read_text(file))
    except UnreadableText as error:
        raise ConfigError(str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    if settings.coordinator_url is not None:
        document["coordinator_url"] = settings.coordinator_url
    try:
        config = WorkerConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_fault(error)}") from error
    host = unprotected_host(config.coordinator_url)
    if host is not None and not (config.allow_plaintext or settings.allow_plaintext):
        raise ConfigError(
            f"{file}: no TLS to {host}: use an https address, or write allow_plaintext = true if "
            "nobody can read the network between"
        )
    config = _with_absolute_paths(config, file.resolve().parent)
    for state_dir, count in Counter(client.state_dir for client in config.clients).items():
        if count > 1:
            raise ConfigError(f"{file}: two clients have the state_dir {state_dir}")
    return config


def _with_absolute_paths(config: WorkerConfig, folder: Path) -> WorkerConfig:
    def absolute(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    clients = tuple(
        client.model_copy(
            update={
                "state_dir": (folder / client.state_dir).resolve(),
                "enrolment_token_file": absolute(client.enrolment_token_file),
                "data": client.data.model_copy(
                    update={
                        "data_dir": absolute(client.data.data_dir),
                        "table_file": absolute(client.data.table_file),
                    }
                ),
            }
        )
        for client in config.clients
    )
    return config.model_copy(
        update={
            "clients": clients,
            "ca_file": absolute(config.ca_file),
            "backbone_weights_file": absolute(config.backbone_weights_file),
        }
    )
