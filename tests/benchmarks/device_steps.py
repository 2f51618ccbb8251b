"""Steps of HyperFL and FedAvg on one device, and how fast the device moves and computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from unittest.mock import patch

import torch

from shared.federation.hyperparameters import HyperFLPlan
from shared.federation.plans import TrainingPlan
from tests.benchmarks.measurements import Measurement, medians
from tests.benchmarks.step_floor import Rates, Step
from tests.support.random_clients import random_examples_of
from worker.data.client_data import ClientData
from worker.data.images import ImageShape
from worker.methods import build_method
from worker.methods.hypernetwork import step_gradients
from worker.methods.interface import Participant, SiteResources
from worker.models.registry import build_feature_extractor

_NUM_CLASSES = 10
# All clients in one group, however many there are.
_RESOURCES = SiteResources(max_factor_bytes=1 << 40)


class Round:
    """A local round without a head step, of clients with one test example each."""

    def __init__(
        self,
        method: str,
        model: str,
        image_shape: ImageShape,
        num_clients: int,
        num_examples: int,
        device: torch.device,
        *,
        epochs: int = 5,
    ) -> None:
        plan = TrainingPlan(
            method=method,
            model=model,
            image_shape=image_shape,
            num_classes=_NUM_CLASSES,
            hyperparameters={"epochs": epochs}
            | ({"head_epochs": 0} if method == "hyperfl" else {}),
        )
        self._method = build_method(plan, device, _RESOURCES)
        self._device = device
        self._weights = self._method.parameters(seed=1).initial_values()
        self._group = [
            Participant(
                f"client-{index}",
                ClientData(
                    random_examples_of(index, num_examples, image_shape, _NUM_CLASSES),
                    random_examples_of(-index, 1, image_shape, _NUM_CLASSES),
                ),
                self._method.initial_private(index),
                index,
            )
            for index in range(1, num_clients + 1)
        ]
        self.num_steps = epochs * -(-num_examples // int(plan.hyperparameters["batch_size"]))

    def seconds(self) -> float:
        """By the clock, a client and step: of the round, with its evaluations and its results."""
        started = _now(self._device)
        self._train()
        return (_now(self._device) - started) / len(self._group) / self.num_steps

    def processor_seconds(self) -> float:
        """As :meth:`seconds`, by this process's processor time: others do not stretch it."""
        started = time.process_time()
        self._train()
        return (time.process_time() - started) / len(self._group) / self.num_steps

    def _train(self) -> None:
        list(self._method.train(self._group, self._weights, 1, lambda: False))


@contextmanager
def one_computation(wanted: bool) -> Iterator[None]:
    """Methods built meanwhile take a group's gradients so, where their modules can."""
    with patch.object(step_gradients, "pays_batched", return_value=wanted):
        yield


def measured_rates(device: torch.device, side: int, repeats: int = 7) -> Rates:
    """Medians of a copy and of a product of float32 matrices (side, side), as PyTorch does them."""
    first, second = (torch.rand(side, side, device=device) for _ in range(2))
    return Rates(
        2 * first.nbytes / _median_seconds(device, first.clone, repeats),
        2 * side**3 / _median_seconds(device, lambda: first @ second, repeats),
    )


def measure(
    device: torch.device,
    *,
    model: str = "cnn-mnist",
    counts: Sequence[int] = (20, 100),
    num_examples: int = 600,
    repeats: int = 5,
    side: int = 8192,
) -> list[Measurement]:
    """HyperFL alone and in groups of ``counts``, FedAvg, and the floor of each."""
    template, plan = build_feature_extractor(model, None), HyperFLPlan()

    def round_of(method: str, num_clients: int) -> Round:
        return Round(method, model, template.image_shape, num_clients, num_examples, device)

    rounds = {f"together {count}": round_of("hyperfl", count) for count in counts}
    rounds |= {"alone": round_of("hyperfl", 1), "fedavg": round_of("fedavg", 1)}
    with one_computation(False):
        rounds["in turn"] = round_of("hyperfl", counts[0])
    for one in rounds.values():
        one.seconds()
    seconds = medians(repeats, **{name: one.seconds for name, one in rounds.items()})

    rates = measured_rates(device, side)
    step = Step(template.module, template.image_shape, plan.batch_size, _NUM_CLASSES)
    num_steps = rounds["alone"].num_steps
    work = {
        f"together {count}": step.hyperfl(plan.hidden_size, num_steps, count) for count in counts
    }
    work |= {"alone": step.hyperfl(plan.hidden_size, num_steps, 1), "fedavg": step.fedavg()}
    called = {
        "alone": "HyperFL, one client alone",
        "in turn": f"HyperFL, {counts[0]} clients, gradients one after the other",
        **{f"together {count}": f"HyperFL, {count} clients together" for count in counts},
        "fedavg": "FedAvg, one client after the other",
    }
    return [
        Measurement("a copy, read and written", rates.bytes_per_second / 1e9, "GB/s"),
        Measurement("a product of float32 matrices", rates.operations_per_second / 1e12, "TFLOP/s"),
        *(Measurement(what, 1000 * seconds[name], "ms") for name, what in called.items()),
        *(
            Measurement(f"{what} / FedAvg", seconds[name] / seconds["fedavg"], "times")
            for name, what in called.items()
            if name != "fedavg"
        ),
        *(
            Measurement(f"floor: {called[name]}", 1000 * one.seconds(rates), "ms")
            for name, one in work.items()
        ),
        *(
            Measurement(f"{called[name]} / its floor", seconds[name] / one.seconds(rates), "times")
            for name, one in work.items()
        ),
    ]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _median_seconds(device: torch.device, work: Callable[[], object], repeats: int) -> float:
    work()
    found = []
    for _ in range(repeats):
        started = _now(device)
        work()
        found.append(_now(device) - started)
    return median(found)
