"""A worker's new credential, with a coordinator that knows when the old one ends."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import httpx
import pytest

from tests.support.coordinator import RunningCoordinator
from tests.support.hosted_clients import client_config
from tests.support.specifications import tiny_specification
from worker.errors import ConfigError, PrivateStateError, RequestFailed
from worker.operations import rotation
from worker.settings import WorkerConfig, WorkerSettings
from worker.site import state_lock

pytestmark = pytest.mark.integration


class Killed(BaseException):
    """Ends the command as a crash would."""


@pytest.fixture
async def config(coordinator: RunningCoordinator, tmp_path: Path) -> WorkerConfig:
    """A worker with two enrolled clients."""
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "site-a", "site-b")
    clients = tuple(client_config(tmp_path, name) for name in ("site-a", "site-b"))
    for client in clients:
        client.state_dir.mkdir()
        secret = coordinator.credentials[client.name]["Authorization"].removeprefix("Bearer ")
        (client.state_dir / "credential").write_text(secret + "\n")
    return WorkerConfig(coordinator_url="http://coordinator", federation="tiny", clients=clients)


class DeadlyTransport(httpx.ASGITransport):
    """The command dies when it asks for a path with this end."""

    def __init__(self, coordinator: RunningCoordinator, deadly: str | None) -> None:
        super().__init__(coordinator.app)
        self._deadly = deadly

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._deadly is not None and request.url.path.endswith(self._deadly):
            raise Killed
        return await super().handle_async_request(request)


async def rotate(
    coordinator: RunningCoordinator, config: WorkerConfig, deadly: str | None = None
) -> list[str]:
    transport = DeadlyTransport(coordinator, deadly)
    return await rotation.rotate_credentials(config, WorkerSettings(), transport)


def on_disk(config: WorkerConfig) -> list[str]:
    return [(client.state_dir / "credential").read_text().strip() for client in config.clients]


async def is_taken(coordinator: RunningCoordinator, credential: str) -> bool:
    headers = {"Authorization": f"Bearer {credential}"}
    shown = await coordinator.http.get("/v1/federations/tiny", headers=headers)
    assert shown.status_code in (200, 401)
    return shown.status_code == 200


async def test_every_client_gets_a_new_credential_and_the_old_ones_end(
    coordinator: RunningCoordinator, config: WorkerConfig
) -> None:
    old = on_disk(config)
    assert await rotate(coordinator, config) == ["site-a", "site-b"]
    new = on_disk(config)
    assert len({*old, *new}) == 4
    assert [await is_taken(coordinator, one) for one in old] == [False, False]
    assert [await is_taken(coordinator, one) for one in new] == [True, True]
    modes = [(client.state_dir / "credential").stat().st_mode for client in config.clients]
    assert {stat.S_IMODE(mode) for mode in modes} == {0o600}


@pytest.mark.parametrize("place", ["asking", "saving", "ending"])
async def test_a_client_always_has_a_credential_that_is_valid(
    coordinator: RunningCoordinator, config: WorkerConfig, place: str
) -> None:
    old = on_disk(config)

    deadly = {"asking": "/rotate", "saving": None, "ending": "/federations/tiny"}[place]
    if place == "saving":
        (config.clients[0].state_dir / ".credential.new").symlink_to("/dev/full")
    with pytest.raises((Killed, OSError)):
        await rotate(coordinator, config, deadly)
    assert (on_disk(config)[0] == old[0]) is (place != "ending")
    assert on_disk(config)[1] == old[1]
    assert await rotate(coordinator, config) == ["site-a", "site-b"]
    assert [await is_taken(coordinator, one) for one in on_disk(config)] == [True, True]
    assert [await is_taken(coordinator, one) for one in old] == [False, False]


async def test_a_client_that_a_worker_uses_is_left_alone(
    coordinator: RunningCoordinator, config: WorkerConfig
) -> None:
    old = on_disk(config)
    with (
        state_lock.locked(config.clients[0].state_dir),
        pytest.raises(PrivateStateError, match="in use by another worker"),
    ):
        await rotate(coordinator, config)
    assert on_disk(config) == old


async def test_a_client_that_is_not_enrolled_or_shut_out_is_named(
    coordinator: RunningCoordinator, config: WorkerConfig
) -> None:
    path = "/v1/federations/tiny/clients/site-a"
    assert (await coordinator.http.delete(path, headers=coordinator.admin)).status_code == 204
    with pytest.raises(RequestFailed, match="client site-a: the token is not valid"):
        await rotate(coordinator, config)
    await asyncio.to_thread((config.clients[0].state_dir / "credential").unlink)
    with pytest.raises(ConfigError, match="client site-a is not enrolled"):
        await rotate(coordinator, config)
