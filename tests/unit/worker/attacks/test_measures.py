"""The measures, against what they are by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.attacks.measures import binomial_tail, bootstrap, psnr, psnr_matrix, ranks, roc, ssim


def images(count: int) -> torch.Tensor:
    return torch.rand((count, 1, 16, 16), generator=torch.Generator().manual_seed(0))


def test_psnr_of_an_error_of_a_tenth_is_20_db() -> None:
    one = torch.full((1, 1, 4, 4), 0.5)
    assert float(psnr(one, one + 0.1)) == pytest.approx(20.0, abs=1e-4)
    assert float(psnr(one, one)) == 60.0


def test_the_matrix_is_psnr_of_each_pair() -> None:
    matrix = psnr_matrix(images(3), images(5)[2:])
    assert float(matrix[2, 0]) == 60.0
    assert float(matrix[0, 1]) == pytest.approx(float(psnr(images(3)[0], images(5)[3])), abs=1e-3)


def test_ssim_is_1_of_equal_images_and_falls_with_noise_and_contrast() -> None:
    one = images(2)
    assert ssim(one, one).tolist() == pytest.approx([1.0, 1.0])
    noisy = (one + 0.2 * torch.randn(one.shape, generator=torch.Generator().manual_seed(1))).clamp(
        0, 1
    )
    assert float(ssim(one, noisy).mean()) < 0.9
    # Of a constant image: (2ab + c₁)/(a² + b² + c₁).
    dark, light = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.4)
    expected = (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)
    assert float(ssim(dark, light)) == pytest.approx(expected, abs=1e-6)


def test_an_image_ranks_after_its_equals() -> None:
    one = images(1)
    assert list(ranks(one, one, images(4)[1:])) == [1.0]
    assert list(ranks(one, one, one)) == [2.0]


def test_roc_of_scores_that_separate_and_of_equal_ones() -> None:
    assert roc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == (1.0, 1.0)
    assert roc(np.zeros(5), np.zeros(7)) == (0.5, 0.0)


def test_a_binomial_tail() -> None:
    assert binomial_tail(0, 5, 0.1) == pytest.approx(1.0)
    assert binomial_tail(2, 2, 0.5) == pytest.approx(0.25)
    assert binomial_tail(1, 10, 0.1) == pytest.approx(1 - 0.9**10)
    assert binomial_tail(3, 3, 1.0) == 1.0


def test_a_bootstrap_interval_holds_its_mean() -> None:
    found = bootstrap(np.arange(100.0))
    assert found.low < found.mean == 49.5 < found.high
    assert found.low > 40
    assert found.high < 59
