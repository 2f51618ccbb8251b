"""What stays at the site of a round: what was measured, what was sent, and by whose leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared.arrays import NamedArrays, digest_bytes
from shared.rest.schema import TaskKind
from tests.support.hosted_clients import read_update
from tests.support.round_bench import Bench
from tests.support.stub_method import StubMethod
from worker.methods.interface import Participant
from worker.site import history
from worker.site_policy import SitePolicy


class SureMethod(StubMethod):
    """Says class 1 of every example, the surer the more rounds a client has trained."""

    def test_logits(self, participant: Participant, weights: NamedArrays) -> torch.Tensor:
        logits = torch.zeros(len(participant.data.test), 3)
        logits[:, 1] = participant.private["embedding"][0]
        return logits


async def test_a_round_is_remembered_with_what_was_sent(bench: Bench) -> None:
    held = bench.held("alice", round_number=4)
    await bench.round_work().do([held])
    (row,) = history.read(bench.folder / "alice")
    (content,) = bench.coordinator.updates()
    tensors, said = read_update(content)
    assert (row.round_number, row.kind, row.at) == (4, TaskKind.TRAIN, bench.clock())
    assert (row.weights_version, row.weights_digest) == (0, bench.coordinator.digest(0))
    assert (row.sent.bytes, row.sent.digest) == (len(content), digest_bytes(content))
    sizes = {one.name: one.bytes for one in row.sent.tensors}
    assert sizes == {name: tensor.nbytes for name, tensor in tensors.items()}
    assert row.sent.metrics == said.metrics == row.metrics == {"accuracy_after": 0.5}
    assert (row.sent.withheld_metrics, "accuracy_after" in row.sent.policy["metrics"]) == ((), True)
    assert sum(row.examples["train"].values()) == 5
    assert sum(row.examples["test"].values()) == 7
    assert row.scores is None, "this method gives no logits"


async def test_what_the_policy_withholds_stays_in_the_history_alone(bench: Bench) -> None:
    bench.policy = SitePolicy(metrics="none", minimum_examples=2)
    await bench.round_work().do([bench.held("alice")])
    (content,) = bench.coordinator.updates()
    assert read_update(content)[1].metrics == {}
    (row,) = history.read(bench.folder / "alice")
    assert row.metrics == {"accuracy_after": 0.5}
    assert (row.sent.metrics, row.sent.withheld_metrics) == ({}, ("accuracy_after",))
    assert row.sent.policy == {"metrics": "none", "minimum_examples": 2}


async def test_scores_are_of_the_rounds_weights_and_the_tensors_after_it(bench: Bench) -> None:
    bench.method = SureMethod(bench.coordinator.specification.parameters)
    held = bench.held("alice", round_number=2)
    test = held.client.data.test
    await bench.round_work().do([held])
    (row,) = history.read(bench.folder / "alice")
    assert row.scores is not None
    share = float((test.labels == 1).double().mean())
    assert row.scores.accuracy == share
    assert [one.examples for one in row.scores.classes] == test.labels.bincount(
        minlength=3
    ).tolist()
    sure = float(torch.tensor([0.0, 2.0, 0.0]).softmax(dim=0)[1])
    assert abs(row.scores.calibration_error - abs(sure - share)) < 1e-6


async def test_a_model_that_is_no_number_has_no_scores(bench: Bench) -> None:
    bench.method = SureMethod(bench.coordinator.specification.parameters)
    tensors = {"embedding": np.full(3, np.nan, np.float32), "head.weight": np.zeros((2, 2))}
    held = bench.held("alice", {"tensors": tensors}, kind=TaskKind.EVALUATE)
    with pytest.raises(ValueError, match="finite"):
        await bench.round_work().do([held])
    bench.method.evaluate = lambda *_: {"accuracy": 0.0}  # type: ignore[method-assign]
    await bench.round_work().do([held])
    (row,) = history.read(bench.folder / "alice")
    assert row.scores is None


async def test_an_evaluation_is_remembered_too(bench: Bench) -> None:
    await bench.round_work().do([bench.held("alice", kind=TaskKind.EVALUATE)])
    (row,) = history.read(bench.folder / "alice")
    assert (row.kind, row.metrics["accuracy"]) == (TaskKind.EVALUATE, 0.25)
    assert row.sent.tensors == ()


async def test_what_is_sent_again_is_no_other_round(bench: Bench) -> None:
    held = bench.held("alice")
    await bench.round_work().do([held])
    held.client.save(replace(held.client.state))
    bench.coordinator.add_task("alice", 2)
    await bench.round_work().do([bench.restarted("alice")])
    assert [row.round_number for row in history.read(bench.folder / "alice")] == [1, 2]
