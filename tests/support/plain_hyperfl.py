"""HyperFL as plain as it can be written: dense autograd, torch.optim.SGD, one client at a time.

The oracle for the factored lock-step training. It shares only the random streams with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, leaky_relu, linear

from shared.federation.hyperparameters import HypernetworkPlan
from worker.data.client_data import Examples
from worker.methods.interface import Participant
from worker.methods.local_round.random_streams import client_generator


class PlainHypernetwork(nn.Module):
    """φ and one client's embedding v as parameters."""

    def __init__(
        self, weights: dict[str, torch.Tensor], embedding: torch.Tensor, feature_scale: float
    ) -> None:
        super().__init__()
        self.trunk_weight = nn.Parameter(weights["hypernetwork.trunk.weight"].clone())
        self.trunk_bias = nn.Parameter(weights["hypernetwork.trunk.bias"].clone())
        self.output_weight = nn.Parameter(weights["hypernetwork.output.weight"].clone())
        self.output_bias = nn.Parameter(weights["hypernetwork.output.bias"].clone())
        self.embedding = nn.Parameter(embedding.clone())
        self.feature_scale = feature_scale

    def hidden(self) -> torch.Tensor:
        return self.feature_scale * torch.relu(self.trunk_weight @ self.embedding + self.trunk_bias)

    def forward(self) -> torch.Tensor:
        return self.output_weight @ self.hidden() + self.output_bias

    def shared(self) -> dict[str, torch.Tensor]:
        return {
            "hypernetwork.trunk.weight": self.trunk_weight,
            "hypernetwork.trunk.bias": self.trunk_bias,
            "hypernetwork.output.weight": self.output_weight,
            "hypernetwork.output.bias": self.output_bias,
        }


def train_plain_hypernetwork(
    network: PlainHypernetwork,
    losses: list[Callable[[torch.Tensor], torch.Tensor]],
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    clip_norm: float,
) -> list[float]:
    """One SGD step for each loss of θ, in place; returns the losses."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr=learning_rate, momentum=momentum, weight_decay=weight_decay
    )
    values = []
    for loss_of in losses:
        optimizer.zero_grad()
        loss = loss_of(network())
        loss.backward()
        nn.utils.clip_grad_norm_(list(network.shared().values()), clip_norm)
        nn.utils.clip_grad_norm_([network.embedding], clip_norm)
        optimizer.step()
        values.append(float(loss.detach()))
    return values


@dataclass
class PlainResult:
    """What a plain round gave: weights after, private tensors after, metrics."""

    weights: dict[str, torch.Tensor]
    private: dict[str, torch.Tensor]
    metrics: dict[str, float]


def plain_round(
    participant: Participant,
    weights: dict[str, np.ndarray],
    module: nn.Module,
    plan: HypernetworkPlan,
    round_number: int,
    network_of: type[PlainHypernetwork] = PlainHypernetwork,
) -> PlainResult:
    """One whole local round of one client; ``module`` draws nothing in training mode."""
    device = torch.device("cpu")
    private = participant.private
    order = client_generator(participant.seed, "batches", round_number)
    head = {
        name: nn.Parameter(tensor.clone())
        for name, tensor in private.items()
        if name.startswith("head.")
    }
    buffers = {
        name.removeprefix("buffers."): tensor.clone()
        for name, tensor in private.items()
        if name.startswith("buffers.")
    }
    network = network_of(
        {name: torch.tensor(array) for name, array in weights.items()},
        private["embedding"],
        plan.feature_scale,
    )
    shapes = {
        name: parameter.shape
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }

    def scores_of(features: torch.Tensor) -> torch.Tensor:
        if "head.hidden.weight" in head:
            hidden = linear(features, head["head.hidden.weight"], head["head.hidden.bias"])
            features = leaky_relu(hidden)
        return linear(features, head["head.weight"], head["head.bias"])

    def training_scores_of(features: torch.Tensor) -> torch.Tensor:
        if plan.training_head is None:
            return scores_of(features)
        num_classes = len(head["head.bias"])
        used = features[:, : features.shape[1] // num_classes * num_classes]
        sums = used.unflatten(1, (-1, num_classes)).sum(dim=1)
        others = (sums.sum(dim=1, keepdim=True) - sums) / (num_classes - 1)
        row_norm = math.sqrt(used.shape[1] / num_classes * (1 + 1 / (num_classes - 1)))
        return (sums - others) / row_norm

    def features_of(theta: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        sizes = [shape.numel() for shape in shapes.values()]
        parts = torch.split(theta, sizes)
        tensors = {
            name: part.reshape(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        return functional_call(module, tensors | buffers, (images.to(theta.dtype),))

    def evaluate(examples: Examples) -> tuple[float, float]:
        module.eval()
        with torch.no_grad():
            images, labels = examples.batch(torch.arange(len(examples)), device)
            scores = scores_of(features_of(network(), images))
            accuracy = (scores.argmax(dim=1) == labels).double().mean()
            return float(accuracy), float(cross_entropy(scores, labels))

    accuracy_before, loss_before = evaluate(participant.data.test)

    module.train()
    theta = network().detach()
    optimizer = torch.optim.SGD(
        list(head.values()),
        lr=plan.head_learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
    )
    for epoch in range(plan.head_epochs):
        if epoch == 0:
            first_epoch = [
                (features_of(theta, images).detach(), labels)
                for images, labels in participant.data.train.shuffled_batches(
                    plan.batch_size, device, order
                )
            ]
            all_features = torch.cat([features for features, _ in first_epoch])
            all_labels = torch.cat([labels for _, labels in first_epoch])
            positions = torch.arange(len(all_labels))
        else:
            positions = torch.from_numpy(order.permutation(len(all_labels)))
        for part in torch.split(positions, plan.batch_size):
            optimizer.zero_grad()
            scores = scores_of(all_features[part])
            cross_entropy(scores, all_labels[part]).backward()
            optimizer.step()
    for parameter in head.values():
        parameter.requires_grad_(False)

    batches = [
        batch
        for _ in range(plan.epochs)
        for batch in participant.data.train.shuffled_batches(plan.batch_size, device, order)
    ]
    learning_rate = plan.learning_rate
    if plan.decay_rounds is not None:
        learning_rate *= 0.5 * (1 + math.cos(math.pi * (round_number - 1) / plan.decay_rounds))
    losses = train_plain_hypernetwork(
        network,
        [
            lambda theta, images=images, labels=labels: cross_entropy(
                training_scores_of(features_of(theta, images)), labels
            )
            for images, labels in batches
        ],
        learning_rate=learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        clip_norm=plan.clip_norm,
    )
    num_examples = len(participant.data.train)
    last_epoch = slice(len(batches) - len(batches) // plan.epochs, None)
    last_losses = zip(losses[last_epoch], batches[last_epoch], strict=True)
    accuracy_after, loss_after = evaluate(participant.data.test)
    return PlainResult(
        weights={name: tensor.detach() for name, tensor in network.shared().items()},
        private={"embedding": network.embedding.detach()}
        | head
        | {f"buffers.{name}": tensor for name, tensor in buffers.items()},
        metrics={
            "accuracy_before": accuracy_before,
            "accuracy_after": accuracy_after,
            "loss_before": loss_before,
            "loss_after": loss_after,
            "train_loss": sum(loss * len(labels) for loss, (_, labels) in last_losses)
            / num_examples,
            "feature_norm_squared": float(network.hidden().detach().square().sum()),
        },
    )
