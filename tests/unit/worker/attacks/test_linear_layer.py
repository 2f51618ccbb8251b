"""Inputs of a linear layer from gradients that were made of known ones."""

from __future__ import annotations

import numpy as np
import pytest

from worker.attacks.linear_layer import recover_inputs

_OUTPUTS, _INPUTS = 128, 30


def lifted(count: int, share_of_zeros: float) -> tuple[np.ndarray, np.ndarray]:
    """The gradient (outputs, inputs + 1), and the inputs (count, inputs) it was made of."""
    generator = np.random.default_rng(1)
    inputs = generator.standard_normal((count, _INPUTS))
    errors = generator.standard_normal((count, _OUTPUTS))
    errors *= generator.random((count, _OUTPUTS)) >= share_of_zeros
    return errors.T @ np.concatenate([inputs, np.ones((count, 1))], axis=1), inputs


def worst_error(found: np.ndarray, inputs: np.ndarray) -> float:
    distances = np.linalg.norm(inputs[:, None] - found[None], axis=2)
    return float((distances.min(axis=1) / np.linalg.norm(inputs, axis=1)).max())


def test_of_one_example_the_input_is_exact() -> None:
    gradient, inputs = lifted(1, 0.0)
    found = recover_inputs(gradient, 1)
    assert len(found) == 1
    assert worst_error(found, inputs) < 1e-12


@pytest.mark.parametrize("count", [2, 5])
def test_zeros_of_relu_or_dropout_tell_a_batch_apart(count: int) -> None:
    gradient, inputs = lifted(count, 0.5)
    assert worst_error(recover_inputs(gradient, count), inputs) < 0.01


def test_without_zeros_a_batch_of_gaussian_errors_stays_mixed() -> None:
    gradient, inputs = lifted(8, 0.0)
    assert worst_error(recover_inputs(gradient, 8), inputs) > 0.1


@pytest.mark.parametrize("gradient", [np.zeros((4, 3)), np.full((4, 3), np.nan)])
def test_a_gradient_that_says_nothing_gives_no_candidate(gradient: np.ndarray) -> None:
    assert recover_inputs(gradient, 2).shape == (0, 2)
