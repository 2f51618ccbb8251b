"""Verdicts, on candidates whose worth is known."""

from __future__ import annotations

import pytest
import torch

from worker.audit.baselines import PublicImages, compare, judge


def images(count: int, seed: int) -> torch.Tensor:
    return torch.rand((count, 1, 12, 12), generator=torch.Generator().manual_seed(seed))


PUBLIC = PublicImages(images(200, 1), torch.arange(200) % 10)
OWN, LABELS = images(20, 2), torch.arange(20) % 10


@pytest.mark.parametrize(
    ("candidates", "says"),
    [
        (OWN + 0.02, "recovered"),
        (0.6 * OWN + 0.2, "recovered"),
        (images(20, 3), "gains nothing"),
        (images(20, 3).mean(0, keepdim=True), "gains nothing"),
        (torch.zeros(0, 1, 12, 12), "gains nothing"),
    ],
    ids=["images", "pale images", "noise", "mean of noise", "no candidate"],
)
def test_only_what_is_better_than_a_guess_gains(candidates: torch.Tensor, says: str) -> None:
    assert judge([compare(candidates.clamp(0, 1), OWN, LABELS, PUBLIC, 0)]).says == says


def test_an_image_that_is_identified_gains_whatever_its_psnr() -> None:
    """Noise can bring PSNR below a guess's, and the image be the first of all candidates."""
    noise = torch.randn(OWN.shape, generator=torch.Generator().manual_seed(4))
    verdict = judge([compare((OWN + 0.35 * noise), OWN, LABELS, PUBLIC, 0)])
    assert verdict.gain.high < 0
    assert verdict.first > 0.9
    assert verdict.says == "gains"


def test_a_public_image_as_reconstruction_recovers_nothing() -> None:
    verdict = judge([compare(PUBLIC.pixels, OWN, LABELS, PUBLIC, 0)])
    assert verdict.says == "gains nothing"
