"""Local rounds of the model methods, as plain as they can be written.

Dense modules, torch.optim.SGD, a loop over examples: the oracle for ``worker.methods``, with which
it shares the random streams and the noise's scale only. ``module`` draws nothing in training mode.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from shared.arrays import digest_arrays
from shared.federation.hyperparameters import CentaurPlan, ModelPlan, PPSGDPlan, PrivateModelPlan
from worker.methods.interface import Participant
from worker.methods.local_round.random_streams import client_generator

CPU = torch.device("cpu")


class PlainModel(nn.Module):
    def __init__(self, extractor: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.extractor = copy.deepcopy(extractor)
        self.head = nn.Linear(width, num_classes)
        self.double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.extractor(images.double()))


def load(model: PlainModel, participant: Participant, weights: dict[str, np.ndarray]) -> None:
    """Shared and private tensors into the module, each name used once."""
    values = {name: torch.tensor(array) for name, array in weights.items()}
    for name, tensor in participant.private.items():
        if not name.startswith("privacy."):
            values[name.replace("buffers.", "extractor.", 1)] = tensor
    model.load_state_dict(values, strict=True)


def train_whole(
    model: PlainModel,
    participant: Participant,
    plan: ModelPlan,
    order: np.random.Generator,
    anchor: dict[str, torch.Tensor] | None = None,
    pull: float = 0.0,
) -> float:
    """Epochs of SGD, pulled to ``anchor``; returns the last epoch's mean loss."""
    optimizer = _sgd(model.parameters(), plan.learning_rate, plan)
    model.train()
    for _ in range(plan.epochs):
        total = 0.0
        for images, labels in participant.data.train.shuffled_batches(plan.batch_size, CPU, order):
            optimizer.zero_grad()
            loss = cross_entropy(model(images), labels)
            objective = loss
            for name, one in model.named_parameters():
                if anchor is not None:
                    objective = objective + pull / 2 * (one - anchor[name]).square().sum()
            objective.backward()
            optimizer.step()
            total += float(loss.detach()) * len(labels)
    return total / len(participant.data.train)


def train_privately(
    model: PlainModel,
    participant: Participant,
    plan: PrivateModelPlan,
    round_number: int,
    sigma: float,
) -> None:
    """The rounds of dp-fedavg, centaur and ppsgd, told apart by their plans."""
    order = client_generator(participant.seed, "batches", round_number)
    steps_before = int(participant.private["privacy.steps"])
    shares_head = not isinstance(plan, PPSGDPlan)
    trained = list((model if shares_head else model.extractor).parameters())
    shared = {
        name: one.detach().numpy()
        for name, one in model.named_parameters()
        if shares_head or name.startswith("extractor.")
    }
    moment = f"after {steps_before} steps from {digest_arrays(shared)}"
    sampling, noise = (
        client_generator(participant.seed, f"privacy {purpose} {moment}", round_number)
        for purpose in ("samples", "noise")
    )
    optimizer = _sgd(trained, plan.learning_rate, plan)
    num_examples = len(participant.data.train)
    rate = plan.sample_rate or plan.batch_size / num_examples
    steps = round(1 / rate) if plan.sample_rate else math.ceil(num_examples / plan.batch_size)
    model.train()
    head_optimizer = None
    if isinstance(plan, CentaurPlan):
        _train_head(model, participant, plan, order)
    elif isinstance(plan, PPSGDPlan):
        head_optimizer = _sgd(model.head.parameters(), plan.head_learning_rate, plan)
    for _ in range(plan.epochs * steps):
        chosen = torch.from_numpy(sampling.random(num_examples) < rate)
        images, labels = participant.data.train.batch(chosen.nonzero().squeeze(1), CPU)
        if head_optimizer is not None and len(labels):
            head_optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            head_optimizer.step()
        sums = [torch.zeros_like(parameter) for parameter in trained]
        for image, label in zip(images, labels, strict=True):
            loss = cross_entropy(model(image[None]), label[None])
            gradients = torch.autograd.grad(loss, trained)
            norm = math.sqrt(sum(float(one.square().sum()) for one in gradients))
            for total, one in zip(sums, gradients, strict=True):
                total.add_(one, alpha=min(1.0, plan.clip_norm / norm))
        for parameter, total in zip(trained, sums, strict=True):
            draw = torch.from_numpy(noise.standard_normal(parameter.shape)).float().double()
            parameter.grad = (total + sigma * plan.clip_norm * draw) / (rate * num_examples)
        optimizer.step()


def _train_head(
    model: PlainModel, participant: Participant, plan: CentaurPlan, order: np.random.Generator
) -> None:
    assert plan.head_epochs == 1
    optimizer = _sgd(model.head.parameters(), plan.head_learning_rate, plan)
    for images, labels in participant.data.train.shuffled_batches(plan.batch_size, CPU, order):
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()


def _sgd(
    parameters: Iterator[nn.Parameter] | list[nn.Parameter], rate: float, plan: ModelPlan
) -> torch.optim.SGD:
    return torch.optim.SGD(
        parameters, lr=rate, momentum=plan.momentum, weight_decay=plan.weight_decay
    )
