"""A client's privacy budget across retried rounds, lost leases, crashes and refused updates."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shared.federation.specification import FederationSpecification, RoundPolicy
from shared.rest.problems import ProblemType
from tests.support.crash_points import listening_to_crash_points
from tests.support.fake_coordinator import FakeCoordinator, Request, credential, problem
from tests.support.hosted_clients import NUM_TRAIN_EXAMPLES, RandomDatasets, client_config
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES, RESOURCES
from tests.support.waiting import RecordedSleep
from worker.methods import build_method
from worker.metrics import WorkerMetrics
from worker.operations.specification import build_specification
from worker.remote.coordinator_api import CoordinatorApi
from worker.remote.patience import Patience
from worker.remote.weights_cache import WeightsCache
from worker.rounds.held_task import HeldTask
from worker.rounds.policy_gate import PolicyGate
from worker.rounds.round_work import RoundWork
from worker.rounds.update_writer import PlainWriter
from worker.site.hosted_client import HostedClient, load_client
from worker.site.private_state import FILE_NAME
from worker.site_policy import SitePolicy

ROUNDS, STEPS_PER_ROUND = 2, 3


class Killed(Exception):
    """Ends a worker as a crash would, between two requests."""


def private_specification() -> FederationSpecification:
    return build_specification(
        "private",
        method="dp-fedavg",
        model="tests.support.extractors:tiny_without_normalisation",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters={"epochs": 1, "batch_size": 2},
        round_policy=RoundPolicy(rounds=ROUNDS),
        encoding={"name": "dense"},  # type: ignore[arg-type]
        seed=1,
    )


class Site:
    """One client of dp-fedavg whose worker may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coordinator = FakeCoordinator(private_specification())
        self.method = build_method(
            self.coordinator.specification.training, torch.device("cpu"), RESOURCES
        )
        self.groups: list[RoundWork] = []

    async def work(self, round_number: int) -> HostedClient:
        """A new worker, which does the client's task of this round."""
        tasks = self.coordinator.tasks.setdefault("alice", [])
        if not tasks or tasks[0].round_number != round_number:
            tasks.clear()
            self.coordinator.add_task("alice", round_number)
        specification = self.coordinator.specification
        patience = Patience(60.0, RecordedSleep())
        cache = WeightsCache(self.folder / "weights", specification, patience)
        stop = threading.Event()
        gate = PolicyGate(SitePolicy(), specification.training)
        self.groups.append(
            RoundWork(
                PlainWriter(specification),
                self.method,
                cache,
                patience,
                stop,
                gate,
                WorkerMetrics(),
            )
        )
        client = self.client()
        await self.groups[-1].do([HeldTask(client, tasks[0])])
        return client

    def client(self) -> HostedClient:
        """The client as a worker that starts now finds it."""
        connection = CoordinatorApi(self.coordinator.address, credential("alice"))
        datasets = RandomDatasets()
        return load_client(
            client_config(self.folder, "alice"),
            connection,
            self.coordinator.specification,
            self.coordinator.specification_digest,
            self.method,
            datasets,
        )

    @property
    def steps(self) -> int:
        return int(self.client().state.tensors["privacy.steps"])

    @property
    def sent(self) -> set[bytes]:
        """Different updates that have left the site."""
        return set(self.coordinator.updates())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for group in made.groups:
        group.close()


async def test_a_budget_for_two_rounds_ends_after_two_rounds(site: Site) -> None:
    assert -(-NUM_TRAIN_EXAMPLES // 2) == STEPS_PER_ROUND
    for round_number in (1, 2):
        await site.work(round_number)
        assert site.steps == round_number * STEPS_PER_ROUND
    client = await site.work(3)
    assert client.failed_in_round == 3
    assert len(site.sent) == ROUNDS
    assert site.steps == ROUNDS * STEPS_PER_ROUND


@pytest.mark.parametrize(
    "kind", [ProblemType.ROUND_CLOSED, ProblemType.STALE_BASE_VERSION, ProblemType.UPDATE_CONFLICT]
)
async def test_what_a_refused_update_said_stays_spent(site: Site, kind: ProblemType) -> None:
    for round_number in (1, 2):
        site.coordinator.answer("PUT", "/alice", problem(kind))
        await site.work(round_number)
    assert (await site.work(3)).failed_in_round == 3
    assert len(site.sent) == ROUNDS


async def test_a_round_that_is_leased_again_sends_the_same_and_costs_nothing_more(
    site: Site,
) -> None:
    for _ in range(4):
        site.coordinator.answer("PUT", "/alice", problem(ProblemType.LEASE_LOST))
        await site.work(1)
    await site.work(1)
    assert len(site.sent) == 1
    assert site.steps == STEPS_PER_ROUND


async def test_a_worker_killed_with_an_update_unsent_counts_it_once(site: Site) -> None:
    def kill(request: Request) -> None:
        if request.method == "PUT":
            raise Killed

    site.coordinator.receive = kill
    with pytest.raises(Killed):
        await site.work(1)
    assert site.steps == STEPS_PER_ROUND
    site.coordinator.receive = lambda _: None
    await site.work(2)
    assert site.steps == ROUNDS * STEPS_PER_ROUND
    assert len(site.sent) == ROUNDS
    assert (await site.work(3)).failed_in_round == 3
    assert len(site.sent) == ROUNDS


async def test_a_worker_killed_while_it_trains_has_said_nothing_and_spent_nothing(
    site: Site,
) -> None:
    def kill(point: str) -> None:
        if point == "trained":
            raise Killed

    with listening_to_crash_points(kill), pytest.raises(Killed):
        await site.work(1)
    assert site.sent == set()
    assert site.steps == 0
    for round_number in (1, 2):
        await site.work(round_number)
    assert site.steps == ROUNDS * STEPS_PER_ROUND


async def test_a_state_that_cannot_be_written_sends_nothing(site: Site) -> None:
    site.client()
    (site.folder / "alice" / f".{FILE_NAME}.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        await site.work(1)
    assert site.sent == set()
