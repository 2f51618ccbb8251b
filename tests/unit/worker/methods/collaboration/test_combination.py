"""The weights of heads: the least of a quadratic form over all mixtures."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.plain_fedpac import least_on_simplex
from worker.methods.collaboration.combination import combination_weights


def quadratic_form(variances: np.ndarray, differences: np.ndarray) -> np.ndarray:
    form: np.ndarray = np.diag(variances) + differences @ differences.T
    return form


@pytest.mark.parametrize("seed", range(6))
def test_no_mixture_is_better(seed: int) -> None:
    generator = np.random.default_rng(seed)
    variances = generator.random(5) * 10.0 ** generator.integers(-3, 1, 5)
    differences = generator.standard_normal((5, 7)) * generator.choice([0.05, 1.0], (5, 1))
    differences[seed % 5] = 0.0  # of the client itself
    found = combination_weights(variances, differences)
    assert found is not None
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1.0)
    form = quadratic_form(variances, differences)
    np.testing.assert_allclose(found, least_on_simplex(form), atol=1e-9)
    others = generator.dirichlet(np.full(5, 0.4), 20_000)
    assert (np.einsum("ij,jk,ik->i", others, form, others) >= found @ form @ found - 1e-12).all()


def test_alike_clients_share_by_their_variances_and_one_alone_has_all() -> None:
    shared = combination_weights(np.array([1.0, 2.0, 4.0]), np.zeros((3, 2)))
    np.testing.assert_allclose(shared, np.array([4, 2, 1]) / 7)
    np.testing.assert_allclose(combination_weights(np.array([0.3]), np.zeros((1, 2))), [1.0])


def test_a_client_that_is_far_away_has_no_part() -> None:
    found = combination_weights(np.array([1.0, 1.0]), np.array([[0.0, 0.0], [1e3, 0.0]]))
    np.testing.assert_allclose(found, [1.0, 0.0], atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e20])
def test_no_size_of_features_ends_it(size: float) -> None:
    found = combination_weights(np.full(3, size**2), size * np.eye(3))
    np.testing.assert_allclose(found, np.full(3, 1 / 3)) if size else None
    assert found is not None
    assert found.sum() == pytest.approx(1.0)
