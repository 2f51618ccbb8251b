"""Which version of a client's model is meant: the newest, the best, or one by its number."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Literal

import torch

from shared.arrays import NamedArrays
from worker.errors import ConfigError, PrivateStateError
from worker.methods.interface import Participant
from worker.site.hosted_client import HostedClient
from worker.site.opening import Site

Which = Literal["final", "best"] | int
"""``final``: the newest weights with today's private tensors. ``best``: what was best on the
validation split. A number: the weights of this version, of a client without private tensors."""


@dataclass(frozen=True, eq=False)
class ChosenVersion:
    """Weights, and a client with the private tensors that go with them.

    Attributes:
        version: of the weights.
        digest: of the weights.
        weights: float32 by name.
        participant: the client.
    """

    version: int
    digest: str
    weights: NamedArrays
    participant: Participant


def parse_which(text: str) -> Which:
    """What a person wrote. Raises ConfigError if it is none of these."""
    if text == "final":
        return "final"
    if text == "best":
        return "best"
    if text.isascii() and text.isdigit():
        return int(text)
    raise ConfigError(f"--which must be final, best or the number of a version, not {text}")


async def choose_version(site: Site, client: HostedClient, which: Which) -> ChosenVersion:
    """The version that is meant.

    Raises:
        ConfigError: no best version was kept, or today's private tensors do not fit the version.
        PrivateStateError: the best version cannot be read, or is another federation's.
        Refused: the coordinator has no such version any longer.
        WeightsError: what the coordinator sends is not what it says.
    """
    if which == "best":
        return await asyncio.to_thread(_best, site, client)
    http, name = client.api, site.specification.name
    federation = await site.patience.insist(
        "fetching the federation", lambda: http.fetch_federation(name)
    )
    version, digest = federation.weights_version, federation.weights_digest
    if which not in ("final", version):
        wanted = int(which)
        if client.state.tensors:
            raise ConfigError(
                f"weights version {wanted} would be paired with today's private tensors of client "
                f"{client.name}, which are trained beside version {version}: use --which final"
            )
        version = wanted
        digest = await site.patience.insist(
            "fetching the version's digest", lambda: http.fetch_weights_digest(name, version)
        )
    weights = await site.cache.get(http, version, digest)
    return ChosenVersion(version, digest, weights, client.participant())


def _best(site: Site, client: HostedClient) -> ChosenVersion:
    kept = client.load_best()
    if kept is None:
        raise ConfigError(
            f"client {client.name} has no best version: that is chosen by a validation split in "
            "rounds that the client trains"
        )
    private = {name: torch.from_numpy(array.copy()) for name, array in kept.private.items()}
    try:
        site.method.check_private(private)
    except ValueError as error:
        raise PrivateStateError(f"client {client.name}: its best version: {error}") from error
    about = kept.about
    participant = replace(client.participant(), private=private)
    return ChosenVersion(about.weights_version, about.weights_digest, kept.weights, participant)
