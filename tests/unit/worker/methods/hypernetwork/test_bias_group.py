"""Biases and embeddings in lock step: what autograd and torch's SGD make of the same losses."""

from __future__ import annotations

import torch

from shared.federation.plans import TrainingPlan
from shared.federation.sharing import OUTPUT_BIAS
from tests.support.random_clients import RESOURCES
from worker.methods.hyperfl import HyperFL
from worker.methods.hypernetwork.bias_group import BiasGroup
from worker.methods.hypernetwork.weights import HypernetworkWeights, hidden_features
from worker.methods.local_round.sgd import SGDSettings

NUM_OUTPUTS, HIDDEN, EMBEDDING, CLIENTS, STEPS = 11, 5, 3, 3, 6
SCALE, CLIP = 0.7, 0.9
SETTINGS = SGDSettings(learning_rate=0.1, momentum=0.5, weight_decay=0.01)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHTS = HypernetworkWeights(
    drawn(1, HIDDEN, EMBEDDING),
    drawn(2, HIDDEN),
    drawn(3, NUM_OUTPUTS, HIDDEN),
    drawn(4, NUM_OUTPUTS),
)
EMBEDDINGS = drawn(5, CLIENTS, EMBEDDING)
TARGETS = drawn(6, CLIENTS, NUM_OUTPUTS)


def loss_of(theta: torch.Tensor, client: int) -> torch.Tensor:
    return (theta - TARGETS[client]).square().sum()


def plainly(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """b and v after as many steps, by autograd and torch's optimisers."""
    bias = WEIGHTS.output_bias.clone().requires_grad_()
    embedding = EMBEDDINGS[client].clone().requires_grad_()
    steps = [
        torch.optim.SGD([bias], lr=0.1, momentum=0.5, weight_decay=0.01),
        torch.optim.SGD([embedding], lr=0.1, momentum=0.5),
    ]
    for _ in range(STEPS):
        features = hidden_features(WEIGHTS.trunk_weight, WEIGHTS.trunk_bias, embedding, SCALE)
        loss = loss_of(bias + WEIGHTS.output_weight @ features, client)
        for one in steps:
            one.zero_grad()
        loss.backward()
        for parameter in (bias, embedding):
            torch.nn.utils.clip_grad_norm_([parameter], CLIP)
        for one in steps:
            one.step()
    return bias.detach(), embedding.detach()


def test_lock_step_is_each_clients_own_sgd() -> None:
    group = BiasGroup(WEIGHTS, EMBEDDINGS, feature_scale=SCALE, settings=SETTINGS, clip_norm=CLIP)
    for _ in range(STEPS):
        thetas = group.generate(CLIENTS).requires_grad_()
        losses = [loss_of(theta, client) for client, theta in enumerate(thetas)]
        (gradients,) = torch.autograd.grad(sum(losses), thetas)
        group.gradient_rows(CLIENTS).copy_(gradients)
        group.step(CLIENTS)
    for client in range(CLIENTS):
        change = group.change(client)
        bias, embedding = plainly(client)
        torch.testing.assert_close(WEIGHTS.output_bias + change.bias, bias)
        torch.testing.assert_close(change.embedding, embedding)
        features = hidden_features(WEIGHTS.trunk_weight, WEIGHTS.trunk_bias, embedding, SCALE)
        assert abs(change.feature_norm_squared - float(features.square().sum())) < 1e-9


def test_only_the_output_bias_is_shared_and_everybody_draws_the_rest() -> None:
    plan = TrainingPlan(
        method="hyperfl",
        model="tests.support.extractors:tiny",
        image_shape=(1, 4, 4),
        num_classes=3,
        hyperparameters={"shared_part": "output-bias"},
    )
    one, other = (HyperFL(plan, torch.device("cpu"), RESOURCES) for _ in range(2))
    parameters = one.parameters(seed=5)
    assert list(parameters.by_name) == [OUTPUT_BIAS]
    values = parameters.initial_values()
    assert torch.equal(one.read(values).output_weight, other.read(values).output_weight)
    assert (
        one.parameters(seed=6).initial_values()[OUTPUT_BIAS].tolist()
        != values[OUTPUT_BIAS].tolist()
    )
