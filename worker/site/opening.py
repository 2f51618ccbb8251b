"""What a worker has before it works: clients enrolled, method built, data and state loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
import torch
from pydantic import ValidationError

from shared.arrays import NamedArrays
from shared.federation.specification import FederationSpecification, ParameterSpecification
from shared.rest.schema import FederationView
from shared.rest.worker_about import WorkerAbout
from shared.validation import first_fault
from worker.errors import ConfigError, RequestFailed
from worker.methods.interface import Method, SiteResources, Trains
from worker.models.allowed_imports import AllowedImports
from worker.models.registry import pixel_statistics
from worker.remote.coordinator import Coordinator
from worker.remote.patience import Patience
from worker.remote.weights_cache import WeightsCache
from worker.secure_sum.member import Member
from worker.settings import ClientConfig, WorkerConfig, WorkerSettings
from worker.site import private_state, state_lock
from worker.site.admission import Door, NetworkDoor
from worker.site.coordinator_address import coordinator_address
from worker.site.device import about_worker, find_devices
from worker.site.free_memory import default_feature_cache_bytes, free_main_memory_bytes
from worker.site.hosted_client import HostedClient, load_client
from worker.site.needed_memory import FREE_SHARE, check_needed_memory
from worker.site.parts import STANDARD_PARTS, SiteParts
from worker.site.policy import check_examples, check_specification
from worker.site.site_keys import obtain_keys
from worker.site.spread_training import SpreadTraining

NOBODY_TAKEN = "the coordinator accepts none of this worker's clients"

_log = structlog.get_logger()


@dataclass(frozen=True)
class Site:
    """Everything a worker needs, ready to work.

    ``trainer`` does rounds, on all devices; ``method`` does all else, on the first.
    """

    specification: FederationSpecification
    method: Method
    trainer: Trains
    clients: Sequence[HostedClient]
    cache: WeightsCache
    patience: Patience
    about: WorkerAbout

    async def newest_weights(self) -> tuple[int, NamedArrays]:
        """The federation's newest weights, and their version.

        Raises:
            RequestFailed: the coordinator refuses, or is not reached.
            WeightsError: what it sends is not what it says.
        """
        http = self.clients[0].api
        federation = await self.patience.insist(
            "fetching the federation", lambda: http.fetch_federation(self.specification.name)
        )
        version = federation.weights_version
        return version, await self.cache.get(http, version, federation.weights_digest)

    def check_trained(self) -> None:
        """Raises ConfigError, naming all clients that have trained nothing of their own."""
        untrained = [one.name for one in self.clients if one.is_untrained(self.method)]
        if untrained:
            raise ConfigError(
                f"nothing of its own was trained by {', '.join(untrained)}, so the model would say "
                "nothing: run `hyperfl worker run` or `hyperfl worker personalize` before, or add "
                "--untrained"
            )


@asynccontextmanager
async def open_site(
    config: WorkerConfig,
    settings: WorkerSettings,
    parts: SiteParts = STANDARD_PARTS,
    door: Door | None = None,
) -> AsyncIterator[Site]:
    """Enrols who is not yet, fetches the specification, builds the method, loads data and state.

    ``door`` leads to the coordinator; None: the network.

    The way to the coordinator, device, tokens and data of clients that are not enrolled are looked
    at before: what is wrong at the site itself spends no token.

    Raises:
        ConfigError, DataError, ModelError, PrivateStateError: this site is not in order.
        RequestFailed: the coordinator refuses, or is not reached.
    """
    door = door or NetworkDoor(coordinator_address(config, settings, parts.transport))
    devices = find_devices(settings.device)
    max_bytes = settings.max_memory_bytes or int(FREE_SHARE * free_main_memory_bytes())
    door.check(config, parts.datasets(None, max_bytes))
    patience = Patience(
        settings.give_up_after_seconds, parts.sleep, is_found=False, on_retry=parts.on_retry
    )
    async with AsyncExitStack() as stack:
        members: list[tuple[ClientConfig, Coordinator]] = []
        for client in config.clients:
            stack.enter_context(state_lock.locked(client.state_dir))
            http, found = await door.admit(client, config.federation, patience)
            stack.push_async_callback(http.close)
            if found is not None:
                federation = found
                members.append((client, http))
        if not members:
            raise RequestFailed(NOBODY_TAKEN)
        specification = read_specification(federation, config.federation)
        check_specification(config.policy, specification, federation.specification_digest)
        check_needed_memory(specification, max_bytes)
        _warn_of_known_noise(specification, members)
        for client, _ in members:  # before anything that the specification names is run
            private_state.check_owner(
                client.state_dir,
                federation=specification.name,
                specification_digest=federation.specification_digest,
                client=client.name,
            )
        plan = specification.training
        method, *others = (
            parts.build_method(plan, device, resources_of(config, settings, device))
            for device in (devices if len(devices) == 1 else (devices[0], *devices))
        )
        _check_specification(specification.parameters, method)
        datasets = parts.datasets(pixel_statistics(specification.training.model), max_bytes)
        clients = []
        for client, http in members:
            hosted = load_client(
                client, http, specification, federation.specification_digest, method, datasets
            )
            check_examples(config.policy, client.name, len(hosted.data.train))
            hosted.tells_why = config.policy.decline_text
            clients.append(hosted)
        for (client, http), hosted in zip(members, clients, strict=True):
            hosted.member = await _membership(config, client, http, federation, patience)
        cache = WeightsCache(door.weights_folder(config), specification, patience)
        trainer = SpreadTraining(others) if others else method
        about = about_worker(devices[0])
        yield Site(specification, method, trainer, clients, cache, patience, about)


async def _membership(
    config: WorkerConfig,
    client: ClientConfig,
    http: Coordinator,
    federation: FederationView,
    patience: Patience,
) -> Member | None:
    """What the client is in secure sums, once the coordinator has its card; None without them."""
    specification = federation.checked_specification()
    if specification.protection is None:
        return None
    keys = obtain_keys(client.state_dir)
    card = keys.card(specification.name, client.name)
    await patience.insist("showing a client's card", lambda: http.put_card(card))
    return Member(
        keys,
        card,
        federation.specification_digest,
        max(specification.round_policy.minimum_updates, config.policy.minimum_cohort),
        minimum_trusted=config.policy.minimum_trusted_peers,
    )


def read_specification(federation: FederationView, asked: str) -> FederationSpecification:
    """Raises ConfigError unless a federation is the one that was asked for, and understood."""
    try:
        specification = federation.checked_specification()
    except ValidationError as error:
        raise ConfigError(
            f"this version does not understand the specification of federation "
            f"{federation.name}: {first_fault(error)}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"federation {federation.name}: {error}") from error
    if specification.name != asked:
        raise ConfigError(
            f"the coordinator was asked for federation {asked} and sent the specification of "
            f"{specification.name}"
        )
    return specification


def resources_of(
    config: WorkerConfig, settings: WorkerSettings, device: torch.device
) -> SiteResources:
    """What a method may use of this machine."""
    cache_bytes = settings.max_feature_cache_bytes
    if cache_bytes is None:
        cache_bytes = default_feature_cache_bytes(device)
    return SiteResources(
        max_factor_bytes=settings.max_factor_bytes,
        max_feature_cache_bytes=cache_bytes,
        backbone_weights_file=config.backbone_weights_file,
        allowed_imports=AllowedImports(config.allowed_imports),
    )


def _check_specification(given: ParameterSpecification, method: Method) -> None:
    """Raises ConfigError unless the federation shares exactly what the method shares here."""
    ours = method.parameters(given.seed).by_name
    for tensor in given.tensors:
        if tensor.name not in ours:
            raise ConfigError(f"the federation shares {tensor.name}, which its method does not")
        if tensor.shape != ours[tensor.name].shape:
            raise ConfigError(
                f"the federation's {tensor.name} has shape {list(tensor.shape)}, "
                f"but this site's model has {list(ours[tensor.name].shape)}"
            )
    if missing := sorted(ours.keys() - given.by_name.keys()):
        raise ConfigError(f"the federation does not share {missing[0]}, which its method needs")


def _warn_of_known_noise(
    specification: FederationSpecification, members: Sequence[tuple[ClientConfig, Coordinator]]
) -> None:
    if specification.training.privacy is None:
        return
    for client, _ in members:
        if client.seed is not None:
            _log.warning(
                "noise of a seed that the configuration names protects nothing: for trials only",
                client=client.name,
            )
