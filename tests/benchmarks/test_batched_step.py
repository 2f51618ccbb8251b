"""The gradients of a group as one computation: on a GPU against FedAvg and the floor, and on a CPU.

On a CPU a group's gradients are computed one after the other but for small multilayer perceptrons;
the figures here are why (``worker/methods/hypernetwork/step_gradients.py``).
"""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.conftest import Report
from tests.benchmarks.device_steps import Round, measure, one_computation
from tests.benchmarks.measurements import Measurement, medians
from worker.data.images import ImageShape

pytestmark = pytest.mark.benchmark

_NETWORKS: list[tuple[str, ImageShape]] = [
    ("cnn-mnist", (1, 28, 28)),
    ("cnn-cifar", (3, 32, 32)),
    ("mlp:64x2", (1, 5, 6)),
    ("mlp:512x2", (1, 28, 28)),
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("model", ["cnn-mnist", "cnn-cifar"])
def test_step_on_a_gpu(model: str, report: Report) -> None:
    report(f"training step on a GPU, {model}", measure(torch.device("cuda"), model=model))


def test_step_on_a_cpu(report: Report) -> None:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    for model, image_shape in _NETWORKS:
        rounds = {}
        for batched in (False, True):
            with one_computation(batched):
                rounds[batched] = Round(
                    "hyperfl", model, image_shape, 20, 200, torch.device("cpu"), epochs=1
                )
            rounds[batched].processor_seconds()
        seconds = medians(
            3, turns=rounds[False].processor_seconds, one=rounds[True].processor_seconds
        )
        rows += [
            Measurement(f"{model}, one after the other", 1000 * seconds["turns"], "ms"),
            Measurement(f"{model}, one computation", 1000 * seconds["one"], "ms"),
            Measurement(
                f"{model}, the second / the first", seconds["one"] / seconds["turns"], "times"
            ),
        ]
    torch.set_num_threads(num_threads)
    report("training step, 20 clients on a CPU", rows)
