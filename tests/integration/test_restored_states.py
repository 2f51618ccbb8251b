"""Private states that came from a backup, or of which a copy went on: noticed without sums too."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.access.identity import ClientPrincipal, identify
from coordinator.errors import StateRestored
from coordinator.operations import updates
from coordinator.operations.updates import IncomingUpdate
from coordinator.operations.upload_slots import UploadSlots
from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.specification import FederationSpecification, document_digest
from shared.rest.problems import ProblemType
from shared.rest.state_generation import StateGeneration
from shared.tensors.codec import MEDIA_TYPE
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.hosted_clients import client_config, stub_parts
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from tests.support.updates import update_bytes
from worker.errors import ConfigError, PrivateStateError
from worker.operations.restored_state import accept_backup
from worker.rounds import loop
from worker.settings import WorkerConfig, WorkerSettings
from worker.site import private_state
from worker.site.private_state import PrivateState

pytestmark = pytest.mark.integration

_SETTINGS = WorkerSettings(poll_wait_seconds=0.0, device="cpu")
_TIMEOUT_SECONDS = 120
_PRIVACY = PrivacyPlan(rounds=8, noise_multiplier=8.0, unit="client")


async def poll(coordinator: RunningCoordinator, generation: int, mark: str) -> httpx.Response:
    return await coordinator.http.get(
        "/v1/federations/tiny/task",
        params={"generation": generation, "mark": mark},
        headers=coordinator.credentials["a"],
    )


async def put(
    coordinator: RunningCoordinator, task: dict[str, Any], generation: int, mark: str
) -> httpx.Response:
    return await coordinator.http.put(
        f"/v1/federations/tiny/rounds/{task['round_number']}/updates/a",
        params={"attempt": task["attempt"], "generation": generation, "mark": mark},
        content=update_bytes(tiny_specification(), task),
        headers=coordinator.credentials["a"] | {"Content-Type": MEDIA_TYPE},
    )


def is_restored(answer: httpx.Response, generation: int) -> bool:
    problem = answer.json()
    return (problem["type"], problem.get("generation")) == (
        ProblemType.STATE_RESTORED.urn,
        generation,
    )


async def test_what_was_told_before_is_the_least_that_is_taken(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = (await poll(coordinator, 3, "0a")).json()
    for _ in range(2):  # an answer that was lost
        assert (await poll(coordinator, 3, "0a")).json() == task
    refused = await poll(coordinator, 2, "09")
    assert is_restored(refused, 3)
    assert refused.json()["last_round"] == 1
    assert is_restored(await poll(coordinator, 3, "0b"), 3)
    assert (await put(coordinator, task, 4, "0b")).status_code == 201
    assert (await put(coordinator, task, 4, "0b")).status_code == 200
    assert is_restored(await put(coordinator, task, 4, "0c"), 4)
    assert is_restored(await poll(coordinator, 3, "0a"), 4)
    # A worker of before says nothing, and goes on.
    assert (await coordinator.poll("tiny", "a")).status_code == 204


async def test_of_two_that_went_on_from_copies_at_once_one_is_recorded(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = (await poll(coordinator, 1, "0a")).json()
    answers = await asyncio.gather(*(put(coordinator, task, 2, mark) for mark in ("0b", "0c")))
    assert sorted(answer.status_code for answer in answers) == [201, 409]


async def test_a_copy_is_refused_though_its_request_began_before_the_same_bytes_were_recorded(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = (await poll(coordinator, 1, "0a")).json()
    authorization = coordinator.credentials["a"]["Authorization"]
    began = await identify(coordinator.context, authorization)
    assert isinstance(began, ClientPrincipal)
    assert (await put(coordinator, task, 2, "0b")).status_code == 201
    copied = IncomingUpdate(
        round_number=task["round_number"],
        attempt=task["attempt"],
        media_type=MEDIA_TYPE,
        content_length=None,
        body=_streamed(update_bytes(tiny_specification(), task)),
        state=StateGeneration(generation=2, mark="0c"),
    )
    with pytest.raises(StateRestored, match="another worker has gone on from a copy"):
        await updates.receive(coordinator.context, UploadSlots(), began, copied)


async def _streamed(content: bytes) -> AsyncIterator[bytes]:
    yield content


@on_sqlite
async def test_who_is_invited_anew_begins_with_another_state(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    assert (await poll(coordinator, 3, "0a")).status_code == 200
    await coordinator.enrol("tiny", "a")
    assert (await poll(coordinator, 0, "")).status_code == 200


async def _sleep_shortly(_seconds: float) -> None:
    await asyncio.sleep(0.01)


@dataclass
class _Site:
    """One client's worker, which may be ended, and started again from another folder."""

    coordinator: RunningCoordinator
    specification: FederationSpecification
    config: WorkerConfig
    method: StubMethod

    @property
    def folder(self) -> Path:
        return self.config.clients[0].state_dir

    @property
    def state(self) -> PrivateState:
        found = private_state.load(
            self.folder,
            federation="tiny",
            specification_digest=document_digest(self.specification.document),
            client="a",
        )
        assert found is not None
        return found

    def copy(self, folder: Path) -> _Site:
        """Another machine's, with a copy of the folder."""
        shutil.copytree(self.folder, folder)
        client = self.config.clients[0].model_copy(update={"state_dir": folder})
        config = self.config.model_copy(update={"clients": (client,)})
        return _Site(self.coordinator, self.specification, config, self.method)

    def put_back(self, backup: _Site) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(backup.folder, self.folder)

    @property
    def transport(self) -> httpx.ASGITransport:
        return httpx.ASGITransport(self.coordinator.app)

    async def accept(self) -> None:
        await accept_backup(self.config, _SETTINGS, "a", self.transport)

    async def work(self, *, until_version: int) -> BaseException | None:
        """Works until there is that version of the weights; what the worker ended with, if so."""
        stop = threading.Event()
        parts = stub_parts(self.method, self.transport, _sleep_shortly)
        working = asyncio.create_task(loop.run(self.config, _SETTINGS, stop, parts))
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while (
                not working.done()
                and (await self.coordinator.show("tiny"))["weights_version"] < until_version
            ):
                self.coordinator.clock.advance(1.0)
                await self.coordinator.driver.step()
                await asyncio.sleep(0.01)
            stop.set()
            await asyncio.wait({working})
        return working.exception()


def _plain() -> FederationSpecification:
    return tiny_specification(rounds=8, deadline_seconds=20.0, max_failed_rounds=100)


def _private() -> FederationSpecification:
    plain = _plain()
    training = plain.training.model_copy(update={"privacy": _PRIVACY})
    return plain.model_copy(update={"training": training})


async def _start(
    coordinator: RunningCoordinator, specification: FederationSpecification, folder: Path
) -> _Site:
    await coordinator.create(specification)
    token = await coordinator.invite("tiny", "a")
    config = WorkerConfig(
        coordinator_url="http://coordinator",
        federation="tiny",
        clients=(client_config(folder, "a", enrolment_token=token),),
    )
    site = _Site(coordinator, specification, config, StubMethod(specification.parameters))
    await coordinator.act("tiny", "start")
    assert await site.work(until_version=1) is None
    return site


@on_sqlite
@pytest.mark.parametrize("specification", [_plain, _private])
async def test_a_site_goes_on_from_a_backup_when_it_says_so_and_repeats_no_round(
    coordinator: RunningCoordinator,
    tmp_path: Path,
    specification: Callable[[], FederationSpecification],
) -> None:
    site = await _start(coordinator, specification(), tmp_path / "here")
    backup = site.copy(tmp_path / "backup")
    assert await site.work(until_version=3) is None
    last = max(number for _, number in site.method.trained)
    site.put_back(backup)
    for _ in range(3):  # starting again and again gets no farther
        refused = await site.work(until_version=4)
        assert isinstance(refused, PrivateStateError), refused
        assert "hyperfl worker accept-backup --client a" in str(refused)
        assert "\n" not in str(refused)
    await site.accept()
    assert site.state.last_round >= last
    assert site.state.seed != backup.state.seed
    site.method.trained.clear()
    assert await site.work(until_version=5) is None
    if specification is _private:
        assert min(number for _, number in site.method.trained) > last
    with pytest.raises(ConfigError, match="takes client a's private state as it is"):
        await site.accept()


@on_sqlite
async def test_of_two_machines_with_copies_the_second_is_refused_for_good(
    coordinator: RunningCoordinator, tmp_path: Path
) -> None:
    first = await _start(coordinator, _plain(), tmp_path / "here")
    second = first.copy(tmp_path / "there")
    assert await first.work(until_version=3) is None
    for _ in range(3):
        refused = await second.work(until_version=4)
        assert isinstance(refused, PrivateStateError), refused
    assert await first.work(until_version=4) is None
