"""A client's step of local training: exact factored training against what it replaces."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from shared.federation.hyperparameters import HyperFLPlan
from shared.federation.plans import TrainingPlan
from tests.benchmarks.conftest import Report
from tests.benchmarks.measurements import Measurement, medians
from tests.support.plain_hyperfl import PlainHypernetwork, train_plain_hypernetwork
from tests.support.random_clients import random_examples_of
from worker.data.client_data import ClientData, Examples
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import Participant
from worker.methods.local_round.extractor import FunctionalExtractor
from worker.models.cnn import FEATURE_WIDTH, cnn_mnist
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout
from worker.models.registry import build_feature_extractor

pytestmark = pytest.mark.benchmark

_CPU = torch.device("cpu")
_NUM_CLASSES, _NUM_EXAMPLES, _NUM_CLIENTS, _REPEATS = 10, 600, 20, 5
_NUM_DENSE_STEPS = 12
_SHAPE = (1, 28, 28)


def random_examples(seed: int, count: int) -> Examples:
    return random_examples_of(seed, count, _SHAPE, _NUM_CLASSES)


class _Federation:
    """One hypernetwork, twenty clients with data, and every way to take their steps."""

    def __init__(self, hidden_size: int) -> None:
        training = TrainingPlan(
            method="hyperfl",
            model="cnn-mnist",
            image_shape=_SHAPE,
            num_classes=_NUM_CLASSES,
            hyperparameters={"hidden_size": hidden_size, "head_epochs": 0, "epochs": 5},
        )
        self._plan = HyperFLPlan.model_validate(training.hyperparameters)
        self._method = HyperFL(training, _CPU)
        self._weights = self._method.parameters(seed=1).initial_values()
        self._participants = [
            Participant(
                f"client-{index:02d}",
                ClientData(random_examples(index, _NUM_EXAMPLES), random_examples(-index, 1)),
                self._method.initial_private(index),
                index,
            )
            for index in range(1, _NUM_CLIENTS + 1)
        ]
        self._num_steps = 5 * _NUM_EXAMPLES // self._plan.batch_size

    def _batches(self, num_epochs: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
        order = np.random.default_rng(1)
        examples = self._participants[0].data.train
        return [
            batch
            for _ in range(num_epochs)
            for batch in examples.shuffled_batches(self._plan.batch_size, _CPU, order)
        ]

    def factored(self, num_clients: int) -> float:
        """Seconds a step and client, as the method itself measures them."""
        group = self._participants[:num_clients]
        results = list(self._method.train(group, self._weights, 1, lambda: False))
        seconds = sum(result.metrics["seconds_training"] for result in results)
        return seconds / num_clients / self._num_steps

    def dense(self) -> float:
        """Seconds a step of dense autograd and torch.optim.SGD."""
        template = build_feature_extractor("cnn-mnist", None)
        layout = ParameterLayout(generated_tensors(template.module))
        extractor = FunctionalExtractor(template, layout, _CPU)
        private = self._participants[0].private
        network = PlainHypernetwork(
            {name: torch.tensor(array) for name, array in self._weights.items()},
            private["embedding"],
            self._plan.feature_scale,
        )
        noise = np.random.default_rng(0)

        def loss_on(batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[..., torch.Tensor]:
            images, labels = batch

            def loss_of(theta: torch.Tensor) -> torch.Tensor:
                features = extractor.training_features(theta, {}, images, noise)
                logits = nn.functional.linear(features, private["head.weight"])
                return cross_entropy(logits, labels)

            return loss_of

        started = time.perf_counter()
        train_plain_hypernetwork(
            network,
            [loss_on(batch) for batch in self._batches()],
            learning_rate=0.02,
            momentum=0.5,
            weight_decay=5e-4,
            clip_norm=50.0,
        )
        return (time.perf_counter() - started) / _NUM_DENSE_STEPS

    def fedavg(self) -> float:
        """Seconds a step of plain SGD on the whole model."""
        model = nn.Sequential(cnn_mnist(), nn.Linear(FEATURE_WIDTH, _NUM_CLASSES))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5, weight_decay=5e-4)
        started = time.perf_counter()
        for images, labels in self._batches(num_epochs=5):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
        return (time.perf_counter() - started) / self._num_steps


@pytest.mark.parametrize("hidden_size", [128, HyperFLPlan().hidden_size])
def test_step(hidden_size: int, report: Report) -> None:
    federation = _Federation(hidden_size)
    federation.dense()
    seconds = medians(
        _REPEATS,
        dense=federation.dense,
        alone=lambda: federation.factored(1),
        together=lambda: federation.factored(_NUM_CLIENTS),
        fedavg=federation.fedavg,
    )
    is_papers = hidden_size == 128
    report(
        f"training step, {hidden_size} hidden",
        [
            Measurement("dense autograd SGD", 1000 * seconds["dense"], "ms"),
            Measurement("factored, one client alone", 1000 * seconds["alone"], "ms"),
            Measurement("factored, 20 clients in lock step", 1000 * seconds["together"], "ms"),
            Measurement("FedAvg: plain SGD on the model", 1000 * seconds["fedavg"], "ms"),
            Measurement(
                "dense / alone",
                seconds["dense"] / seconds["alone"],
                "times",
                3.0 if is_papers else None,
                at_least=True,
            ),
            Measurement(
                "dense / lock step",
                seconds["dense"] / seconds["together"],
                "times",
                8.0 if is_papers else None,
                at_least=True,
            ),
            Measurement(
                "lock step / FedAvg", seconds["together"] / seconds["fedavg"], "times", 1.5
            ),
        ],
    )
