"""A client that was away while others committed ten rounds catches up, and counts again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from shared.arrays import NamedArrays, digest_arrays
from shared.federation.specification import FederationSpecification
from shared.tensors import codec
from shared.tensors.encodings import encoding_for
from shared.tensors.version_deltas import CHAIN_METADATA_KEY
from tests.support.coordinator import RunningCoordinator, on_sqlite, running_coordinator
from tests.support.factored_rounds import MATRIX, deltas, factored, larger, send
from tests.support.hosted_clients import NUM_TRAIN_EXAMPLES, client_config, stub_parts
from tests.support.rounds import weights_row
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from worker.methods.interface import Participant, TrainingResult
from worker.metrics import WorkerMetrics
from worker.rounds.held_task import HeldTask
from worker.rounds.policy_gate import PolicyGate
from worker.rounds.round_work import RoundWork
from worker.rounds.update_writer import PlainWriter
from worker.settings import WorkerConfig, WorkerSettings
from worker.site.opening import open_site
from worker.site.parts import SiteParts

pytestmark = pytest.mark.integration

_ROUNDS_TOGETHER, _ROUNDS_AWAY = 2, 10
"""After two rounds the client holds version 1, which was downloaded and not built from the seed."""
_RETURN = _ROUNDS_TOGETHER + _ROUNDS_AWAY + 1
_HELD, _NEWEST = _ROUNDS_TOGETHER - 1, _RETURN - 1
_BIAS = "hypernetwork.output.bias"
_OTHER_NUM_EXAMPLES = 10
_POLICY = {"rounds": _RETURN, "minimum_updates": 1}
_SETTINGS = WorkerSettings(poll_wait_seconds=0.0, device="cpu")


class WatchedMethod(StubMethod):
    """Notes the digest of the weights that each round trained on."""

    def __init__(self, specification: FederationSpecification) -> None:
        super().__init__(specification.parameters)
        self.extra_deltas[MATRIX] = deltas(specification, seed=99)[MATRIX]
        self.trained_on: dict[int, str] = {}

    def train(
        self,
        group: Sequence[Participant],
        weights: NamedArrays,
        round_number: int,
        should_stop: Callable[[], bool],
    ) -> Iterator[TrainingResult]:
        self.trained_on[round_number] = digest_arrays(weights)
        return super().train(group, weights, round_number, should_stop)


class WatchedTransport(httpx.ASGITransport):
    """Notes each file of weights that was sent: what was asked for, and whether it is of deltas."""

    def __init__(self, coordinator: RunningCoordinator) -> None:
        super().__init__(coordinator.app)
        self.files: list[tuple[str, bool]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if "/weights/" in request.url.path:
            _, metadata = codec.decode(await response.aread())
            asked = request.url.raw_path.decode().rpartition("/")[2]
            self.files.append((asked, CHAIN_METADATA_KEY in metadata))
        return response


async def train_once(config: WorkerConfig, parts: SiteParts) -> None:
    """A worker that starts, does the one task that there is, and ends."""
    async with open_site(config, _SETTINGS, parts) as opened:
        (client,) = opened.clients
        task = await client.api.next_task("tiny", wait_seconds=0.0)
        assert task is not None
        writer = PlainWriter(opened.specification)
        gate = PolicyGate(config.policy, opened.specification.training)
        stop = threading.Event()
        metrics = WorkerMetrics()
        group = RoundWork(writer, opened.method, opened.cache, opened.patience, stop, gate, metrics)
        await group.do([HeldTask(client, task)])
        group.close()


async def weights(coordinator: RunningCoordinator, version: int) -> httpx.Response:
    path = f"/v1/federations/tiny/weights/{version}"
    return await coordinator.http.get(path, headers=coordinator.admin)


@on_sqlite
@pytest.mark.parametrize(
    ("specification", "keep_last_versions", "file"),
    [
        pytest.param(
            larger(factored(**_POLICY)),
            _RETURN,
            (f"{_NEWEST}?since={_HELD}", True),
            id="factored-with-deltas-kept",
        ),
        pytest.param(
            factored(**_POLICY),
            1,
            (f"{_NEWEST}?since={_HELD}", False),
            id="factored-with-deltas-removed",
        ),
        pytest.param(tiny_specification(**_POLICY), 1, (f"{_NEWEST}", False), id="dense"),
    ],
)
async def test_a_client_back_after_ten_rounds_catches_up(
    specification: FederationSpecification,
    keep_last_versions: int,
    file: tuple[str, bool],
    database_url: str,
    tmp_path: Path,
) -> None:
    method = WatchedMethod(specification)
    initial = specification.parameters.initial_values()
    encoding = encoding_for(specification.encoding)
    async with running_coordinator(
        database_url, tmp_path, keep_last_versions=keep_last_versions
    ) as coordinator:
        await coordinator.create(specification)
        await coordinator.enrol("tiny", "other")
        token = await coordinator.invite("tiny", "away")
        config = WorkerConfig(
            coordinator_url="http://coordinator",
            federation="tiny",
            clients=(client_config(tmp_path, "away", enrolment_token=token),),
        )
        transport = WatchedTransport(coordinator)
        parts = stub_parts(method, transport)
        async with open_site(config, _SETTINGS, parts) as site:  # before the first round
            assert await site.clients[0].api.next_task("tiny", wait_seconds=0.0) is None
        await coordinator.act("tiny", "start")
        await coordinator.driver.step()
        for number in range(1, _RETURN):
            await send(coordinator, specification, "other", number, encoding, initial)
            if number <= _ROUNDS_TOGETHER:
                await train_once(config, parts)
            else:
                coordinator.clock.advance(specification.round_policy.deadline_seconds + 1)
            await coordinator.driver.step()
        transport.files.clear()
        assert (await weights(coordinator, _HELD)).status_code == (200 if file[1] else 410)
        first_delta = (await weights_row(coordinator, _HELD + 1)).delta_blob_id
        assert (first_delta is not None) == file[1]

        newest = codec.decode((await weights(coordinator, _NEWEST)).content)[0]
        await send(coordinator, specification, "other", _RETURN, encoding, initial)
        await train_once(config, parts)
        await coordinator.driver.step()

        assert transport.files == [file]
        assert method.trained_on[_RETURN] == digest_arrays(newest)
        rounds = await coordinator.show("tiny/rounds")
        assert [(one["phase"], one["updates_received"]) for one in rounds] == [
            ("committed", 1 if _ROUNDS_TOGETHER < number < _RETURN else 2)
            for number in range(1, _RETURN + 1)
        ]
        assert method.trained_on[_RETURN] == rounds[_NEWEST - 1]["new_digest"]
        after = codec.decode((await weights(coordinator, _RETURN)).content)[0]
        change = (
            NUM_TRAIN_EXAMPLES * _RETURN
            + _OTHER_NUM_EXAMPLES * (deltas(specification, _RETURN)[_BIAS])
        )
        np.testing.assert_allclose(
            after[_BIAS] - newest[_BIAS],
            change / (NUM_TRAIN_EXAMPLES + _OTHER_NUM_EXAMPLES),
            atol=0.02,  # half precision on the wire
        )
