"""Fetch, train and send over one folder: a worker's weights, and its crash rules."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.specification import FederationSpecification
from tests.support.coordinator import RunningCoordinator, on_sqlite, running_coordinator
from tests.support.crash_points import listening_to_crash_points
from tests.support.hosted_clients import client_config, stub_parts
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from tests.support.sum_members import protected_specification
from tests.support.waiting import RecordedSleep
from worker.errors import ConfigError, NoCoordinator, PrivateStateError
from worker.remote.connection import Connection
from worker.rounds import loop
from worker.settings import WorkerConfig, WorkerSettings
from worker.site import private_state
from worker.site.parts import SiteParts
from worker.site.state_lock import locked
from worker.spool.fetching import fetch
from worker.spool.folder import Spool
from worker.spool.outcomes import Outcome
from worker.spool.sending import send
from worker.spool.training import train

pytestmark = [pytest.mark.integration, on_sqlite]

_SETTINGS = WorkerSettings(poll_wait_seconds=0.0, device="cpu")
_NAMES = ("a", "b")


class Killed(BaseException):
    """Ends a command as a kill would."""


class _NoNetwork(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pytest.fail(f"training asked for {request.url}")


@dataclass
class Cluster:
    """A site with a login node, a compute node, and a folder that both see."""

    coordinator: RunningCoordinator
    specification: FederationSpecification
    config: WorkerConfig
    spool: Path
    method: StubMethod

    @property
    def online(self) -> SiteParts:
        transport = httpx.ASGITransport(self.coordinator.app)
        return stub_parts(self.method, transport, RecordedSleep())

    async def fetch(self) -> list[Outcome]:
        self.coordinator.clock.advance(0.1)
        return await fetch(self.config, _SETTINGS, self.spool, parts=self.online)

    async def train(self, stop: threading.Event | None = None) -> list[Outcome]:
        parts = replace(self.online, transport=_NoNetwork())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connection, "__init__", lambda *_: pytest.fail("a connection is made"))
            return await train(self.config, _SETTINGS, self.spool, stop or threading.Event(), parts)

    async def send(self) -> list[Outcome]:
        sent = await send(self.config, _SETTINGS, self.spool, parts=self.online)
        await self.coordinator.driver.step()
        return sent

    async def work(self) -> None:
        """Until the federation has ended."""
        while (await self.coordinator.show("tiny"))["state"] == "running":
            await self.fetch()
            await self.train()
            await self.send()
            await self.coordinator.driver.step()

    def pending(self, name: str) -> bytes | None:
        (client,) = self.config.only(name).clients
        kept = private_state.load(
            client.state_dir,
            federation="tiny",
            specification_digest=Spool(self.spool).federation(self.config).specification_digest,
            client=name,
        )
        return None if kept is None or kept.pending is None else kept.pending.content


async def cluster_of(
    coordinator: RunningCoordinator, specification: FederationSpecification, folder: Path
) -> Cluster:
    await coordinator.create(specification)
    clients = []
    for number, name in enumerate(_NAMES):
        token = await coordinator.invite("tiny", name)
        clients.append(client_config(folder, name, enrolment_token=token, seed=number))
    config = WorkerConfig(
        coordinator_url="http://coordinator", federation="tiny", clients=tuple(clients)
    )
    method = StubMethod(specification.parameters)
    cluster = Cluster(coordinator, specification, config, folder / "spool", method)
    if specification.protection is None:
        await cluster.fetch()  # enrols, and is counted from then on
    await coordinator.act("tiny", "start")
    await coordinator.driver.step()
    return cluster


def plain(**policy: object) -> FederationSpecification:
    return tiny_specification(**{"evaluate_final": True, "cohort_size": 2} | policy)


def private() -> FederationSpecification:
    specification = plain(max_relative_norm=None)
    plan = PrivacyPlan(rounds=2, noise_multiplier=8.0, unit="client")
    training = specification.training.model_copy(update={"privacy": plan})
    return specification.model_copy(update={"training": training})


async def digest(coordinator: RunningCoordinator) -> str:
    shown = await coordinator.show("tiny")
    assert (shown["state"], shown["weights_version"]) == ("finished", 2)
    found: str = shown["weights_digest"]
    return found


@contextmanager
def killed_at(point: str) -> Iterator[None]:
    def at(name: str) -> None:
        if name == point:
            raise Killed

    with listening_to_crash_points(at), pytest.raises(Killed):
        yield


@pytest.mark.parametrize("specification", [plain, private], ids=["plain", "dp"])
async def test_it_ends_with_the_weights_of_a_worker(
    coordinator: RunningCoordinator,
    tmp_path: Path,
    specification: Callable[[], FederationSpecification],
) -> None:
    cluster = await cluster_of(coordinator, specification(), tmp_path)
    await cluster.work()
    through_the_spool = await digest(coordinator)
    assert all(cluster.pending(name) is None for name in _NAMES)
    assert await by_a_worker(specification(), tmp_path / "worker") == through_the_spool


async def by_a_worker(specification: FederationSpecification, folder: Path) -> str:
    folder.mkdir()
    async with running_coordinator(f"sqlite:///{folder / 'a.db'}", folder) as coordinator:
        cluster = await cluster_of(coordinator, specification, folder)
        working = asyncio.create_task(
            loop.run(cluster.config, _SETTINGS, threading.Event(), cluster.online)
        )
        while not working.done():
            coordinator.clock.advance(0.1)
            await coordinator.driver.step()
            await asyncio.sleep(0.01)
        await working
        return await digest(coordinator)


async def test_each_step_may_be_killed_and_run_again(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    cluster = await cluster_of(coordinator, plain(), tmp_path)
    for _ in range(2):
        assert [one.state for one in await cluster.fetch()] == ["to be trained"] * 2
    with killed_at("trained"):
        await cluster.train()
    assert cluster.pending("a") is None
    with killed_at("state-saved"):
        await cluster.train()
    first = cluster.pending("a")
    assert first is not None
    assert [one.state for one in await cluster.train()] == ["to be sent"] * 2
    assert cluster.pending("a") == first
    assert cluster.method.trained.count(("b", 1)) == 1
    with killed_at("update-unconfirmed"):  # the answer is lost
        await cluster.send()
    assert cluster.pending("a") == first
    assert [one.state for one in await cluster.send()] == ["sent"] * 2
    assert await cluster.train() == []
    await cluster.work()
    assert await digest(coordinator)


async def test_a_round_that_is_over_is_dropped_and_ends_its_training(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    cluster = await cluster_of(coordinator, plain(deadline_seconds=50.0), tmp_path)
    await cluster.fetch()
    await cluster.train()
    coordinator.clock.advance(60.0)
    await coordinator.driver.step()
    await coordinator.driver.step()
    assert {one.round_number for one in await cluster.fetch()} == {2}
    assert [one.state for one in await cluster.train()] == [
        "left: an earlier update is to be sent first"
    ] * 2
    await cluster.send()
    assert all(cluster.pending(name) is None for name in _NAMES)
    assert [one.state for one in await cluster.train()] == ["to be sent"] * 2


async def test_a_task_whose_round_ends_in_training_is_taken_away(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    cluster = await cluster_of(coordinator, plain(deadline_seconds=50.0), tmp_path)
    await cluster.fetch()
    with locked(cluster.config.clients[0].state_dir):  # as training has it
        assert [one.state for one in await cluster.send()] == [
            "in training; to be trained, lease kept",
            "to be trained, lease kept",
        ]
        coordinator.clock.advance(60.0)
        await coordinator.driver.step()
        assert all("dropped: round 1 is" in one.state for one in await cluster.send())
    assert Spool(cluster.spool).task("a") is None
    assert await cluster.train() == []


async def test_a_lease_that_ran_out_in_the_queue_is_had_again(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    cluster = await cluster_of(coordinator, plain(lease_seconds=5.0), tmp_path)
    await cluster.fetch()
    await cluster.train()
    first = cluster.pending("a")
    coordinator.clock.advance(60.0)
    await coordinator.driver.step()
    assert [one.state for one in await cluster.send()] == ["sent"] * 2
    rounds = await coordinator.show("tiny/rounds/1")
    assert {one["state"] for one in rounds["assignments"]} == {"submitted"}
    assert first is not None


async def test_what_training_declines_is_said_when_there_is_a_network(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    cluster = await cluster_of(coordinator, plain(), tmp_path)
    await cluster.fetch()
    cluster.method.diverging.add("a")
    assert [one.state for one in await cluster.train()] == ["nothing to send", "to be sent"]
    assert await cluster.train() != []
    await cluster.send()
    shown = (await coordinator.show("tiny/rounds/1"))["assignments"]
    assert {one["client"]: one["state"] for one in shown} == {"a": "dropped", "b": "submitted"}
    assert Spool(cluster.spool).declined("a") is None


@pytest.mark.parametrize("decline_text", [True, False])
async def test_a_refused_update_is_declined_with_as_much_text_as_the_policy_lets_leave(
    coordinator: RunningCoordinator, tmp_path: Path, decline_text: bool
) -> None:
    refusing = plain(max_update_norm=1e-9, on_excess="reject")
    cluster = await cluster_of(coordinator, refusing, tmp_path)
    policy = cluster.config.policy.model_copy(update={"decline_text": decline_text})
    cluster.config = cluster.config.model_copy(update={"policy": policy})
    await cluster.fetch()
    await cluster.train()
    await cluster.send()
    shown = (await coordinator.show("tiny/rounds/1"))["assignments"]
    assert {one["reason_kind"] for one in shown} == {"update_refused"}
    assert all(("max_update_norm" in one["reason"]) is decline_text for one in shown)


async def test_a_stop_ends_training_and_keeps_the_task(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    cluster = await cluster_of(coordinator, plain(), tmp_path)
    await cluster.fetch()
    stop = threading.Event()
    stop.set()
    assert {one.state for one in await cluster.train(stop)} == {"stopped, to be trained again"}
    assert {one.state for one in await cluster.train()} == {"to be sent"}


async def test_secure_sums_are_refused_by_name(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    cluster = await cluster_of(coordinator, protected_specification(), tmp_path)
    with pytest.raises(ConfigError, match="tiny has secure sums"):
        await cluster.fetch()
    with pytest.raises(ConfigError, match=r"spool has no federation: run `hyperfl worker fetch`"):
        await cluster.train()


async def test_a_restored_private_state_is_refused_at_the_fetch(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    cluster = await cluster_of(coordinator, plain(), tmp_path)
    await cluster.fetch()
    file = cluster.config.clients[0].state_dir / private_state.FILE_NAME
    await cluster.train()
    await cluster.send()
    await cluster.fetch()
    await cluster.train()
    await cluster.send()
    file.unlink()
    with pytest.raises(PrivateStateError, match="accept-backup --client a"):
        await cluster.fetch()


async def test_who_is_not_reached_takes_nothing_away(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    cluster = await cluster_of(coordinator, plain(), tmp_path)
    await cluster.fetch()
    await cluster.train()
    before = cluster.pending("a")
    nowhere = replace(
        cluster.online, transport=httpx.MockTransport(lambda _: httpx.Response(200, text="login"))
    )
    with pytest.raises(NoCoordinator):
        await send(cluster.config, _SETTINGS, cluster.spool, parts=nowhere)
    assert cluster.pending("a") == before
    assert [one.state for one in await cluster.send()] == ["sent"] * 2
