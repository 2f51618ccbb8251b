"""A round's clients on several devices: the same results, and the same ends, as on one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from shared.arrays import NamedArrays
from shared.tensors.low_rank import FactoredDelta
from tests.support.random_clients import RESOURCES, random_client_data, tiny_plan
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import (
    Participant,
    TrainingDivergedError,
    TrainingFailedError,
    TrainingInterrupted,
    TrainingResult,
)
from worker.site.spread_training import SpreadTraining, divided

PARAMETERS = tiny_specification().parameters
WEIGHTS = PARAMETERS.initial_values()


def never() -> bool:
    return False


def hyperfl() -> HyperFL:
    return HyperFL(tiny_plan(feature_dropout=0.5), torch.device("cpu"), RESOURCES)


def clients(*sizes: int) -> list[Participant]:
    private = {"embedding": torch.zeros(3), "head.weight": torch.zeros(2, 2)}
    return [
        Participant(f"site-{place}", random_client_data(place, size), private, place)
        for place, size in enumerate(sizes)
    ]


def stubs(number: int) -> list[StubMethod]:
    return [StubMethod(PARAMETERS) for _ in range(number)]


def untimed(result: TrainingResult) -> dict[str, float]:
    return {name: one for name, one in result.metrics.items() if not name.startswith("seconds")}


def names(parts: list[list[Participant]]) -> list[list[str]]:
    return [[one.name for one in part] for part in parts]


def test_parts_are_about_equal_and_keep_the_order() -> None:
    assert names(divided(clients(5, 20, 5, 10), 2)) == [
        ["site-1"],
        ["site-0", "site-2", "site-3"],
    ]
    assert names(divided(clients(5, 5, 5), 2)) == [["site-0", "site-2"], ["site-1"]]
    assert names(divided(clients(5), 3)) == [["site-0"]]


def test_it_does_not_matter_which_device_a_client_gets() -> None:
    method = hyperfl()
    weights = method.parameters(seed=3).initial_values()
    group = [
        Participant(one.name, one.data, method.initial_private(one.seed), one.seed)
        for one in clients(12, 7, 9, 20, 5)
    ]
    alone = {one.participant: one for one in method.train(group, weights, 4, never)}
    spread = SpreadTraining([hyperfl(), hyperfl(), hyperfl()])
    together = {one.participant: one for one in spread.train(group, weights, 4, never)}
    assert together.keys() == alone.keys()
    for name, expected in alone.items():
        found = together[name]
        assert untimed(found) == pytest.approx(untimed(expected), abs=1e-5)
        for tensor, value in expected.private.items():
            torch.testing.assert_close(found.private[tensor], value, atol=1e-5, rtol=1e-4)
        for tensor, delta in expected.deltas.items():
            zero = np.zeros_like(weights[tensor])
            given, dense = (
                one.dense(zero) if isinstance(one, FactoredDelta) else one
                for one in (found.deltas[tensor], delta)
            )
            np.testing.assert_allclose(given, dense, atol=1e-5, rtol=1e-3)


class Together(StubMethod):
    """Goes on when all devices have begun."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__(PARAMETERS)
        self._barrier = barrier

    def train(
        self,
        group: Sequence[Participant],
        weights: NamedArrays,
        round_number: int,
        should_stop: Callable[[], bool],
    ) -> Iterator[TrainingResult]:
        self._barrier.wait(10)
        return super().train(group, weights, round_number, should_stop)


def test_devices_train_at_once() -> None:
    barrier = threading.Barrier(2)
    spread = SpreadTraining([Together(barrier), Together(barrier)])
    results = list(spread.train(clients(5, 5, 5), WEIGHTS, 1, never))
    assert {one.participant for one in results} == {"site-0", "site-1", "site-2"}


def test_clients_that_fail_on_any_device_are_named_after_all_results() -> None:
    methods = stubs(2)
    for method, name in zip(methods, ("site-0", "site-1"), strict=True):
        method.diverging = {name}
    results = []
    with pytest.raises(TrainingFailedError) as caught:
        results += SpreadTraining(methods).train(clients(5, 5, 5, 5), WEIGHTS, 1, never)
    assert caught.value.reasons == TrainingDivergedError(["site-0", "site-1"]).reasons


def test_a_stop_ends_all_devices() -> None:
    methods = stubs(2)
    with pytest.raises(TrainingInterrupted):
        list(SpreadTraining(methods).train(clients(5, 5), WEIGHTS, 1, lambda: True))
    assert [method.trained for method in methods] == [[], []]


def test_an_error_on_one_device_ends_the_others_and_is_raised() -> None:
    methods = stubs(2)

    def fail(participant: Participant) -> None:
        raise ZeroDivisionError(participant.name)

    methods[1].before_step = fail
    with pytest.raises(ZeroDivisionError, match="site-1"):
        list(SpreadTraining(methods).train(clients(5, 5, 5), WEIGHTS, 1, never))


def test_no_thread_outlives_a_round_that_is_given_up() -> None:
    before = threading.active_count()
    results = SpreadTraining(stubs(2)).train(clients(5, 5, 5, 5, 5, 5), WEIGHTS, 1, never)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
