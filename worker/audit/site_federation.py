"""A site's own client in its own federation. Nothing of its data leaves, and its state stays."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError

from shared.arrays import NamedArrays
from shared.federation.specification import FederationSpecification
from shared.validation import first_fault
from worker.audit.subject import Subject, divide_public
from worker.data.client_data import ClientData, Examples
from worker.data.loading import DatasetCache
from worker.errors import ConfigError
from worker.methods import build_method
from worker.methods.interface import Participant, SiteResources
from worker.models.allowed_imports import AllowedImports
from worker.models.registry import pixel_statistics
from worker.settings import ClientConfig, WorkerConfig, WorkerSettings
from worker.site.hosted_client import SEED_BITS
from worker.site.opening import open_site
from worker.site.parts import STANDARD_PARTS, SiteParts

_CPU = torch.device("cpu")
_STAND_INS = 19
_SEED = 2022


def read_specification(file: Path) -> FederationSpecification:
    """A specification as ``hyperfl worker specify`` writes it. Raises ConfigError if it is none."""
    try:
        return FederationSpecification.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{file} is not a specification: {first_fault(error)}") from error


def offline_subject(
    config: WorkerConfig, client: ClientConfig, specification: FederationSpecification
) -> Subject:
    """The first round of a federation that need not exist yet. No coordinator is asked.

    Raises:
        WorkerError: data or model cannot be used.
    """
    training = specification.training
    resources = SiteResources(
        backbone_weights_file=config.backbone_weights_file,
        allowed_imports=AllowedImports(config.allowed_imports),
    )
    method = build_method(training, _CPU, resources)
    datasets = DatasetCache(pixel_statistics(training.model))
    members = [client, *(one for one in config.clients if one.name != client.name)]
    participants = []
    for one in members:
        seed = secrets.randbits(SEED_BITS) if one.seed is None else one.seed
        data = datasets.client_data(
            one.data,
            training.image_shape,
            training.num_classes,
            training.class_names,
            training.features,
        )
        participants.append(Participant(one.name, data, method.initial_private(seed), seed))
    weights = specification.parameters.initial_values()
    origin = "a site's own data, at the federation's first weights; no coordinator was asked"
    return _subject(config, specification, participants, weights, 1, origin)


async def online_subject(
    config: WorkerConfig,
    settings: WorkerSettings,
    client: ClientConfig,
    parts: SiteParts = STANDARD_PARTS,
) -> Subject:
    """The round after the federation's newest weights, with the client's private state.

    The coordinator is asked for specification and weights, as by ``hyperfl worker evaluate``.

    Raises:
        WorkerError: the site is not in order, or the coordinator refuses or is not reached.
    """
    async with open_site(config, settings, parts) as site:
        version, weights = await site.newest_weights()
        participants = [one.participant() for one in site.clients]
        participants.sort(key=lambda one: one.name != client.name)
        number = max(one.state.last_round for one in site.clients) + 1
        specification = site.specification
    origin = f"a site's own data and private state, at the federation's weights {version}"
    return _subject(config, specification, participants, weights, number, origin)


def _subject(
    config: WorkerConfig,
    specification: FederationSpecification,
    participants: list[Participant],
    weights: NamedArrays,
    round_number: int,
    origin: str,
) -> Subject:
    client, *others = participants
    prior, candidates = divide_public(client.data.test, client.data.train, _SEED)
    allowed = AllowedImports(config.allowed_imports)
    method = build_method(specification.training, _CPU, SiteResources(allowed_imports=allowed))
    for index in range(len(others), _STAND_INS):
        data = ClientData(_some_of(prior, len(client.data.train), index), client.data.test)
        private = method.initial_private(index)
        others.append(Participant(f"stand-in-{index}", data, private, index))
    # Which place it has matters to no attack.
    client, *others = (replace(one, number=place) for place, one in enumerate([client, *others]))
    return Subject(
        specification=specification,
        weights=weights,
        client=client,
        others=others,
        prior=prior,
        candidates=candidates,
        policy=config.policy,
        round_number=round_number,
        origin=f"{origin}; the others of a cohort are {len(participants) - 1} clients of this "
        "worker and stand-ins that train on test images",
        allowed_imports=allowed,
    )


def _some_of(examples: Examples, count: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator)
    return examples.only(order[: min(count, max(1, len(examples) // 2))])
