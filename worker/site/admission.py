"""How a site's clients come to their coordinator: enrolled with it over the network."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import structlog

from shared.rest.schema import FederationView
from worker.errors import Refused
from worker.remote.connection import CoordinatorAddress, way_to
from worker.remote.coordinator import Coordinator
from worker.remote.coordinator_api import CoordinatorApi
from worker.remote.patience import Patience
from worker.settings import ClientConfig, WorkerConfig
from worker.site import enrolment
from worker.site.enrolment import check_token, obtain_credential
from worker.site.parts import Datasets

_log = structlog.get_logger()


class Door(Protocol):
    """The way of a site's clients to their coordinator."""

    def weights_folder(self, config: WorkerConfig) -> Path:
        """Where versions of weights are kept."""

    def check(self, config: WorkerConfig, datasets: Datasets) -> None:
        """Raises ConfigError or DataError if it is known to lead nowhere, before it is taken."""

    async def admit(
        self, client: ClientConfig, federation: str, patience: Patience
    ) -> tuple[Coordinator, FederationView | None]:
        """The client's way to the coordinator, and the federation; None if it is shut out."""


class NetworkDoor:
    """By HTTP, see :class:`Door`."""

    def __init__(self, address: CoordinatorAddress) -> None:
        self._address = address

    def weights_folder(self, config: WorkerConfig) -> Path:
        """Beside the first client's private state."""
        return config.clients[0].state_dir / "weights"

    def check(self, config: WorkerConfig, datasets: Datasets) -> None:
        """See :class:`Door`; what is wrong at the site itself spends no token."""
        way_to(self._address)
        check_before_enrolling(config, datasets)

    async def admit(
        self, client: ClientConfig, federation: str, patience: Patience
    ) -> tuple[Coordinator, FederationView | None]:
        """See :class:`Door`."""
        return await admit(client, self._address, federation, patience)


def check_before_enrolling(config: WorkerConfig, datasets: Datasets) -> None:
    """Raises ConfigError or DataError if a client could not work with its token or its data."""
    new = [client for client in config.clients if check_token(client)]
    for client in new:
        datasets.try_out(client.data)


async def admit(
    client: ClientConfig, address: CoordinatorAddress, federation: str, patience: Patience
) -> tuple[CoordinatorApi, FederationView | None]:
    """The client's way to the coordinator, and the federation; None if the client is shut out."""
    http = CoordinatorApi(address, await obtain_credential(client, address, federation, patience))
    found = await _fetch_federation(client, http, federation, patience)
    if found is None and enrolment.forget_unused(client):
        await http.close()
        _log.info("enrolling again with the same token", client=client.name)
        try:
            credential = await obtain_credential(client, address, federation, patience)
        except Refused as refusal:
            if not refusal.shuts_out:
                raise
            return http, None
        http = CoordinatorApi(address, credential)
        found = await _fetch_federation(client, http, federation, patience)
    if found is not None:
        enrolment.confirm(client)
    return http, found


async def _fetch_federation(
    client: ClientConfig, http: CoordinatorApi, federation: str, patience: Patience
) -> FederationView | None:
    """The federation as this client is shown it; None if the client is shut out."""
    try:
        return await patience.insist(
            "fetching the federation", lambda: http.fetch_federation(federation)
        )
    except Refused as refusal:
        if not refusal.shuts_out:
            raise
        _log.error("client shut out", client=client.name, detail=refusal.problem.detail)
        return None
