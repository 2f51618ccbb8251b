"""New credentials for hosted clients, in place of those that they have."""

from __future__ import annotations

import structlog

from worker.errors import ConfigError, Refused, RequestFailed
from worker.files import write_atomically
from worker.remote.connection import CoordinatorAddress, Transport
from worker.remote.coordinator_api import CoordinatorApi
from worker.remote.patience import Patience
from worker.settings import ClientConfig, WorkerConfig, WorkerSettings
from worker.site import enrolment, state_lock
from worker.site.coordinator_address import coordinator_address
from worker.site.enrolment import CREDENTIAL_NAME, read_credential

_log = structlog.get_logger()


async def rotate_credentials(
    config: WorkerConfig, settings: WorkerSettings, transport: Transport | None = None
) -> list[str]:
    """Replaces the credential of every client; returns their names.

    The coordinator takes the old credential until the new one is first used, and it is on disk
    before that: killed at any point, the client still has one that is valid.

    Raises:
        ConfigError: a client is not enrolled.
        PrivateStateError: a worker is using the client.
        RequestFailed: the coordinator does not take a credential, or is not reached.
    """
    address = coordinator_address(config, settings, transport)
    patience = Patience(settings.give_up_after_seconds, is_found=False)
    for client in config.clients:
        with state_lock.locked(client.state_dir):
            try:
                await _rotate(client, address, config.federation, patience)
            except Refused as refusal:
                raise RequestFailed(f"client {client.name}: {refusal.problem.detail}") from refusal
    return [client.name for client in config.clients]


async def _rotate(
    client: ClientConfig, address: CoordinatorAddress, federation: str, patience: Patience
) -> None:
    file = client.state_dir / CREDENTIAL_NAME
    if not file.exists():
        raise ConfigError(f"client {client.name} is not enrolled, so it has no credential yet")
    old = CoordinatorApi(address, read_credential(file))
    try:
        reply = await patience.insist(
            "asking for a new credential", lambda: old.rotate(federation, client.name)
        )
    finally:
        await old.close()
    if (reply.federation, reply.client) != (federation, client.name):
        raise RequestFailed(
            f"the coordinator sent client {client.name} a credential of client {reply.client} of "
            f"federation {reply.federation}; nothing was replaced"
        )
    write_atomically(file, reply.credential.encode() + b"\n")
    new = CoordinatorApi(address, reply.credential)
    try:
        await patience.insist("ending the old credential", lambda: new.fetch_federation(federation))
    finally:
        await new.close()
    enrolment.confirm(client)
    _log.info("credential replaced", client=client.name)
