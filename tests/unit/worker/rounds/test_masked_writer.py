"""A local round's result as a part of a sum: what is written, what is left for later."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from shared.federation.protection_plan import threshold_of
from shared.federation.specification import FederationSpecification, document_digest
from shared.rest.schema import Task, TaskKind
from shared.secure_sum.cards import SiteKeys
from shared.secure_sum.layout import SumLayout
from shared.secure_sum.messages import ExchangeView, Terms
from shared.tensors import codec
from tests.support.sum_members import MAX_EXAMPLES, protected_specification
from worker.errors import SumRefused
from worker.methods.interface import TrainingFailedError, TrainingResult
from worker.remote.patience import Patience
from worker.rounds import masked_writer
from worker.rounds.held_task import HeldTask
from worker.rounds.masked_writer import MaskedWriter
from worker.secure_sum.member import Member
from worker.secure_sum.member_state import MemberState
from worker.site.private_state import PrivateState

DIGEST = "sha256:" + "0" * 64
BIAS = "hypernetwork.output.bias"
NAMES = ("a", "b", "c")


class ClearMember(Member):
    """Adds no masks."""

    def mask(self, state: MemberState, *_: Any) -> MemberState:
        return state.model_copy(update={"generation": 9})


class Bench:
    """Three members that have joined; ``a`` writes, and is shown who the others are."""

    def __init__(self, specification: FederationSpecification) -> None:
        self.specification = specification
        digest = document_digest(specification.document)
        keys = {name: SiteKeys.generate() for name in NAMES}
        cards = {name: keys[name].card(specification.name, name) for name in NAMES}
        terms = Terms(
            federation=specification.name,
            specification_digest=digest,
            round_number=1,
            kind="train",
            base_version=0,
            base_digest=DIGEST,
            threshold=threshold_of(len(NAMES)),
            cohort=tuple(cards.values()),
        )
        members = {name: Member(keys[name], cards[name], digest, 3) for name in NAMES}
        states = {name: members[name].join(MemberState(), terms) for name in NAMES}
        joined = tuple(one.newest.join.member for one in states.values() if one.newest)
        self.state = PrivateState("tiny", digest, "a", 1, {}, sums=states["a"])

        self.client: Any = SimpleNamespace(name="a", member=members["a"], state=self.state)
        task = Task(
            kind="train",
            federation="tiny",
            client="a",
            round_number=1,
            attempt=1,
            base_version=0,
            base_digest=DIGEST,
            lease_seconds=10.0,
            exchange=ExchangeView(joined=joined),
        )
        self.held = HeldTask(self.client, task)
        self.writer = MaskedWriter(specification, Patience(1.0))
        self.layout = SumLayout.of(specification, "train", len(NAMES), 1)

    async def write(self, change: list[float], num_examples: int = MAX_EXAMPLES) -> PrivateState:
        assert await self.writer.prepare([self.held]) == [self.held]
        result = TrainingResult(
            participant="a",
            num_examples=num_examples,
            deltas={BIAS: np.array(change, np.float32)},
            private={"embedding": torch.ones(2)},
            metrics={"accuracy_after": 0.5, "secret": 7.0},
        )
        return self.writer.trained(self.held, result, {})

    def clear(self) -> None:
        """Writes the vector as it is, to be looked at."""
        self.client.member = ClearMember(**vars(self.client.member))

    def read(self, state: PrivateState) -> tuple[np.ndarray, int, int, dict[str, float]]:
        assert state.pending is not None
        wire, metadata = codec.decode(bytearray(state.pending.content))
        assert "secret" not in metadata["hyperfl"]
        vector = self.layout.from_wire(wire)
        return self.layout.fixed_point.decode(vector.values), *self.layout.read_counts(
            vector.counts
        )


@pytest.fixture
def bench() -> Bench:
    made = Bench(protected_specification())
    made.clear()
    return made


async def test_what_is_written_and_what_is_left_out_are_the_change(bench: Bench) -> None:
    change = [0.3, -0.2, 0.1, 0.0]
    state = await bench.write(change, num_examples=10)
    values, num_examples, num_cut, metrics = bench.read(state)
    assert (num_examples, num_cut, metrics) == (10, 0, {"accuracy_after": 0.5})
    share = 10 / MAX_EXAMPLES
    np.testing.assert_allclose(values, share * np.array(change), atol=bench.layout.fixed_point.step)
    np.testing.assert_allclose(values / share + state.residual[BIAS], change, atol=1e-7)
    assert (state.last_round, state.sums.generation) == (1, 9)


async def test_what_the_cohort_did_not_agree_on_is_not_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights for one member alone could silence the others, so that the sum is its update."""
    said: list[str] = []

    async def refuse(_: HeldTask, refusal: SumRefused, __: Patience) -> None:
        said.append(str(refusal))

    monkeypatch.setattr(masked_writer, "refuse_sum", refuse)
    other = "sha256:" + "1" * 64
    held = HeldTask(bench.client, bench.held.task.model_copy(update={"base_digest": other}))
    assert await bench.writer.prepare([held]) == []
    assert said == ["the task's weights are not those that the cohort agreed on"]
    said.clear()
    held = HeldTask(bench.client, bench.held.task.model_copy(update={"kind": TaskKind.EVALUATE}))
    assert await bench.writer.prepare([held]) == []
    assert said == ["the task is to evaluate, where the cohort agreed to train"]
    assert await bench.writer.prepare([bench.held]) == [bench.held]


async def test_own_metrics_are_beside_the_masks_only_where_the_site_shows_them(
    bench: Bench,
) -> None:
    def own(state: PrivateState) -> dict[str, float]:
        assert state.pending is not None
        _, metadata = codec.decode(bytearray(state.pending.content))
        shown: dict[str, float] = json.loads(metadata["hyperfl"])["metrics"]
        return shown

    assert own(await bench.write([0.0] * 4)) == {}
    bench.writer = MaskedWriter(bench.specification, Patience(1.0), shows_own_metrics=True)
    assert own(await bench.write([0.0] * 4)) == {"accuracy_after": 0.5}


async def test_what_was_left_out_is_added_to_the_next_change(bench: Bench) -> None:
    left_out = np.array([0.1, 0.0, 0.0, -0.1], np.float32)
    bench.client.state = replace(bench.state, residual={BIAS: left_out})
    values, *_ = bench.read(await bench.write([0.2, 0.2, 0.0, 0.0]))
    step = bench.layout.fixed_point.step
    np.testing.assert_allclose(values, [0.3, 0.2, 0.0, -0.1], atol=step)


async def test_what_is_over_the_bound_is_counted_and_follows_later(bench: Bench) -> None:
    state = await bench.write([2.5, -3.0, 0.0, 0.0])
    values, _, num_cut, _ = bench.read(state)
    assert (values[:2].tolist(), num_cut) == ([1.0, -1.0], 2)
    assert state.residual[BIAS][:2].tolist() == [1.5, -2.0]


async def test_more_examples_than_the_cap_weigh_as_the_cap(bench: Bench) -> None:
    _, num_examples, *_ = bench.read(await bench.write([0.0] * 4, num_examples=10 * MAX_EXAMPLES))
    assert num_examples == MAX_EXAMPLES


async def test_the_client_clips_its_change_itself() -> None:
    bench = Bench(protected_specification(max_update_norm=0.5))
    bench.clear()
    values, *_ = bench.read(await bench.write([3.0, 4.0, 0.0, 0.0]))
    np.testing.assert_allclose(values, [0.3, 0.4, 0.0, 0.0], atol=bench.layout.fixed_point.step)


async def test_rounding_repeats_with_the_private_seed(bench: Bench) -> None:
    change = [0.123456, -0.2, 0.3, 0.05]
    first, second = await bench.write(change), await bench.write(change)
    assert bench.read(first)[0].tolist() == bench.read(second)[0].tolist()


async def test_a_second_update_for_a_round_is_never_made() -> None:
    bench = Bench(protected_specification())
    bench.client.state = await bench.write([0.1] * 4)
    with pytest.raises(TrainingFailedError, match="masked for this round before"):
        await bench.write([0.2] * 4)
