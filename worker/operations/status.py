"""What each hosted client has done in its federation, and what of its privacy budget is spent."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared.rest.schema import FederationView
from worker.errors import Refused, RequestFailed
from worker.remote.connection import Transport
from worker.remote.coordinator_api import CoordinatorApi
from worker.settings import ClientConfig, WorkerConfig, WorkerSettings
from worker.site import history, private_state
from worker.site.best_version import BestVersion, read_best
from worker.site.coordinator_address import coordinator_address
from worker.site.enrolment import CREDENTIAL_NAME, read_credential
from worker.site.history import HistoryRow
from worker.site.peers import load_peers
from worker.site.round_ledger import load_ledger


@dataclass(frozen=True)
class ClientStatus:
    """One hosted client. What only the coordinator knows is None where it did not say it.

    Attributes:
        client: its name.
        federation: the federation's state, or why it is not known.
        rounds: rounds that it has trained, failed ones too.
        last_round: the number of the newest round that it has made an update of.
        trusted_peers: other clients whose keys people of this site have compared.
        epsilon_spent: ε of all its updates so far, at most; None without a plan of privacy.
        epsilon: the whole budget.
        history: the rounds that are kept of it, oldest first.
        best: what was best on its validation split; None without one.
    """

    client: str
    federation: str
    rounds: int
    last_round: int
    trusted_peers: int
    epsilon_spent: float | None = None
    epsilon: float | None = None
    history: tuple[HistoryRow, ...] = ()
    best: BestVersion | None = None


async def client_statuses(
    config: WorkerConfig, settings: WorkerSettings, transport: Transport | None = None
) -> list[ClientStatus]:
    """Each hosted client's, in the order of the file; a worker may be running.

    The coordinator is asked once. What this site knows by itself is said without it, too.

    Raises:
        PrivateStateError: what a client has kept cannot be read.
    """
    return [await _status(config, settings, client, transport) for client in config.clients]


async def _status(
    config: WorkerConfig,
    settings: WorkerSettings,
    client: ClientConfig,
    transport: Transport | None,
) -> ClientStatus:
    status = ClientStatus(
        client.name,
        "",
        rounds=load_ledger(client.state_dir).num_rounds,
        last_round=private_state.read_last_round(client.state_dir),
        trusted_peers=len(load_peers(client.state_dir).trusted),
        history=tuple(history.read(client.state_dir)),
        best=read_best(client.state_dir),
    )
    try:
        view = await _federation(config, settings, client, transport)
        privacy = view.checked_specification().training.privacy
    except (RequestFailed, ValueError) as error:
        reason = error.problem.detail if isinstance(error, Refused) else str(error)
        return replace(status, federation=reason)
    status = replace(status, federation=view.state.value)
    if privacy is None:
        return status
    return replace(
        status,
        epsilon_spent=privacy.epsilon_after(status.last_round),
        epsilon=privacy.epsilon,
    )


async def _federation(
    config: WorkerConfig,
    settings: WorkerSettings,
    client: ClientConfig,
    transport: Transport | None,
) -> FederationView:
    file = client.state_dir / CREDENTIAL_NAME
    if not file.exists():
        raise RequestFailed("not enrolled")
    api = CoordinatorApi(coordinator_address(config, settings, transport), read_credential(file))
    try:
        return await api.fetch_federation(config.federation)
    finally:
        await api.close()
