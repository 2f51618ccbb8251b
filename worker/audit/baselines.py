"""What a reconstruction must beat, and whether it does.

Blind guesses need no update: the mean of the public images, the mean of the image's class, and as
many random public images as the attack has candidates, matched as its candidates are. The public
image that is nearest to the original needs the original: nobody has it, and who comes nearer than
it has recovered more than a similar image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from worker.attacks.measures import (
    Interval,
    binomial_tail,
    bootstrap,
    psnr,
    psnr_matrix,
    ranks,
    ssim,
)

Float64 = npt.NDArray[np.float64]
MOST_CANDIDATES = 1000
_SIGNIFICANCE = 0.025


@dataclass(frozen=True, eq=False)
class PublicImages:
    """Images that an attack does not see: pixels 0..1 (n, C, H, W), labels (n,)."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def class_mean(self, label: int) -> torch.Tensor:
        """The mean image (C, H, W) of a class; of all where it has none."""
        members = self.pixels[self.labels == label]
        return (members if len(members) else self.pixels).mean(dim=0)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Each image (n) beside what an attack and the blind guesses have of it.

    Attributes:
        best: the candidate nearest to each image (n, C, H, W).
        nearest: the public image nearest to each image.
        guess: the class mean.
        attack: PSNR of ``best`` (n,).
        blind: PSNR of each blind guess (n,), by its name.
        similar: PSNR of ``nearest`` (n,).
        similarity: SSIM of ``best`` (n,).
        rank: of each image among itself and up to 999 public images.
        chance: largest probability with which an image is first that no candidate has to do with:
            of so many, one is nearest to each candidate.
    """

    best: torch.Tensor
    nearest: torch.Tensor
    guess: torch.Tensor
    attack: Float64
    blind: dict[str, Float64]
    similar: Float64
    similarity: Float64
    rank: Float64
    chance: float


def compare(
    candidates: torch.Tensor,
    images: torch.Tensor,
    labels: torch.Tensor,
    public: PublicImages,
    seed: int,
) -> Comparison:
    """Match an attack's candidates (k, C, H, W) to the images (n, C, H, W) it sought.

    The match is the attack's best: each image takes the candidate nearest to it. With no candidate
    the attack has the mean public image.
    """
    mean = public.pixels.mean(dim=0, keepdim=True)
    if not len(candidates):
        candidates = mean
    best = candidates[psnr_matrix(candidates, images).argmax(dim=0)]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(public.pixels), (len(candidates),), generator=generator)
    to_public = psnr_matrix(public.pixels, images)
    nearest = public.pixels[to_public.argmax(dim=0)]
    guess = torch.stack([public.class_mean(int(label)) for label in labels])
    others = public.pixels[: MOST_CANDIDATES - 1]
    return Comparison(
        best=best,
        nearest=nearest,
        guess=guess,
        attack=psnr(best, images).double().numpy(),
        blind={
            "mean image": psnr(mean.expand_as(images), images).double().numpy(),
            "class mean": psnr(guess, images).double().numpy(),
            "random public image": to_public[drawn].max(dim=0).values.numpy(),
        },
        similar=psnr(nearest, images).double().numpy(),
        similarity=ssim(best, images).numpy(),
        rank=ranks(best, images, others),
        chance=min(1.0, len(candidates) / (1 + len(others))),
    )


@dataclass(frozen=True)
class Verdict:
    """What an attack comes to on some images.

    Attributes:
        psnr: of the attack, dB.
        blind: of the best blind guess, dB, and its name.
        similar: of the nearest public images, dB.
        gain: of the attack over the best blind guess, dB.
        ssim: of the attack.
        first: share of images that are first among public ones.
        first_by_chance: probability of so many at least, if candidates had nothing to do with them.
        median_rank: of the images.
        says: ``recovered``, ``gains`` or ``gains nothing``.
    """

    psnr: Interval
    blind: tuple[float, str]
    similar: float
    gain: Interval
    ssim: float
    first: float
    first_by_chance: float
    median_rank: float
    says: str


def judge(comparisons: list[Comparison]) -> Verdict:
    """One verdict of all images together.

    ``gains``: the mean is above that of the best blind guess, with its whole interval, or more
    images are first than chance explains. ``recovered``: above that of the nearest public images,
    too. Else ``gains nothing``.
    """
    attack = np.concatenate([one.attack for one in comparisons])
    similar = np.concatenate([one.similar for one in comparisons])
    blind = {
        name: np.concatenate([one.blind[name] for one in comparisons])
        for name in comparisons[0].blind
    }
    name = max(blind, key=lambda one: float(blind[one].mean()))
    gain = bootstrap(attack - blind[name])
    rank = np.concatenate([one.rank for one in comparisons])
    num_first = int((rank == 1).sum())
    by_chance = binomial_tail(num_first, len(rank), max(one.chance for one in comparisons))
    says = "gains nothing"
    if gain.low > 0 or by_chance < _SIGNIFICANCE:
        says = "gains"
    if gain.low > 0 and bootstrap(attack - similar).low > 0:
        says = "recovered"
    return Verdict(
        psnr=bootstrap(attack),
        blind=(float(blind[name].mean()), name),
        similar=float(similar.mean()),
        gain=gain,
        ssim=float(np.concatenate([one.similarity for one in comparisons]).mean()),
        first=num_first / len(rank),
        first_by_chance=by_chance,
        median_rank=float(np.median(rank)),
        says=says,
    )
