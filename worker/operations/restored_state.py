"""A client goes on from a private state that came from a backup, because its newest is lost."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.federation.specification import FederationSpecification
from shared.rest.problems import ProblemType
from shared.rest.schema import Count, FederationView
from shared.rest.state_generation import StateGeneration
from shared.validation import MAX_COUNT
from worker.errors import ConfigError, Refused, RequestFailed
from worker.methods.private_model import STEPS
from worker.remote.connection import Transport
from worker.remote.coordinator_api import CoordinatorApi
from worker.remote.patience import Patience
from worker.settings import ClientConfig, WorkerConfig, WorkerSettings
from worker.site import private_state, state_lock
from worker.site.coordinator_address import coordinator_address
from worker.site.enrolment import CREDENTIAL_NAME, read_credential
from worker.site.hosted_client import SEED_BITS
from worker.site.opening import read_specification
from worker.site.private_state import PrivateState


class Known(BaseModel):
    """What the coordinator knows of a client's private state when it refuses an older one.

    Attributes:
        generation: updates that the newest state was saved with.
        last_round: the newest round that the client had work in.
    """

    model_config = ConfigDict(frozen=True)

    generation: Annotated[int, Field(ge=0, lt=MAX_COUNT)]
    last_round: Count


async def accept_backup(
    config: WorkerConfig,
    settings: WorkerSettings,
    client: str,
    transport: Transport | None = None,
) -> Known:
    """Makes an older private state the client's newest; returns what the coordinator knew.

    No round is trained again that the client has had work in, so no budget for rounds is spent
    twice. Noise comes from a new seed. What an update left out, and one that was not answered, are
    forgotten. Killed at any point, the command may be repeated.

    Raises:
        ConfigError: the coordinator takes the state as it is; or it is a state whose budget, or
            whose sums, nobody else knows.
        PrivateStateError: a worker is using the client, or its state cannot be used.
        RequestFailed: the coordinator does not take the credential, or is not reached.
    """
    (found,) = config.only(client).clients
    address = coordinator_address(config, settings, transport)
    patience = Patience(settings.give_up_after_seconds, is_found=False)
    with state_lock.locked(found.state_dir):
        file = found.state_dir / CREDENTIAL_NAME
        if not file.exists():
            raise ConfigError(f"client {client} is not enrolled, so no state of it is refused")
        api = CoordinatorApi(address, read_credential(file))
        try:
            federation = await patience.insist(
                "fetching the federation", lambda: api.fetch_federation(config.federation)
            )
            specification = read_specification(federation, config.federation)
            state = _load(found, specification, federation)
            known = await _what_is_known(api, state, patience)
        finally:
            await api.close()
        private_state.save(found.state_dir, _going_on(state, known))
    return known


def _load(
    client: ClientConfig, specification: FederationSpecification, federation: FederationView
) -> PrivateState:
    if specification.protection is not None:
        raise ConfigError(
            f"federation {specification.name} has secure sums: use hyperfl worker keys renew "
            f"--client {client.name}"
        )
    state = private_state.load(
        client.state_dir,
        federation=specification.name,
        specification_digest=federation.specification_digest,
        client=client.name,
    )
    if state is None:
        raise ConfigError(f"client {client.name} has no private state in {client.state_dir}")
    if STEPS in state.tensors:
        raise ConfigError(
            f"method {specification.training.method} counts its privacy budget in the private "
            f"state alone, so nobody knows what a backup has forgotten: enrol client {client.name} "
            "anew, with an empty state_dir"
        )
    return state


async def _what_is_known(api: CoordinatorApi, state: PrivateState, patience: Patience) -> Known:
    try:
        await patience.insist(
            "asking whether the private state is refused",
            lambda: api.next_task(state.federation, 0.0, state=state.generation),
        )
    except Refused as refusal:
        if not refusal.is_a(ProblemType.STATE_RESTORED):
            raise RequestFailed(f"client {state.client}: {refusal.problem.detail}") from refusal
        try:
            return Known.model_validate(refusal.problem.model_extra)
        except ValidationError as error:
            raise RequestFailed(
                "the coordinator does not say what it knows of the private state"
            ) from error
    raise ConfigError(
        f"the coordinator takes client {state.client}'s private state as it is: nothing was changed"
    )


def _going_on(state: PrivateState, known: Known) -> PrivateState:
    return replace(
        state,
        seed=secrets.randbits(SEED_BITS),
        residual={},
        last_round=max(state.last_round, known.last_round),
        pending=None,
        generation=StateGeneration.after(known.generation),
    )
