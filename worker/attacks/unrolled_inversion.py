"""Images from the change that several local steps made: the steps are simulated, and unrolled.

The other searches take the sum of a round's steps for one gradient at the weights before. Here
images, labels, each epoch's masks of feature dropout and, where it is private, the head are sought
with which the round's own SGD makes the change that was seen: the gradient of the distance goes
back through every simulated step (Geng et al., "Towards General Deep Leakage in Federated
Learning", arXiv 2110.09074, 2021). An epoch of several batches has an order that nobody knows: each
epoch then has images of its own, whose mean is to be the same in all (Dimitrov et al., "Data
Leakage in Federated Averaging", TMLR 2022). The search starts at the images of the closed form
(:mod:`worker.attacks.hypernetwork_inversion`), where there is one.

A hypernetwork is simulated as the extractor that it generates, whose steps are as many times larger
as ‖f‖² says. Left out are what moves f, the noise of private methods, and the pulls of fedprox and
fedpac.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from shared.federation.plans import TrainingPlan
from worker.attacks import hypernetwork_inversion
from worker.attacks.extractor_change import ExtractorChange
from worker.attacks.gradient_inversion import cosine_distance
from worker.attacks.image_search import PixelRange, descend, total_variation
from worker.attacks.measures import psnr_matrix
from worker.attacks.network import Network, Tensors
from worker.methods.fedpac import FedPAC
from worker.methods.hyperfl import HyperFL
from worker.methods.private_model import PrivateModelMethod
from worker.methods.registry import METHODS
from worker.methods.whole_model.method import ModelMethod

_VARIATION = 1e-3
_SAME_MEAN = 1.0
_LEARNING_RATE = 0.01
_DRAWN_RATE = 0.03
"""Where the network has no linear layer: drawn images have further to go."""
_FIRST_RATE = 0.03
_LABEL_SCALE = 20.0
"""Of the labels' logits: they have further to go than pixels."""
_SAME_IMAGE = 20.0
"""PSNR in dB above which two images of the start are one."""
_EPSILON = 1e-6


def knows_steps(plan: TrainingPlan) -> bool:
    """Whether how the plan's method trains what is shared is known here."""
    method = METHODS.get(plan.method)
    return method is not None and issubclass(method, (HyperFL, ModelMethod))


@dataclass(frozen=True)
class LocalSteps:
    """A client's local SGD, which everybody knows from the plan.

    Attributes:
        learning_rate: η.
        momentum: μ.
        weight_decay: λ.
        batch_size: images of a step.
        epochs: passes over the images.
        feature_dropout: share of the features that a step leaves out.
        clip_norm: largest norm of a gradient; None where none is clipped.
        clips_examples: whether it is each example's gradient that is clipped.
        trains_head: whether the steps move the head, too.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    epochs: int
    feature_dropout: float
    clip_norm: float | None
    clips_examples: bool
    trains_head: bool

    @classmethod
    def of(cls, plan: TrainingPlan) -> LocalSteps:
        """The steps of a plan's round.

        Raises:
            ValueError: how the method trains is not known here.
        """
        if not knows_steps(plan):
            raise ValueError(f"how method {plan.method} trains an extractor is not known")
        method = METHODS[plan.method]
        settings = plan.hyperparameters
        is_private = issubclass(method, PrivateModelMethod)
        return cls(
            learning_rate=float(settings["learning_rate"]),
            momentum=float(settings["momentum"]),
            weight_decay=float(settings["weight_decay"]),
            batch_size=int(settings["batch_size"]),
            epochs=int(settings["epochs"]),
            feature_dropout=float(settings["feature_dropout"]),
            clip_norm=float(settings["clip_norm"]) if "clip_norm" in settings else None,
            clips_examples=is_private,
            trains_head=issubclass(method, ModelMethod)
            and not issubclass(method, FedPAC)
            and (method.shares_head or not is_private),
        )

    def count(self, num_examples: int) -> int:
        """Steps of a round on so many examples."""
        return self.epochs * math.ceil(num_examples / self.batch_size)


def simulate(
    network: Network,
    change: ExtractorChange,
    head: Mapping[str, torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    masks: torch.Tensor,
    steps: LocalSteps,
) -> tuple[Tensors, Tensors]:
    """What a round's steps would show, as ``change`` has it: of the extractor, and of the head.

    Both are sums of gradients times the learning rate, without what weight decay took of the first
    weights. They can be differentiated by images, labels, masks and head.

    Args:
        network: of the clients.
        change: its weights before the round, and how many times the gradient these move.
        head: before the round, which requires gradients.
        images: normalised (epochs or 1, n, C, H, W); one set is taken for every epoch.
        labels: probabilities (epochs or 1, n, classes).
        masks: of feature dropout (epochs or 1, n, width): what features are multiplied by.
        steps: of the round.
    """
    start = [one.detach().requires_grad_() for one in change.before.values()]
    factors = [change.movement] * len(start)
    if steps.trains_head:
        start += head.values()
        factors += [1.0] * len(head)

    def named(tensors: Sequence[torch.Tensor]) -> tuple[Tensors, Tensors]:
        extractor, moved = tensors[: len(change.before)], tensors[len(change.before) :]
        names = head if moved else ()
        return (
            dict(zip(change.before, extractor, strict=True)),
            dict(zip(names, moved, strict=True)),
        )

    present, velocity = start, [torch.zeros_like(one) for one in start]
    kept, decay = 1.0, 0.0
    for epoch in range(steps.epochs):
        of_epoch = [each[epoch % len(each)] for each in (images, labels, masks)]
        batches = [torch.split(each, steps.batch_size) for each in of_epoch]
        for batch in zip(*batches, strict=True):
            extractor, moved = named(present)
            gradients = _gradients(
                network, extractor, dict(head) | moved, present, batch, steps, change.movement
            )
            velocity = [
                steps.momentum * before + factor * gradient + steps.weight_decay * one
                for before, factor, gradient, one in zip(
                    velocity, factors, gradients, present, strict=True
                )
            ]
            present = [
                one - steps.learning_rate * step
                for one, step in zip(present, velocity, strict=True)
            ]
            decay = steps.momentum * decay + steps.weight_decay * kept
            kept -= steps.learning_rate * decay
    return named(
        [
            (kept * before - after) / factor
            for before, after, factor in zip(start, present, factors, strict=True)
        ]
    )


def _gradients(
    network: Network,
    extractor: Mapping[str, torch.Tensor],
    head: Mapping[str, torch.Tensor],
    by: Sequence[torch.Tensor],
    batch: Sequence[torch.Tensor],
    steps: LocalSteps,
    movement: float,
) -> list[torch.Tensor]:
    """One step's gradients by extractor and head, clipped as the client clips them."""
    size = 1 if steps.clips_examples else len(batch[0])
    parts = []
    for images, labels, masks in zip(*(torch.split(each, size) for each in batch), strict=True):
        loss = network.loss(extractor, head, images, labels, masks)
        gradients = torch.autograd.grad(loss, by, create_graph=True)
        if steps.clip_norm is not None:
            # A hypernetwork's gradient is g fᵀ and g: its norm is that of g times √(1 + ‖f‖²).
            square = movement * torch.stack([one.square().sum() for one in gradients]).sum()
            factor = (steps.clip_norm / (square.sqrt() + _EPSILON)).clamp(max=1.0)
            gradients = tuple(factor * one for one in gradients)
        parts.append(gradients)
    return [torch.stack(each).mean(dim=0) for each in zip(*parts, strict=True)]


def invert(
    network: Network,
    change: ExtractorChange,
    num_examples: int,
    pixel_range: PixelRange,
    prior: torch.Tensor,
    steps: LocalSteps,
    *,
    iterations: int,
    seed: int = 0,
) -> torch.Tensor:
    """Reconstructions: pixels 0..1 (k, C, H, W), one an image and epoch that has its own.

    Args:
        network: of the clients.
        change: what the update showed, without what weight decay took.
        num_examples: images in the update.
        pixel_range: of the network's images.
        prior: pixels 0..1 (n, C, H, W) of public images.
        steps: of the round.
        iterations: of each of three searches: for the start, for what else is unknown of it, and
            for all together.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    found = hypernetwork_inversion.invert(
        network, change, num_examples, pixel_range, prior, iterations=iterations, seed=seed
    )
    begin = _starts(found, prior, num_examples, generator)
    copies = steps.epochs if num_examples > steps.batch_size else 1
    pixels = begin.expand(copies, *begin.shape).clone().requires_grad_()
    logits = torch.randn(copies, num_examples, network.num_classes, generator=generator) * 1e-2
    logits.requires_grad_()
    share = steps.feature_dropout
    masks = torch.ones(steps.epochs if share else 1, num_examples, network.feature_width)
    masks.requires_grad_(share > 0)
    head = change.head or network.drawn_head(seed)
    head = {name: one.clone().requires_grad_() for name, one in head.items()}
    wanted = list(change.gradient.values())
    if change.head_gradient is not None:
        wanted += [change.head_gradient[name] for name in head]
    size = torch.stack([one.square().sum() for one in wanted]).sum().clamp(min=1e-20)

    def loss() -> torch.Tensor:
        labels = (_LABEL_SCALE * logits).softmax(dim=-1)
        images = pixel_range.normalised(pixels)
        extractor, moved = simulate(network, change, head, images, labels, masks, steps)
        shown = [*extractor.values(), *moved.values()][: len(wanted)]
        away = torch.stack(
            [(one - other).square().sum() for one, other in zip(shown, wanted, strict=True)]
        )
        apart = (pixels - pixels.mean(dim=0)).mean(dim=1).square().mean()
        return (
            cosine_distance(shown, wanted)
            + away.sum() / size
            + _VARIATION * total_variation(pixels)
            + _SAME_MEAN * apart
        )

    def keep_in_range() -> None:
        pixels.clamp_(0.0, 1.0)
        masks.clamp_(0.0, 1 / (1 - share))

    unknown = [logits, *([masks] if share else []), *(head.values() if change.head is None else ())]
    # Else the images lose what the closed form had of them before the labels are known.
    descend(unknown, loss, iterations=iterations, learning_rate=_FIRST_RATE)
    descend(
        [pixels, *unknown],
        loss,
        iterations=iterations,
        learning_rate=_LEARNING_RATE if len(found) else _DRAWN_RATE,
        after_step=keep_in_range,
    )
    return pixels.detach().flatten(0, 1)


def _starts(
    found: torch.Tensor, prior: torch.Tensor, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Pixels (count, C, H, W): the closed form's, unlike ones first; then drawn public images."""
    same = psnr_matrix(found, found) > _SAME_IMAGE
    repeated = torch.tensor([bool(row[:place].any()) for place, row in enumerate(same)])
    order = torch.argsort(repeated.long(), stable=True) if len(found) else torch.arange(0)
    drawn = prior[torch.randint(len(prior), (count,), generator=generator)]
    return torch.cat([found[order], drawn])[:count]
