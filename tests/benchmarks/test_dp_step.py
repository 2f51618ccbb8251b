"""Local rounds under differential privacy against FedAvg's."""

from __future__ import annotations

import time

import pytest
import torch

from shared.federation.plans import TrainingPlan
from tests.benchmarks.conftest import Report
from tests.benchmarks.measurements import Measurement, medians
from tests.benchmarks.test_training_step import random_examples
from worker.data.client_data import ClientData
from worker.methods import build_method
from worker.methods.interface import Participant

pytestmark = pytest.mark.benchmark

_NUM_CLASSES, _NUM_EXAMPLES = 10, 600


class _Client:
    """One client with a method, and the seconds that its local round takes."""

    def __init__(self, method: str, **hyperparameters: int) -> None:
        plan = TrainingPlan(
            method=method,
            model="cnn-mnist",
            image_shape=(1, 28, 28),
            num_classes=_NUM_CLASSES,
            hyperparameters=hyperparameters,
        )
        self._method = build_method(plan, torch.device("cpu"))
        self._weights = self._method.parameters(seed=1).initial_values()
        data = ClientData(random_examples(1, _NUM_EXAMPLES), random_examples(2, 1))
        self._participant = Participant("client", data, self._method.initial_private(1), 1)

    def round(self) -> float:
        started = time.perf_counter()
        list(self._method.train([self._participant], self._weights, 1, lambda: False))
        return time.perf_counter() - started


def test_private_rounds(report: Report) -> None:
    fedavg = _Client("fedavg")
    private = {name: _Client(name, rounds=200) for name in ("dp-fedavg", "centaur", "ppsgd")}
    clients = {"fedavg": fedavg} | private
    for client in clients.values():
        client.round()
    seconds = medians(9, **{name: client.round for name, client in clients.items()})
    report(
        "round, differential privacy",
        [Measurement(name, 1000 * seconds[name], "ms") for name in clients]
        + [
            Measurement(f"{name} / fedavg", seconds[name] / seconds["fedavg"], "times", 2.0)
            for name in private
        ],
    )
