"""What leaves a client of a federation with differential privacy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shared.arrays import Array
from shared.federation.specification import FederationSpecification
from shared.rest.schema import Task, TaskKind
from shared.secure_sum.layout import SumLayout
from shared.tensors import codec
from tests.support.private_sums import COHORT_SIZE, private_specification
from tests.support.sum_members import MAX_EXAMPLES
from worker.methods.interface import TrainingFailedError, TrainingResult
from worker.noise import noise_key, rounded_normal
from worker.rounds.held_task import HeldTask
from worker.rounds.private_release import PrivateRelease, release_key
from worker.rounds.update_writer import PlainWriter
from worker.site.private_state import PrivateState

BIAS = "hypernetwork.output.bias"
SEED = 11
COHORT = "a,b,c,d,e"
KEY = noise_key(SEED, "a", "test")
CHANGE = [0.1, -0.2, 0.3, 0.0]


def held(number: int = 1, base: str = "0") -> HeldTask:
    task = Task(
        kind=TaskKind.TRAIN,
        federation="tiny",
        client="a",
        round_number=number,
        attempt=1,
        base_version=0,
        base_digest="sha256:" + base * 64,
        lease_seconds=10.0,
    )
    state = PrivateState("tiny", task.base_digest, "a", SEED, {})
    client: Any = SimpleNamespace(name="a", state=state)
    return HeldTask(client, task)


def result(
    change: list[float] = CHANGE, num_examples: int = MAX_EXAMPLES, **settings: Any
) -> TrainingResult:
    fitting = {"sensitivity": 4.0 / num_examples} | settings
    deltas: dict[str, Array] = {BIAS: np.array(change, np.float32)}
    return TrainingResult(
        "a", num_examples, dict(deltas), {}, {"accuracy_after": 0.5, "secret": 7.0}, **fitting
    )


def release(specification: FederationSpecification) -> tuple[PrivateRelease, SumLayout]:
    privacy = specification.training.privacy
    assert privacy is not None
    layout = SumLayout.of(specification, "train", COHORT_SIZE, 1)
    return PrivateRelease(specification, privacy), layout


def test_a_part_of_a_sum_has_its_share_of_the_noise_and_no_more() -> None:
    made, layout = release(private_specification())
    num_examples, values = made.part_of_sum(KEY, layout, result(num_examples=MAX_EXAMPLES // 2), {})
    assert num_examples == MAX_EXAMPLES // 2
    assert layout.noise is not None
    deviation = layout.noise.deviation(layout.fixed_point)
    # 4 of 5 clients are needed until the end, one of whom may help the coordinator.
    sensitivity = 4.0 / MAX_EXAMPLES / layout.fixed_point.step + 2
    assert deviation == pytest.approx(3.0 * sensitivity / 3**0.5)
    expected = layout.fixed_point.encode_with_noise(
        np.float32(CHANGE).astype(np.float64) / 2, rounded_normal(KEY, deviation, 4)
    )
    assert values.tolist() == expected.tolist()


def test_a_client_over_the_cap_counts_as_the_cap() -> None:
    made, layout = release(private_specification())
    num_examples, _ = made.part_of_sum(KEY, layout, result(num_examples=3 * MAX_EXAMPLES), {})
    assert num_examples == MAX_EXAMPLES


def test_noise_repeats_for_a_task_and_is_another_on_every_other_occasion() -> None:
    made, layout = release(private_specification())
    first, again, *others = (
        made.part_of_sum(release_key(one, cohort), layout, result(), {})[1].tolist()
        for one, cohort in (
            (held(), COHORT),
            (held(), COHORT),
            (held(number=2), COHORT),
            (held(base="1"), COHORT),
            (held(), "a,b,c,d"),
        )
    )
    assert first == again
    assert first not in others
    assert len({tuple(one) for one in others}) == 3


def test_what_is_not_finite_is_never_sent() -> None:
    made, layout = release(private_specification())
    for value in (np.nan, np.inf):
        with pytest.raises(TrainingFailedError, match="its change is not finite"):
            made.part_of_sum(KEY, layout, result([0.0, value, 0.0, 0.0]), {})


@pytest.mark.parametrize(
    ("sensitivity", "message"),
    [
        (None, "its method does not bound what one example changes"),
        (4.1 / MAX_EXAMPLES, "one example changes .* of the sum, and the noise is made for"),
    ],
)
def test_a_change_that_nothing_bounds_is_not_sent(sensitivity: float | None, message: str) -> None:
    made, layout = release(private_specification())
    with pytest.raises(TrainingFailedError, match=message):
        made.part_of_sum(KEY, layout, result(sensitivity=sensitivity), {})


def test_of_a_hidden_client_the_whole_change_is_shortened_and_its_size_not_said() -> None:
    made, layout = release(private_specification({"unit": "client", "clip_norm": 0.5}))
    num_examples, values = made.part_of_sum(
        KEY, layout, result([30.0, 40.0, 0.0, 0.0], num_examples=1, sensitivity=None), {}
    )
    assert num_examples == MAX_EXAMPLES
    assert layout.noise is not None
    assert layout.noise.sensitivity == 0.5
    noise = rounded_normal(KEY, layout.noise.deviation(layout.fixed_point), 4)
    clear = np.array([0.3, 0.4, 0.0, 0.0])
    assert values.tolist() == layout.fixed_point.encode_with_noise(clear, noise).tolist()


def test_an_update_by_itself_has_all_its_noise_and_says_what_is_spent() -> None:
    specification = private_specification(protection={})
    state = PlainWriter(specification).trained(held(), result(), {BIAS: np.zeros(4, np.float32)})
    assert state.pending is not None
    wire, metadata = codec.decode(bytearray(state.pending.content))
    sent = np.asarray(next(iter(wire.values())), np.float64)
    assert not np.allclose(sent, CHANGE, atol=0.01)
    assert "secret" not in metadata["hyperfl"]
    privacy = specification.training.privacy
    assert privacy is not None
    assert f'"epsilon_spent":{privacy.epsilon_after(1)}' in metadata["hyperfl"].replace(" ", "")


def test_an_update_of_a_hidden_client_says_one_example() -> None:
    specification = private_specification({"unit": "client"}, protection={})
    state = PlainWriter(specification).trained(held(), result(), {BIAS: np.zeros(4, np.float32)})
    assert state.pending is not None
    _, metadata = codec.decode(bytearray(state.pending.content))
    assert '"num_examples":1,' in metadata["hyperfl"].replace(" ", "")
