"""Traps fire for one image of many, and hand it over whoever has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.observed_rounds import LINEAR, LINEAR_SHAPE, digits, plan_of
from tests.support.random_clients import TESTS_ALLOWED
from worker.attacks.network import Network
from worker.attacks.trap_weights import sprung_inputs, with_traps
from worker.audit.subject import images_of


@pytest.mark.parametrize("count", [2, 10, 40])
def test_each_neuron_fires_for_about_one_image_of_so_many(count: int) -> None:
    network, parameters = network_and_parameters()
    data = digits(LINEAR_SHAPE)
    trapped = with_traps(network, parameters, images_of(data.test), count)
    strangers = images_of(data.train)
    inputs = network.linear_inputs(trapped, strangers)
    weight = torch.from_numpy(network.linear_gradient(trapped)[:, :-1]).float()
    bias = torch.from_numpy(network.linear_gradient(trapped)[:, -1]).float()
    share = float((inputs @ weight.T + bias > 0).float().mean())
    assert 0.5 / count < share < 2.0 / count


def test_what_one_image_of_many_fires_is_its_input() -> None:
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((20, 6))
    # Neuron k is image k's, and a hundredth of the others leaks into it.
    errors = np.where(np.eye(20) > 0, 1.0, 0.01) * generator.choice([-1.0, 1.0], (20, 20))
    found = sprung_inputs(errors.T @ np.concatenate([inputs, np.ones((20, 1))], axis=1))
    assert len(found) == 20
    assert np.linalg.norm(found - inputs, axis=1).max() < 0.5


@pytest.mark.parametrize("gradient", [np.zeros((4, 3)), np.full((4, 3), np.nan)])
def test_a_gradient_that_says_nothing_gives_no_candidate(gradient: np.ndarray) -> None:
    assert sprung_inputs(gradient).shape == (0, 2)


def network_and_parameters() -> tuple[Network, dict[str, torch.Tensor]]:
    network = Network(plan_of("hyperfl", LINEAR, LINEAR_SHAPE), TESTS_ALLOWED)
    assert network.linear is not None
    generator = torch.Generator().manual_seed(0)
    prefix = f"{network.linear}." if network.linear else ""
    shapes = {f"{prefix}weight": (32, 64), f"{prefix}bias": (32,)}
    return network, {
        name: torch.randn(shape, generator=generator) / 8 for name, shape in shapes.items()
    }
