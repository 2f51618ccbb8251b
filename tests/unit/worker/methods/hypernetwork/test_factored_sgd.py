"""The factored lock-step training equals plain dense autograd SGD."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.plain_hyperfl import PlainHypernetwork, train_plain_hypernetwork
from worker.methods.hypernetwork.factored_sgd import FactoredLayer, rows_needed
from worker.methods.hypernetwork.lock_step import HypernetworkChange, HypernetworkGroup
from worker.methods.hypernetwork.weights import HypernetworkWeights
from worker.methods.local_round.sgd import SGDSettings


@dataclass(frozen=True)
class Case:
    seed: int
    embedding_size: int
    hidden_size: int
    num_outputs: int
    num_steps: tuple[int, ...]
    settings: SGDSettings
    clip_norm: float
    spare_rows: int | None  # rows beyond what a fold leaves; None: as many as steps
    feature_scale: float = 0.7

    def weights(self) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        shapes = {
            "hypernetwork.trunk.weight": (self.hidden_size, self.embedding_size),
            "hypernetwork.trunk.bias": (self.hidden_size,),
            "hypernetwork.output.weight": (self.num_outputs, self.hidden_size),
            "hypernetwork.output.bias": (self.num_outputs,),
        }
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in shapes.items()
        }

    def embeddings(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1)
        shape = (len(self.num_steps), self.embedding_size)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def loss(self, client: int, step: int, theta: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1000 * client + step)
        target = torch.randn(self.num_outputs, generator=generator, dtype=torch.float64)
        return torch.nn.functional.softplus(theta - target).sum() + (theta * target).sin().sum()

    def train_in_lock_step(self) -> list[HypernetworkChange]:
        """Clients by falling number of steps, as ``num_steps`` lists them."""
        group = HypernetworkGroup(
            HypernetworkWeights(*self.weights().values()),
            self.embeddings(),
            feature_scale=self.feature_scale,
            max_rows=(
                max(self.num_steps)
                if self.spare_rows is None
                else 2 * (self.hidden_size + 1) + self.spare_rows
            ),
            settings=self.settings,
            clip_norm=self.clip_norm,
        )
        changes = {}
        for step in range(self.num_steps[0] + 1):
            for client, steps in enumerate(self.num_steps):
                if steps == step:
                    changes[client] = group.change(client)
            count = sum(steps > step for steps in self.num_steps)
            if not count:
                break
            thetas = group.generate(count)
            for client, row in enumerate(group.gradient_rows(count)):
                theta = thetas[client].requires_grad_()
                row.copy_(torch.autograd.grad(self.loss(client, step, theta), theta)[0])
            group.step(count)
        return [changes[client] for client in range(len(self.num_steps))]

    def train_plainly(self, client: int) -> PlainHypernetwork:
        network = PlainHypernetwork(self.weights(), self.embeddings()[client], self.feature_scale)
        train_plain_hypernetwork(
            network,
            [
                lambda theta, step=step: self.loss(client, step, theta)
                for step in range(self.num_steps[client])
            ],
            learning_rate=self.settings.learning_rate,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
            clip_norm=self.clip_norm,
        )
        return network


def assert_equals_plain(case: Case) -> None:
    start = case.weights()
    for client, change in enumerate(case.train_in_lock_step()):
        plain = case.train_plainly(client)
        after = {name: tensor.detach() for name, tensor in plain.shared().items()}
        output = change.output
        base = start["hypernetwork.output.weight"]
        assert len(output.left) == len(output.right) <= case.hidden_size
        found = {
            "hypernetwork.trunk.weight": change.trunk_weight,
            "hypernetwork.trunk.bias": change.trunk_bias,
            "hypernetwork.output.weight": output.scale * base + output.left.T @ output.right,
            "hypernetwork.output.bias": output.bias,
        }
        for name, delta in found.items():
            torch.testing.assert_close(
                start[name] + delta, after[name], rtol=1e-10, atol=1e-10, msg=name
            )
        torch.testing.assert_close(
            change.embedding, plain.embedding.detach(), rtol=1e-10, atol=1e-10
        )
        expected = float(plain.hidden().detach().square().sum())
        assert change.feature_norm_squared == pytest.approx(expected, rel=1e-9, abs=1e-12)


cases = st.builds(
    Case,
    seed=st.integers(0, 1 << 30),
    embedding_size=st.integers(1, 5),
    hidden_size=st.integers(1, 4),
    num_outputs=st.integers(1, 9),
    num_steps=st.lists(st.integers(1, 25), min_size=1, max_size=4).map(
        lambda steps: tuple(sorted(steps, reverse=True))
    ),
    # Momentum multiplies the rate by 1 / (1 - momentum). Far above this a descent is chaotic, and
    # then any two orders of the same additions drift apart.
    settings=st.builds(
        lambda rate, momentum, weight_decay: SGDSettings(
            rate * (1 - momentum), momentum, weight_decay
        ),
        rate=st.floats(1e-3, 0.1),
        momentum=st.sampled_from([0.0, 0.5, 0.9]),
        weight_decay=st.sampled_from([0.0, 5e-4, 0.3]),
    ),
    clip_norm=st.sampled_from([0.05, 1.0, 10.0, 1e6]),
    spare_rows=st.sampled_from([None, 1, 3]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases)
def test_any_training_equals_plain_autograd(case: Case) -> None:
    assert_equals_plain(case)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("learning_rate", [1.0, 1.5])
def test_decay_that_drives_the_base_scale_to_zero_or_beyond_is_harmless(
    momentum: float, learning_rate: float
) -> None:
    settings = SGDSettings(learning_rate, momentum, weight_decay=1.0)
    assert_equals_plain(Case(3, 4, 3, 6, (9, 4), settings, clip_norm=0.5, spare_rows=1))


def test_a_long_training_folds_many_times() -> None:
    settings = SGDSettings(learning_rate=0.002, momentum=0.5, weight_decay=5e-4)
    assert_equals_plain(Case(5, 6, 4, 8, (400, 130), settings, clip_norm=50.0, spare_rows=6))


def test_rows_are_bounded_for_long_trainings_only() -> None:
    assert rows_needed(num_features=16, num_steps=60) == 60
    assert rows_needed(num_features=16, num_steps=100_000) == 68
    assert rows_needed(num_features=128, num_steps=100_000) == 516
    assert rows_needed(num_features=1, num_steps=100_000) == 32


def test_the_shared_weights_are_never_written() -> None:
    weight, bias = torch.randn(6, 2), torch.randn(6)
    before = weight.clone(), bias.clone()
    layer = FactoredLayer(weight, bias, 1, 3, SGDSettings(0.1, 0.5, 0.1))
    features = torch.randn(1, 2)
    for _ in range(3):
        layer.gradient_rows(1).copy_(layer.forward(features))
        layer.step(features, torch.ones(1))
    torch.testing.assert_close((weight, bias), before, rtol=0, atol=0)


def test_few_steps_give_as_many_factors_as_steps() -> None:
    layer = FactoredLayer(torch.randn(6, 4), torch.randn(6), 1, 2, SGDSettings(0.1, 0.5, 0.1))
    features = torch.randn(1, 4)
    for _ in range(2):
        layer.gradient_rows(1).copy_(layer.forward(features))
        layer.step(features, torch.ones(1))
    change = layer.change(0)
    assert change.left.shape == (2, 6)
    assert change.right.shape == (2, 4)
