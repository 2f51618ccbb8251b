"""Looks at all that a site needs before it takes part; sends no data and spends no token."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from shared.federation.specification import FederationSpecification
from shared.validation import first_fault
from worker.errors import ConfigError
from worker.operations.check_coordinator import (
    FoundFederation,
    check_credential,
    check_reach,
)
from worker.operations.check_data import check_data
from worker.operations.check_dry_run import dry_run_round
from worker.operations.check_machine import (
    check_device,
    check_disk,
    check_memory,
    check_policy,
    check_states,
)
from worker.operations.check_rows import Row, Verdict, warning, worst
from worker.remote.connection import Transport
from worker.settings import WorkerConfig, WorkerSettings
from worker.site.coordinator_address import coordinator_address

_OF_THE_COORDINATOR = ("coordinator", "protocol", "clock", "TLS", "credential")


async def check(
    config: WorkerConfig,
    settings: WorkerSettings,
    *,
    specification_file: Path | None = None,
    dry_run: bool = False,
    transport: Transport | None = None,
) -> list[Row]:
    """Everything that was looked at, faults and all; nothing at the site is changed.

    Args:
        config: of the worker.
        settings: of the worker.
        specification_file: the federation's, where no client is enrolled yet.
        dry_run: whether to train a round that is thrown away.
        transport: replaces the network in tests.

    Raises:
        ConfigError: the file has no specification of this federation.
    """
    given = None if specification_file is None else _read(specification_file, config.federation)
    address = coordinator_address(config, settings, transport)
    rows = [*check_device(settings)]
    reach = await check_reach(address, datetime.now(UTC))
    rows += reach
    found: FoundFederation | None = None
    is_reached = worst(reach) is not Verdict.FAULT
    for client in config.clients:
        row, shown = await check_credential(
            client, address, config.federation, is_reached=is_reached
        )
        rows.append(row)
        found = found or shown
    specification = found.specification if found is not None else given
    digest = None if found is None else found.digest
    if specification is None:
        rows.append(
            warning(
                "specification",
                "unknown before a client is enrolled: policy, classes and model are not looked at; "
                "give the federation's file with --specification",
            )
        )
    else:
        rows += check_policy(config, specification, digest)
    rows += check_memory(settings, specification)
    rows += check_disk(config, specification)
    rows += check_states(config, specification, digest)
    rows += await asyncio.to_thread(lambda: [*check_data(config, specification)])
    if dry_run:
        # Whoever cannot be reached does not matter: nothing is sent.
        local = [row for row in rows if row.check not in _OF_THE_COORDINATOR]
        if specification is None:
            rows.append(warning("dry run", "not tried: the specification is unknown"))
        elif worst(local) is Verdict.FAULT:
            rows.append(warning("dry run", "not tried: there are faults"))
        else:
            rows += await asyncio.to_thread(
                lambda: [*dry_run_round(config, settings, specification)]
            )
    return rows


def _read(file: Path, federation: str) -> FederationSpecification:
    try:
        specification = FederationSpecification.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{file} is not a specification: {first_fault(error)}") from error
    if specification.name != federation:
        raise ConfigError(f"{file} specifies federation {specification.name}, not {federation}")
    return specification
