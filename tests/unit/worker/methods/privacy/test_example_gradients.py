"""Sums of clipped gradients equal those of torch.func's per-example gradients, whatever a model is.

The reference differentiates by every parameter, one example at a time. All of it is in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy, linear

from worker.methods.privacy.clipped_gradients import ClippedGradients
from worker.methods.privacy.layer_calls import LayerCall
from worker.models.cnn import cnn_cifar, cnn_mnist

NUM_CLASSES = 3
IMAGES = (4, 7, 6)


class UsedTwice(nn.Module):
    """A layer that is applied again to its own output, and one that is applied once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4 * 7 * 6, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(self.first(images).tanh()).tanh().flatten(1))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight
        self.last = nn.Linear(4 * 7 * 6, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.two(self.one(images).tanh()).flatten(1))


class UsedElsewhere(nn.Module):
    """Weights that the model also uses by another way than the layer's."""

    def __init__(self, *, hidden: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last = nn.Linear(4 * 7 * 6, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mapped = self.second(self.first(images).tanh())
        if self.hidden:
            mapped = _Product.apply(mapped, self.first.weight)
        else:
            mapped = mapped @ self.first.weight
        return self.last(mapped.flatten(1)) + self.second.bias[:NUM_CLASSES]


class _Product(torch.autograd.Function):
    """A product that no torch function call shows."""

    generate_vmap_rule = True

    @staticmethod
    def forward(left, right):
        return left @ right

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        left, right = ctx.saved_tensors
        return gradient @ right.T, (left.mT @ gradient).flatten(0, -3).sum(dim=0)


class SequenceFirst(nn.Module):
    """A linear layer that sees (7, examples, 24): another first dimension than the batch's."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.last = nn.Linear(24, 5), nn.Linear(35, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        steps = images.permute(2, 0, 1, 3).flatten(2)
        return self.last(self.step(steps).tanh().transpose(0, 1).flatten(1))


class MixesExamples(nn.Module):
    """What a batch would let an example see of the others, an example alone does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 2, 3), nn.Linear(2 * 5 * 4, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.first(images).tanh()
        return self.last((2 * maps - maps.mean(dim=0)).flatten(1))


class Patches(nn.Module):
    """A convolution of an image's own parts, as if they were a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 2, 3), nn.Linear(2 * 5 * 2 * 1, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        halves = torch.cat(images.split(3, dim=3))
        maps = self.first(halves).tanh()
        return self.last(torch.cat(maps.chunk(2), dim=1).flatten(1))


class Functional(nn.Module):
    """Layers without modules, called by keyword; one parameter is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(2, 4, 3, 2))
        self.matrix = nn.Parameter(torch.randn(NUM_CLASSES, 2 * 3 * 3))
        self.unused = nn.Parameter(torch.randn(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.nn.functional.conv2d(images, weight=self.kernel, stride=2, bias=None)
        return linear(input=maps.flatten(1), weight=self.matrix)


def convolution(**settings) -> nn.Module:
    layer = nn.Conv2d(4, 6, **settings)
    flat = layer(torch.zeros(1, *IMAGES)).numel()
    return nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(flat, NUM_CLASSES))


def normalised() -> nn.Module:
    layers = nn.Conv2d(4, 6, 3), nn.GroupNorm(3, 6), nn.ReLU(inplace=True), nn.Flatten()
    return nn.Sequential(*layers, nn.LayerNorm(120), nn.Linear(120, NUM_CLASSES))


# The layers whose gradients follow from inputs and outputs; all others are differentiated by.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "plain": (lambda: convolution(kernel_size=3), {"0", "3"}),
    "stride": (lambda: convolution(kernel_size=3, stride=2), {"0", "3"}),
    "uneven": (
        lambda: convolution(kernel_size=(3, 2), stride=(1, 3), padding=(2, 1), dilation=(2, 1)),
        {"0", "3"},
    ),
    "dilation": (lambda: convolution(kernel_size=2, dilation=3, padding=1), {"0", "3"}),
    "groups": (lambda: convolution(kernel_size=3, groups=2, padding=1, stride=2), {"0", "3"}),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Flatten(), nn.Linear(160, 3)),
        {"0", "2"},
    ),
    "no bias": (lambda: convolution(kernel_size=3, bias=False), {"0", "3"}),
    "same": (lambda: convolution(kernel_size=3, padding="same"), {"3"}),
    "valid": (lambda: convolution(kernel_size=3, padding="valid"), {"0", "3"}),
    "circular": (
        lambda: convolution(kernel_size=3, padding=1, padding_mode="circular"),
        {"0", "3"},
    ),
    "normalised": (normalised, {"0", "5"}),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Flatten(), nn.Linear(140, 3)),
        {"0", "3"},
    ),
    "used twice": (UsedTwice, {"last"}),
    "tied": (Tied, {"last"}),
    "used elsewhere": (lambda: UsedElsewhere(hidden=False), {"last"}),
    "used out of sight": (lambda: UsedElsewhere(hidden=True), {"last"}),
    "sequence first": (SequenceFirst, {"step", "last"}),
    "mixes examples": (MixesExamples, {"first", "last"}),
    "patches": (Patches, {"last"}),
    "functional": (Functional, {"kernel", "matrix"}),
}


class Task:
    """A network with random values, and a batch of 7: as many as SequenceFirst has steps."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...] = IMAGES, batch: int = 7) -> None:
        self.module = module.double()
        self.parameters = {name: one.detach() for name, one in module.named_parameters()}
        self.batch = (
            torch.randn(batch, *shape, dtype=torch.float64),
            torch.randint(NUM_CLASSES, (batch,)),
        )

        self.function = self.logits

    def logits(self, tensors, images):
        return functional_call(self.module, dict(tensors), (images,))

    def loss(self, tensors, image, label):
        return cross_entropy(self.function(tensors, image[None]), label[None])

    def sum(self, clipped: ClippedGradients) -> dict[str, torch.Tensor]:
        run = clipped.run(self.batch[0])
        return run.clipped_sum(cross_entropy(run.outputs, self.batch[1], reduction="none"))

    def expected(self, clip_norm: float) -> dict[str, torch.Tensor]:
        sums = {name: torch.zeros_like(one) for name, one in self.parameters.items()}
        for image, label in zip(*self.batch, strict=True):
            found = grad(self.loss)(self.parameters, image, label)
            norm = torch.cat([one.flatten() for one in found.values()]).norm()
            for name, one in found.items():
                sums[name] += one * min(1.0, clip_norm / float(norm))
        return sums

    def norms(self) -> torch.Tensor:
        found = [
            grad(self.loss)(self.parameters, image, label)
            for image, label in zip(*self.batch, strict=True)
        ]
        return torch.stack([torch.cat([g.flatten() for g in one.values()]).norm() for one in found])


@pytest.fixture
def by_layers(monkeypatch) -> list[str]:
    """Names of the tensors whose gradients followed from a layer's input and output."""
    names: list[str] = []
    derive = LayerCall.gradients

    def noted(self, *tensors):
        names.extend(self.names)
        return derive(self, *tensors)

    monkeypatch.setattr(LayerCall, "gradients", noted)
    return names


def assert_equal(found, expected) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sum_is_that_of_each_examples_own_clipped_gradient(
    name: str, by_layers: list[str]
) -> None:
    build, layers = NETWORKS[name]
    torch.manual_seed(3)
    task = Task(build())
    clip_norm = float(task.norms().median())
    found = task.sum(ClippedGradients(task.function, task.parameters, clip_norm))
    assert_equal(found, task.expected(clip_norm))
    assert {one.rpartition(".")[0] or one for one in by_layers} == layers


@pytest.mark.parametrize(("build", "shape"), [(cnn_mnist, (1, 28, 28)), (cnn_cifar, (3, 32, 32))])
def test_no_gradient_of_the_papers_networks_is_formed_by_differentiation(
    build, shape, by_layers: list[str]
) -> None:
    torch.manual_seed(4)
    task = Task(nn.Sequential(build(), nn.Linear(128, NUM_CLASSES)), shape, batch=3)
    found = task.sum(ClippedGradients(task.function, task.parameters, 0.5))
    assert_equal(found, task.expected(0.5))
    assert sorted(by_layers) == sorted(task.parameters)


def test_a_few_examples_at_a_time_give_the_same(monkeypatch) -> None:
    task = Task(convolution(kernel_size=3))
    monkeypatch.setattr(
        "worker.methods.privacy.example_gradients._PATCH_ELEMENTS", 3 * 4 * 9 * 5 * 4
    )
    found = task.sum(ClippedGradients(task.function, task.parameters, 0.1))
    assert_equal(found, task.expected(0.1))


def test_what_the_tensors_hold_may_change_between_batches() -> None:
    task = Task(convolution(kernel_size=3))
    clipped = ClippedGradients(task.function, task.parameters, 0.1)
    task.sum(clipped)
    for one in task.parameters.values():
        one.mul_(2)
    task.batch = task.batch[0][:4] + 1, task.batch[1][:4]
    assert_equal(task.sum(clipped), task.expected(0.1))


@pytest.mark.parametrize("change", ["none", "other shape", "another use", "hidden use", "twice"])
def test_a_model_that_changes_its_ways_is_differentiated(change: str) -> None:
    task = Task(nn.Sequential(nn.Linear(6, 6), nn.Flatten(), nn.Linear(168, NUM_CLASSES)))
    after = False

    def function(tensors, images):
        weight = tensors["0.weight"]
        if after and change == "none":
            return (weight**2).sum() * images.flatten(1)[:, :NUM_CLASSES]
        if after and change == "other shape":
            hidden = linear(images[:, :, :3], weight).sum()
            return hidden * linear(images.flatten(1), tensors["2.weight"])
        if after and change == "another use":
            images = images @ weight
        if after and change == "hidden use":
            images = _Product.apply(images, weight)
        if after and change == "twice":
            images = linear(images, weight)
        return task.logits(tensors, images)

    task.function = function
    clipped = ClippedGradients(function, task.parameters, 0.1)
    task.sum(clipped)
    after = True
    assert_equal(task.sum(clipped), task.expected(0.1))


@pytest.mark.parametrize("by_a_view", [False, True])
def test_a_layers_input_counts_as_it_was_when_the_layer_saw_it(by_a_view: bool) -> None:
    task = Task(nn.Sequential(nn.Linear(6, 6), nn.Flatten(), nn.Linear(168, NUM_CLASSES)))

    def function(tensors, images, overwrite: bool):
        maps = 2 * images
        given = maps[:, 1:] if by_a_view else maps
        added = linear(given, tensors["0.weight"], tensors["0.bias"]).sum()
        maps = maps.add_(added) if overwrite else maps + added
        return linear(maps.flatten(1), tensors["2.weight"])

    task.function = partial(function, overwrite=False)
    found = task.sum(ClippedGradients(partial(function, overwrite=True), task.parameters, 0.1))
    assert_equal(found, task.expected(0.1))


def test_dropout_is_each_examples_own() -> None:
    task = Task(nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(168, NUM_CLASSES)))
    image, label = task.batch[0][:1], task.batch[1][:1]
    task.batch = image.expand(7, *IMAGES), label.expand(7)
    seen: list[torch.Tensor] = []
    derive = LayerCall.gradients

    def noted(self, inputs, output_gradients):
        seen.append(inputs)
        return derive(self, inputs, output_gradients)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerCall, "gradients", noted)
        task.sum(ClippedGradients(task.function, task.parameters, 0.1))
    assert len({tuple(one.flatten().tolist()) for one in seen[0]}) == 7
