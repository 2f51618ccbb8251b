"""Versions of weights at the worker: built, rebuilt, downloaded, kept; checked once each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from shared.arrays import Array, NamedArrays, digest_arrays
from shared.rest.problems import ProblemType
from shared.tensors import codec
from shared.tensors.version_deltas import advance_weights
from tests.support.chains import chain_file
from tests.support.fake_coordinator import FakeCoordinator, credential, problem, unavailable
from tests.support.specifications import tiny_specification
from tests.support.waiting import RecordedSleep
from worker.errors import Refused, WeightsError
from worker.remote.coordinator_api import CoordinatorApi
from worker.remote.patience import Patience
from worker.remote.weights_cache import WeightsCache


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator(tiny_specification(encoding="factored"))


@pytest.fixture
async def client(coordinator: FakeCoordinator) -> AsyncIterator[CoordinatorApi]:
    connected = CoordinatorApi(coordinator.address, credential("alice"))
    yield connected
    await connected.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def new_cache(coordinator: FakeCoordinator, folder: Path) -> WeightsCache:
    return WeightsCache(folder, coordinator.specification, Patience(60.0, RecordedSleep()))


@pytest.fixture
def cache(coordinator: FakeCoordinator, folder: Path) -> WeightsCache:
    return new_cache(coordinator, folder)


async def test_weights_are_known_by_digest_where_a_coordinator_went_back(
    coordinator: FakeCoordinator, client: CoordinatorApi, folder: Path
) -> None:
    gone = coordinator.add_version(1)
    await new_cache(coordinator, folder).get(client, 1, coordinator.digest(1))
    coordinator.versions[1] = {name: array + 1 for name, array in gone.items()}
    cache = new_cache(coordinator, folder)
    found = await cache.get(client, 1, coordinator.digest(1))
    assert digest_arrays(found) == coordinator.digest(1) != digest_arrays(gone)


def small_delta(coordinator: FakeCoordinator, seed: int) -> dict[str, Array]:
    """A published delta: matrices in components, vectors whole."""
    generator = np.random.default_rng(seed)
    delta: dict[str, Array] = {}
    for tensor in coordinator.specification.parameters.tensors:
        if len(tensor.shape) == 2:
            for side, size in zip(("left", "right"), tensor.shape, strict=True):
                factor = generator.standard_normal((1, size))
                delta[f"{tensor.name}/{side}"] = factor.astype(np.float32)
            delta[f"{tensor.name}/base_scale"] = np.float32(-0.125) * np.ones((), np.float32)
        else:
            delta[tensor.name] = generator.standard_normal(tensor.shape).astype(np.float32)
            delta[f"{tensor.name}/scale"] = np.float32(0.5) * np.ones((), np.float32)
    return delta


def publish(coordinator: FakeCoordinator, newest: int) -> None:
    """Versions 1 to ``newest``, each with the chains that lead to it."""
    deltas = {version: small_delta(coordinator, version) for version in range(1, newest + 1)}
    for version, delta in deltas.items():
        weights = {name: one.copy() for name, one in coordinator.versions[version - 1].items()}
        advance_weights(weights, delta, coordinator.specification.parameters)
        coordinator.versions[version] = weights
        for since in range(version):
            steps = {step: deltas[step] for step in range(since + 1, version + 1)}
            coordinator.chains[since, version] = chain_file(steps, since)


def asked_for(coordinator: FakeCoordinator) -> list[str]:
    """Version and query of every request for weights."""
    return [
        str(request.url).rpartition("/weights/")[2]
        for request in coordinator.requests
        if "/weights/" in str(request.url)
    ]


def file_of(folder: Path, version: int) -> Path:
    (file,) = folder.glob(f"{version:08d}-*.safetensors")
    return file


def assert_weights(found: NamedArrays, expected: NamedArrays) -> None:
    assert digest_arrays(found) == digest_arrays(expected)


async def test_version_0_is_built_from_the_seed(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi, folder: Path
) -> None:
    weights = await cache.get(client, 0, coordinator.digest(0))
    assert_weights(weights, coordinator.versions[0])
    assert coordinator.requests == []
    assert not folder.exists()


async def test_another_version_0_is_refused(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi
) -> None:
    with pytest.raises(WeightsError, match="version 0, built from the seed, is not"):
        await cache.get(client, 0, "sha256:" + "0" * 64)
    assert coordinator.requests == []


async def test_a_version_is_obtained_once(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi
) -> None:
    expected = coordinator.add_version(1)
    first = await cache.get(client, 1, coordinator.digest(1))
    again = await cache.get(client, 1, coordinator.digest(1))
    assert_weights(first, expected)
    assert again is first
    assert len(coordinator.requests) == 1


async def test_the_next_start_finds_the_version_on_disk(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi, folder: Path
) -> None:
    expected = coordinator.add_version(1)
    await cache.get(client, 1, coordinator.digest(1))
    coordinator.requests.clear()
    weights = await new_cache(coordinator, folder).get(client, 1, coordinator.digest(1))
    assert_weights(weights, expected)
    assert coordinator.requests == []


async def test_deltas_are_used_from_the_version_in_memory(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi, folder: Path
) -> None:
    publish(coordinator, 3)
    for version in (0, 1, 3):
        weights = await cache.get(client, version, coordinator.digest(version))
        assert_weights(weights, coordinator.versions[version])
        assert not list(folder.glob("*.part"))
        for file in folder.glob("*"):
            file.unlink()
    assert asked_for(coordinator) == ["1?since=0", "3?since=1"]


async def test_deltas_are_used_from_the_version_on_disk(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi, folder: Path
) -> None:
    publish(coordinator, 4)
    await cache.get(client, 2, coordinator.digest(2))
    weights = await new_cache(coordinator, folder).get(client, 4, coordinator.digest(4))
    assert_weights(weights, coordinator.versions[4])
    assert asked_for(coordinator) == ["2?since=0", "4?since=2"]


async def test_an_older_version_is_not_rebuilt_from_a_newer_one(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi
) -> None:
    publish(coordinator, 3)
    for version in (3, 1):
        weights = await cache.get(client, version, coordinator.digest(version))
        assert_weights(weights, coordinator.versions[version])
    assert asked_for(coordinator) == ["3?since=0", "1?since=0"]


async def test_what_was_rebuilt_is_kept_on_disk(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi, folder: Path
) -> None:
    publish(coordinator, 1)
    await cache.get(client, 1, coordinator.digest(1))
    stored, _ = codec.decode(file_of(folder, 1).read_bytes())
    assert_weights(stored, coordinator.versions[1])


async def test_the_newest_two_versions_stay_on_disk(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi, folder: Path
) -> None:
    publish(coordinator, 5)
    for version in range(1, 6):
        await cache.get(client, version, coordinator.digest(version))
    assert sorted(folder.iterdir()) == [file_of(folder, 4), file_of(folder, 5)]


async def test_deltas_that_lead_elsewhere_are_followed_by_the_whole(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi
) -> None:
    publish(coordinator, 2)
    coordinator.chains[0, 2] = coordinator.chains[0, 1]
    weights = await cache.get(client, 2, coordinator.digest(2))
    assert_weights(weights, coordinator.versions[2])
    assert asked_for(coordinator) == ["2?since=0", "2"]


def without_a_tensor(chain: bytes) -> bytes:
    tensors, metadata = codec.decode(chain)
    tensors.popitem()
    return codec.encode(tensors, metadata)


@pytest.mark.parametrize(
    "damage",
    [lambda chain: b"<html>", lambda chain: chain[:-1], without_a_tensor],
    ids=["a page", "truncated", "a tensor is missing"],
)
async def test_deltas_that_cannot_be_read_are_followed_by_the_whole(
    coordinator: FakeCoordinator,
    cache: WeightsCache,
    client: CoordinatorApi,
    damage: Callable[[bytes], bytes],
) -> None:
    publish(coordinator, 1)
    coordinator.chains[0, 1] = damage(coordinator.chains[0, 1])
    weights = await cache.get(client, 1, coordinator.digest(1))
    assert_weights(weights, coordinator.versions[1])
    assert asked_for(coordinator) == ["1?since=0", "1"]


async def test_weights_with_another_digest_are_refused_and_not_kept(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi, folder: Path
) -> None:
    coordinator.add_version(1)
    wanted = coordinator.digest(1)
    coordinator.versions[1] = coordinator.versions[0]
    with pytest.raises(WeightsError, match="the coordinator sent weights that are not version 1"):
        await cache.get(client, 1, wanted)
    assert list(folder.iterdir()) == []


async def test_after_a_refusal_the_right_weights_are_taken(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi
) -> None:
    expected = coordinator.add_version(1)
    wanted = coordinator.digest(1)
    coordinator.versions[1] = coordinator.versions[0]
    with pytest.raises(WeightsError):
        await cache.get(client, 1, wanted)
    coordinator.versions[1] = expected
    assert_weights(await cache.get(client, 1, wanted), expected)


@pytest.mark.parametrize("length", [0, 100, -1])
async def test_a_damaged_file_is_fetched_again(
    coordinator: FakeCoordinator,
    cache: WeightsCache,
    client: CoordinatorApi,
    folder: Path,
    length: int,
) -> None:
    expected = coordinator.add_version(1)
    await cache.get(client, 1, coordinator.digest(1))
    file = file_of(folder, 1)
    whole = file.read_bytes()
    file.write_bytes(whole[:length])
    weights = await new_cache(coordinator, folder).get(client, 1, coordinator.digest(1))
    assert_weights(weights, expected)
    assert len(coordinator.requests) == 2
    assert file.read_bytes() == whole


async def test_a_flipped_bit_on_disk_is_seen_before_deltas_are_added(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi, folder: Path
) -> None:
    publish(coordinator, 2)
    await cache.get(client, 1, coordinator.digest(1))
    file = file_of(folder, 1)
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)
    weights = await new_cache(coordinator, folder).get(client, 2, coordinator.digest(2))
    assert_weights(weights, coordinator.versions[2])
    assert asked_for(coordinator)[1:] == ["2?since=0"]


async def test_a_coordinator_that_is_away_is_waited_for(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi
) -> None:
    expected = coordinator.add_version(1)
    coordinator.answer("GET", "/weights/1", unavailable(), httpx.ReadError("reset"), unavailable())
    assert_weights(await cache.get(client, 1, coordinator.digest(1)), expected)
    assert len(coordinator.requests) == 4


async def test_a_refusal_is_passed_on(
    coordinator: FakeCoordinator, cache: WeightsCache, client: CoordinatorApi
) -> None:
    coordinator.add_version(1)
    coordinator.answer("GET", "/weights/1", problem(ProblemType.NOT_FOUND, "no such version"))
    with pytest.raises(Refused, match="no such version"):
        await cache.get(client, 1, coordinator.digest(1))


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["half of it", "all of it"])
async def test_what_a_killed_worker_had_downloaded_is_used(
    coordinator: FakeCoordinator,
    cache: WeightsCache,
    client: CoordinatorApi,
    folder: Path,
    share: float,
) -> None:
    publish(coordinator, 1)
    coordinator.chains[0, 1] = codec.encode(coordinator.versions[0])
    whole = codec.encode(coordinator.versions[1])
    await cache.get(client, 1, coordinator.digest(1))
    file = file_of(folder, 1)
    file.unlink()
    file.with_suffix(".part").write_bytes(whole[: int(share * len(whole))])
    coordinator.requests.clear()
    weights = await new_cache(coordinator, folder).get(client, 1, coordinator.digest(1))
    assert_weights(weights, coordinator.versions[1])
    for request in coordinator.asked("GET", "/weights/1")[1:]:
        assert request.headers["Range"] == f"bytes={int(share * len(whole))}-"


async def test_deltas_that_do_not_follow_what_is_at_hand_are_not_applied(
    coordinator: FakeCoordinator, client: CoordinatorApi, cache: WeightsCache
) -> None:
    publish(coordinator, 2)
    coordinator.chains[0, 2] = coordinator.chains[1, 2]
    found = await cache.get(client, 2, coordinator.digest(2))
    assert digest_arrays(found) == coordinator.digest(2)
    assert asked_for(coordinator) == ["2?since=0", "2"]
