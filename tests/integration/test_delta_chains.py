"""Deltas of several versions in one file: made once, off the event loop, and sent in pieces."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from coordinator.access.identity import Admin
from coordinator.operations import delta_chains, weights
from coordinator.operations.delta_chains import ChainFile, DeltaChains
from coordinator.store.blobs import BlobStore
from coordinator.store.weights import StoredDelta
from shared.arrays import digest_arrays
from shared.tensors import codec
from shared.tensors.version_deltas import CHAIN_METADATA_KEY
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.factored_rounds import commit_rounds, factored, larger
from tests.support.rounds import damage, weights_row

pytestmark = pytest.mark.integration


async def ask(coordinator: RunningCoordinator, version: int, since: int) -> httpx.Response:
    answer = await coordinator.http.get(
        f"/v1/federations/tiny/weights/{version}?since={since}", headers=coordinator.admin
    )
    assert answer.status_code == 200, answer.text
    return answer


def is_chain(answer: httpx.Response) -> bool:
    return CHAIN_METADATA_KEY in codec.decode(answer.content)[1]


class WatchedChains(DeltaChains):
    """Notes the number of deltas in each file that is made."""

    def __init__(self, coordinator: RunningCoordinator, **options: int) -> None:
        super().__init__(**options)
        self.made: list[int] = []
        coordinator.app.state.delta_chains = self

    async def _make(self, blobs: BlobStore, deltas: Sequence[StoredDelta]) -> ChainFile:
        self.made.append(len(deltas))
        return await super()._make(blobs, deltas)


HELD: dict[str, tuple[Any, str]] = {
    "headers": (codec.StreamReader, "feed_header_only"),
    "joining": (delta_chains, "join_tensors"),
}


@on_sqlite
@pytest.mark.parametrize("held", HELD)
async def test_polls_are_answered_while_a_chain_is_made(
    coordinator: RunningCoordinator, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The computation waits for the answers, which do not come if it holds the event loop."""
    await commit_rounds(coordinator, larger(factored(rounds=2)), 2)
    loop = asyncio.get_running_loop()
    entered, answered = asyncio.Event(), threading.Event()
    was_answered: list[bool] = []
    owner, name = HELD[held]
    compute: Callable[..., Any] = getattr(owner, name)

    def wait_and_compute(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(entered.set)
        was_answered.append(answered.wait(timeout=30))
        return compute(*arguments)

    monkeypatch.setattr(owner, name, wait_and_compute)
    asking = asyncio.create_task(ask(coordinator, 2, since=0))
    await entered.wait()
    assert (await coordinator.poll("tiny", "a")).status_code == 410
    answered.set()
    answer = await asking
    monkeypatch.undo()
    assert is_chain(answer)
    assert was_answered
    assert all(was_answered)


async def test_requests_for_the_same_chain_share_its_making(
    coordinator: RunningCoordinator,
) -> None:
    chains = WatchedChains(coordinator)
    await commit_rounds(coordinator, larger(factored(rounds=2)), 2)
    answers = await asyncio.gather(*(ask(coordinator, 2, since=0) for _ in range(5)))
    assert all(is_chain(answer) for answer in answers)
    assert len({answer.content for answer in answers}) == 1
    await ask(coordinator, 2, since=1)
    await ask(coordinator, 2, since=0)
    assert chains.made == [2, 1]


async def test_chains_that_are_not_asked_for_are_forgotten(
    coordinator: RunningCoordinator,
) -> None:
    chains = WatchedChains(coordinator, kept=1)
    await commit_rounds(coordinator, larger(factored(rounds=2)), 2)
    for since in (0, 1, 1, 0):
        assert is_chain(await ask(coordinator, 2, since))
    assert chains.made == [2, 1, 2]


@on_sqlite
@pytest.mark.parametrize("chunk_bytes", [4000])
async def test_no_more_than_a_chunk_is_in_memory(
    coordinator: RunningCoordinator, chunk_bytes: int
) -> None:
    await commit_rounds(coordinator, larger(factored(rounds=2)), 2)
    admin = Admin("", may_write=True)
    chain = await weights.open_weights(
        coordinator.context, DeltaChains(), admin, "tiny", 2, since=0
    )
    assert chain.is_chain
    header, *pieces = [piece async for piece in chain.body]
    assert len(header) + sum(len(piece) for piece in pieces) == chain.size_bytes
    assert max(len(piece) for piece in pieces) <= chunk_bytes


async def test_damaged_deltas_are_not_sent(
    coordinator: RunningCoordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    await commit_rounds(coordinator, larger(factored(rounds=2)), 2)
    row = await weights_row(coordinator, 1)
    await damage(coordinator, row.delta_blob_id, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    answer = await ask(coordinator, 2, since=0)
    arrays, metadata = codec.decode(answer.content)
    assert CHAIN_METADATA_KEY not in metadata
    assert digest_arrays(arrays) == (await coordinator.show("tiny"))["weights_digest"]
    said = capsys.readouterr()
    assert "the stored delta of version 1 is damaged" in said.out + said.err
    assert is_chain(await ask(coordinator, 2, since=1))


async def test_a_chain_of_more_tensors_than_readers_take_is_not_sent(
    coordinator: RunningCoordinator,
) -> None:
    await commit_rounds(coordinator, larger(factored(rounds=2)), 2)
    one, _ = codec.decode((await ask(coordinator, 2, since=1)).content)
    WatchedChains(coordinator, max_tensors=len(one))
    assert is_chain(await ask(coordinator, 2, since=1))
    assert not is_chain(await ask(coordinator, 2, since=0))
