"""A site whose private state came from a backup: refused, its keys renewed, trusted again."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from shared.federation.specification import FederationSpecification
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.hosted_clients import client_config, stub_parts
from tests.support.stub_method import StubMethod
from tests.support.sum_members import protected_specification
from worker.errors import PeerChanged, PrivateStateError
from worker.operations.keys import own_cards, renew_keys
from worker.operations.peers import verify_peer
from worker.rounds import loop
from worker.settings import WorkerConfig, WorkerSettings

pytestmark = pytest.mark.integration

_NAMES = ("a", "b", "c")
_SETTINGS = WorkerSettings(poll_wait_seconds=1.0, device="cpu")
_TIMEOUT_SECONDS = 120


async def _sleep_shortly(_seconds: float) -> None:
    await asyncio.sleep(0.05)


@dataclass
class _Sites:
    """Three sites with a client each, and the coordinator that their workers find."""

    coordinator: RunningCoordinator
    specification: FederationSpecification
    configs: dict[str, WorkerConfig]

    @property
    def transport(self) -> httpx.ASGITransport:
        return httpx.ASGITransport(self.coordinator.app)

    def state_dir(self, name: str) -> Path:
        return self.configs[name].clients[0].state_dir

    def start(self, name: str, stop: threading.Event) -> asyncio.Task[None]:
        method = StubMethod(self.specification.parameters)
        parts = stub_parts(method, self.transport, _sleep_shortly)
        return asyncio.create_task(loop.run(self.configs[name], _SETTINGS, stop, parts), name=name)

    @asynccontextmanager
    async def working(self, *names: str) -> AsyncIterator[dict[str, asyncio.Task[None]]]:
        """Their workers, until the block ends; those that fail are looked at in it."""
        stop = threading.Event()
        workers = {name: self.start(name, stop) for name in names}
        try:
            yield workers
        finally:
            stop.set()
            await asyncio.gather(*workers.values(), return_exceptions=True)

    async def trust(self, name: str, other: str) -> None:
        """People of a site compare another's fingerprint."""
        (card,) = own_cards(self.configs[other])
        await verify_peer(self.configs[name], _SETTINGS, other, card.fingerprint, self.transport)

    async def step(self, seconds: float = 0.1) -> None:
        """Time passes, of which the limits on requests make their allowance too."""
        self.coordinator.clock.advance(seconds)
        await self.coordinator.driver.step()
        await asyncio.sleep(0.01)

    async def until_version(self, version: int) -> None:
        while (await self.coordinator.show("tiny"))["weights_version"] < version:
            await self.step()

    async def until_ended(self, worker: asyncio.Task[None]) -> BaseException:
        """What a worker ends with, while rounds go on."""
        while not worker.done():
            await self.step(seconds=5.0)
        error = worker.exception()
        assert error is not None
        return error


@pytest.fixture
async def sites(coordinator: RunningCoordinator, tmp_path: Path) -> _Sites:
    """Sites that trust each other, and a federation that has started."""
    specification = protected_specification(rounds=3, max_failed_rounds=100, deadline_seconds=60.0)
    await coordinator.create(specification)
    configs = {}
    for name in _NAMES:
        token = await coordinator.invite("tiny", name)
        client = client_config(tmp_path, name, enrolment_token=token)
        configs[name] = WorkerConfig(
            coordinator_url="http://coordinator", federation="tiny", clients=(client,)
        )
    found = _Sites(coordinator, specification, configs)
    async with asyncio.timeout(_TIMEOUT_SECONDS), found.working(*_NAMES):
        while len(await coordinator.show("tiny/cards")) < len(_NAMES):
            await found.step()
    for name in _NAMES:
        for other in _NAMES:
            if other != name:
                await found.trust(name, other)
    await coordinator.act("tiny", "start")
    return found


@on_sqlite
async def test_a_restored_site_goes_on_with_keys_that_the_others_trust_anew(
    sites: _Sites, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(sites.state_dir("a"), backup)
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        async with sites.working(*_NAMES):
            await sites.until_version(1)
        shutil.rmtree(sites.state_dir("a"))
        shutil.copytree(backup, sites.state_dir("a"))
        async with sites.working("a") as workers:
            refused = await sites.until_ended(workers["a"])
        assert isinstance(refused, PrivateStateError), refused
        assert "hyperfl worker keys renew --client a" in str(refused)

        renewed = renew_keys(sites.configs["a"], "a")
        # The round that is open has the old card: it fails, and the next one has the new.
        async with sites.working(*_NAMES) as workers:
            for name in ("b", "c"):
                while not workers[name].done():
                    await sites.step(seconds=1.0)
                changed = workers[name].exception()
                assert isinstance(changed, PeerChanged), changed
                command = f'worker peers verify --name a --fingerprint "{renewed.fingerprint}"'
                assert command in str(changed)
        for name in ("b", "c"):
            await sites.trust(name, "a")
        async with sites.working(*_NAMES):
            await sites.until_version(2)
