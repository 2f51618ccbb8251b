"""Looks at what a worker needs of its own machine: device, memory, disk, private state."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from shared.federation.specification import FederationSpecification, document_digest
from worker.errors import ConfigError, PrivateStateError
from worker.operations.check_rows import Row, fault, ok, warning
from worker.settings import ClientConfig, WorkerConfig, WorkerSettings
from worker.site import best_version, history, private_state
from worker.site.device import find_devices
from worker.site.free_memory import free_main_memory_bytes
from worker.site.needed_memory import FREE_SHARE, check_needed_memory
from worker.site.policy import Verdict, find

_STATE = "private state"
_VERSIONS_ON_DISK = 3
"""Weights in the cache, the next that arrive, and an update with its residual."""
_LEAST_FREE_BYTES = 100 << 20


def check_device(settings: WorkerSettings) -> Iterator[Row]:
    """A row about each device that trains."""
    try:
        devices = find_devices(settings.device)
    except ConfigError as error:
        yield fault("device", error)
        return
    for device in devices:
        detail = str(device)
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            name = torch.cuda.get_device_name(device)
            detail = f"{device}: {name}, {_gib(free)} of {_gib(total)} free"
        yield ok("device", detail)


def check_memory(
    settings: WorkerSettings, specification: FederationSpecification | None
) -> Iterator[Row]:
    """A row about main memory."""
    free = free_main_memory_bytes()
    allowed = settings.max_memory_bytes or int(FREE_SHARE * free)
    if specification is not None:
        try:
            check_needed_memory(specification, allowed)
        except ConfigError as error:
            yield fault("memory", error)
            return
    yield ok("memory", f"{_gib(free)} free; a federation may ask for {_gib(allowed)}")


def check_disk(
    config: WorkerConfig, specification: FederationSpecification | None
) -> Iterator[Row]:
    """A row about the disk of each client's private state."""
    for client in config.clients:
        needed = _LEAST_FREE_BYTES
        if specification is not None:
            # A validation split keeps its best version, and for a moment the one before it.
            of_best = 0 if client.data.validation_fraction is None else 2
            needed += (_VERSIONS_ON_DISK + of_best) * specification.parameters.size_bytes
        free = shutil.disk_usage(_existing(client.state_dir)).free
        make = ok if free >= needed else warning
        said = f"{_gib(free)} free at {client.state_dir}; {_gib(needed)} are enough"
        yield make("disk", said, client.name)


def check_states(
    config: WorkerConfig, specification: FederationSpecification | None, digest: str | None
) -> Iterator[Row]:
    """A row about each client's private state, and about what else cannot be used beside it."""
    for client in config.clients:
        yield _state(client, config.federation, specification, digest)
        try:
            history.read(client.state_dir)
            best = best_version.read_best(client.state_dir)
            if best is not None and digest is not None:
                best_version.check_owner(
                    client.state_dir,
                    best,
                    federation=config.federation,
                    specification_digest=digest,
                    client=client.name,
                )
        except PrivateStateError as error:
            yield fault(_STATE, error, client.name)


def _state(
    client: ClientConfig,
    federation: str,
    specification: FederationSpecification | None,
    digest: str | None,
) -> Row:
    none_yet = ok(_STATE, f"none yet at {client.state_dir}", client.name)
    if not (client.state_dir / private_state.FILE_NAME).exists():
        return none_yet
    if specification is None or digest is None:
        return ok(_STATE, f"there is one at {client.state_dir}, not read", client.name)
    try:
        found = private_state.load(
            client.state_dir,
            federation=federation,
            specification_digest=digest,
            client=client.name,
        )
    except PrivateStateError as error:
        return fault(_STATE, error, client.name)
    if found is None:
        return none_yet
    waits = "" if found.pending is None else "; an update waits to be sent"
    return ok(_STATE, f"trained to round {found.last_round}{waits}", client.name)


def check_policy(
    config: WorkerConfig, specification: FederationSpecification, digest: str | None
) -> Iterator[Row]:
    """A row for each thing that the site's policy refuses, or one that it refuses none."""
    digest = digest or document_digest(specification.document)
    findings = find(config.policy, specification, digest)
    refused = [one for one in findings if one.verdict is Verdict.REFUSED]
    for one in refused:
        yield fault("policy", f"{one.member} is {one.says}; the federation asks for {one.asks}")
    if not refused:
        depends = [one.member for one in findings if one.verdict is Verdict.DEPENDS]
        rest = f"; {', '.join(depends)} is seen when it runs" if depends else ""
        yield ok("policy", f"refuses nothing that the federation asks for{rest}")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that there is."""
    return next(one for one in (folder, *folder.parents) if one.exists())


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.2f} GiB"
