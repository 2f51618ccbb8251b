"""What clients download is counted, as it went out, for their part in the round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from coordinator.access.identity import ClientPrincipal, identify
from coordinator.operations import weights
from coordinator.operations.delta_chains import DeltaChains
from tests.support.coordinator import RunningCoordinator, small_chunks
from tests.support.factored_rounds import commit_rounds, factored, larger
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration


async def fetch(
    coordinator: RunningCoordinator, headers: dict[str, str], version: int = 0, **query: Any
) -> httpx.Response:
    answer = await coordinator.http.get(
        f"/v1/federations/tiny/weights/{version}", headers=headers, params=query
    )
    assert answer.is_success, answer.text
    return answer


async def counted(coordinator: RunningCoordinator, round_number: int = 1) -> dict[str, int]:
    """Bytes down of each client, which a round's own are the sum of."""
    shown = await coordinator.show(f"tiny/rounds/{round_number}")
    by_client = {one["client"]: one["bytes_down"] for one in shown["assignments"]}
    assert shown["bytes_down"] == sum(by_client.values())
    return by_client


async def test_whole_files_and_ranges_are_counted_for_the_client_that_asked(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a", "b")
    a = coordinator.credentials["a"]
    whole = len((await fetch(coordinator, a)).content)
    assert await counted(coordinator) == {"a": whole, "b": 0}
    part = await fetch(coordinator, a | {"Range": "bytes=10-29"})
    assert (part.status_code, len(part.content)) == (206, 20)
    await fetch(coordinator, coordinator.credentials["b"] | {"Range": "bytes=0-0"})
    await fetch(coordinator, coordinator.admin)
    assert await counted(coordinator) == {"a": whole + 20, "b": 1}
    metrics = (await coordinator.http.get("/metrics", headers=coordinator.admin)).text
    assert f"hyperfl_weights_bytes_total {2 * whole + 21}.0" in metrics.splitlines()


async def test_a_chain_of_deltas_is_counted(coordinator: RunningCoordinator) -> None:
    await commit_rounds(coordinator, larger(factored(rounds=3)), 2)
    chain = await fetch(coordinator, coordinator.credentials["a"], 2, since=0)
    assert len(chain.content) == int(chain.headers["Content-Length"])
    assert await counted(coordinator, 3) == {"a": len(chain.content)}


@small_chunks
async def test_what_a_client_that_hangs_up_has_got_is_counted(
    coordinator: RunningCoordinator, chunk_bytes: int
) -> None:
    await coordinator.started(tiny_specification(), "a")
    context = coordinator.context
    principal = await identify(context, coordinator.credentials["a"]["Authorization"])
    assert isinstance(principal, ClientPrincipal)
    outgoing = await weights.open_weights(context, DeltaChains(), principal, "tiny", 0)
    assert outgoing.size_bytes > 2 * chunk_bytes
    assert not outgoing.is_chain

    async def send_and_hang_up() -> None:
        pieces = outgoing.body
        assert isinstance(pieces, AsyncGenerator)
        for _ in range(2):
            assert len(await anext(pieces)) == chunk_bytes
        await pieces.aclose()

    await asyncio.wait_for(send_and_hang_up(), 10)
    assert await counted(coordinator) == {"a": chunk_bytes}, "but for what was not taken"
