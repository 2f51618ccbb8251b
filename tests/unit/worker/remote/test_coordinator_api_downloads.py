"""Weights as the worker downloads them: in parts, from where it stopped, or as deltas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from shared.tensors import codec
from tests.support.api_calls import FEDERATION, MAX_BYTES
from tests.support.fake_coordinator import URL, FakeCoordinator, weights_file
from worker.errors import Unreachable
from worker.remote.coordinator_api import CoordinatorApi


async def test_weights_are_written_to_a_file(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    weights = coordinator.add_version(1)
    await client.fetch_weights(FEDERATION, 1, tmp_path / "weights", max_bytes=MAX_BYTES)
    (request,) = coordinator.requests
    assert request.url == f"{URL}/v1/federations/tiny/weights/1"
    assert "Range" not in request.headers
    assert (tmp_path / "weights").read_bytes() == codec.encode(weights)


async def test_what_was_written_before_is_not_asked_for_again(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    whole = codec.encode(coordinator.add_version(1))
    file = tmp_path / "weights"
    file.write_bytes(whole[:50])
    await client.fetch_weights(FEDERATION, 1, file, max_bytes=MAX_BYTES)
    assert coordinator.requests[0].headers["Range"] == "bytes=50-"
    assert file.read_bytes() == whole


async def test_a_download_that_broke_off_goes_on_where_it_stopped(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    whole = bytes(range(256)) * 6000
    file = tmp_path / "weights"

    async def breaks_off() -> AsyncIterator[bytes]:
        yield whole[:1_200_000]
        raise httpx.ReadError("connection reset")

    coordinator.answer("GET", "/weights/1", weights_file(breaks_off()))
    with pytest.raises(Unreachable, match="connection reset"):
        await client.fetch_weights(FEDERATION, 1, file, max_bytes=MAX_BYTES)
    written = file.read_bytes()
    assert written == whole[: len(written)]
    assert len(written) > 1_000_000
    coordinator.answer("GET", "/weights/1", weights_file(whole[len(written) :], 206))
    await client.fetch_weights(FEDERATION, 1, file, max_bytes=MAX_BYTES)
    assert coordinator.requests[1].headers["Range"] == f"bytes={len(written)}-"
    assert file.read_bytes() == whole


async def test_a_server_without_ranges_sends_the_whole_over_the_part(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    whole = codec.encode(coordinator.add_version(1))
    file = tmp_path / "weights"
    file.write_bytes(whole[:50])
    coordinator.answer("GET", "/weights/1", weights_file(whole))
    await client.fetch_weights(FEDERATION, 1, file, max_bytes=MAX_BYTES)
    assert file.read_bytes() == whole


async def test_come_again_leaves_the_part_as_it_is(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"part")
    coordinator.answer("GET", "/weights/1", httpx.Response(503, text="down for a minute"))
    with pytest.raises(Unreachable):
        await client.fetch_weights(FEDERATION, 1, file, max_bytes=MAX_BYTES)
    assert file.read_bytes() == b"part"


async def test_deltas_are_asked_for_from_a_version_on_and_never_in_parts(
    coordinator: FakeCoordinator, client: CoordinatorApi, tmp_path: Path
) -> None:
    coordinator.add_version(3)
    coordinator.chains[1, 3] = b"deltas"
    file = tmp_path / "deltas"
    file.write_bytes(b"of another day")
    await client.fetch_weights(FEDERATION, 3, file, since=1, max_bytes=MAX_BYTES)
    (request,) = coordinator.requests
    assert request.url == f"{URL}/v1/federations/tiny/weights/3?since=1"
    assert "Range" not in request.headers
    assert file.read_bytes() == b"deltas"
