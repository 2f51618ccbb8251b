"""What lies before the first adapter: kept or computed again, with the same result."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from tests.support.backbones import IMAGE_SHAPE, RESNET, VIT, random_backbone
from tests.support.random_clients import random_client_data
from worker.data.client_data import Examples
from worker.methods.local_round.extractor import FunctionalExtractor
from worker.methods.local_round.inputs import FeatureCache, Inputs
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout
from worker.models.registry import build_feature_extractor

CPU = torch.device("cpu")
ITEM_BYTES = 4 * 3


class CountingStart:
    """A frozen beginning of three numbers an image, which counts the images it was given."""

    def __init__(self) -> None:
        self.num_images = 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.num_images += len(images)
        return torch.stack([images.sum((1, 2, 3)), images.amax((1, 2, 3)), images[:, 0, 0, 0]], 1)


def training_split(seed: int = 1, count: int = 11, *, augment: bool = False) -> Examples:
    return random_client_data(seed, count, image_shape=(1, 8, 8), augment=augment).train


def inputs_of(examples: Examples, begin: CountingStart, cache: FeatureCache) -> Inputs:
    return Inputs(examples, CPU, begin, cache, 4, lambda: None)


def an_epoch(inputs: Inputs) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(inputs.shuffled_batches(3, np.random.default_rng(5)))


def test_kept_and_computed_inputs_are_the_same_in_the_same_order() -> None:
    examples, begin = training_split(), CountingStart()
    kept, computed = (
        an_epoch(inputs_of(examples, begin, FeatureCache(size))) for size in (10_000, 0)
    )
    images = list(examples.shuffled_batches(3, CPU, np.random.default_rng(5)))
    for (found, labels), (expected, also), (pixels, truth) in zip(
        kept, computed, images, strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        torch.testing.assert_close(found, begin(pixels), rtol=0, atol=0)
        assert torch.equal(labels, also)
        assert torch.equal(labels, truth)


def test_each_image_is_computed_once_whatever_asks_for_it() -> None:
    examples, begin, cache = training_split(), CountingStart(), FeatureCache(10_000)
    for _ in range(3):
        an_epoch(inputs_of(examples, begin, cache))
        list(inputs_of(examples, begin, cache).batches(5))
    assert begin.num_images == 11
    assert cache.size_bytes == 11 * ITEM_BYTES


def test_an_augmented_split_is_computed_from_its_crops_every_time() -> None:
    examples, begin, cache = training_split(augment=True), CountingStart(), FeatureCache(10_000)
    generators = [np.random.default_rng(5) for _ in range(2)]
    inputs = inputs_of(examples, begin, cache)
    for (found, _), (images, _) in zip(
        inputs.shuffled_batches(3, generators[0]),
        examples.shuffled_batches(3, CPU, generators[1]),
        strict=True,
    ):
        torch.testing.assert_close(found, begin(images), rtol=0, atol=0)
    assert cache.size_bytes == 0


@pytest.mark.parametrize(("max_bytes", "fits"), [(11 * ITEM_BYTES, 1), (11 * ITEM_BYTES - 1, 0)])
def test_the_bound_is_on_all_splits_together(max_bytes: int, fits: int) -> None:
    first, second, cache = training_split(), training_split(2), FeatureCache(max_bytes)
    begins = CountingStart(), CountingStart()
    with capture_logs() as logs:
        for _ in range(2):
            for examples, begin in zip((first, second), begins, strict=True):
                an_epoch(inputs_of(examples, begin, cache))
    assert cache.size_bytes == fits * 11 * ITEM_BYTES
    events = [log["event"] for log in logs]
    assert events.count("inputs cached") == fits
    # Once a split, not once a batch.
    refusals = [log for log in logs if log["event"].startswith("inputs do not fit")]
    assert len(refusals) == 2 - fits
    assert refusals[-1]["needed_bytes"] == 11 * ITEM_BYTES
    assert refusals[-1]["max_bytes"] == max_bytes
    assert begins[1].num_images > 22


def test_what_a_client_no_longer_uses_makes_room() -> None:
    cache = FeatureCache(11 * ITEM_BYTES)
    examples = training_split()
    an_epoch(inputs_of(examples, CountingStart(), cache))
    del examples
    gc.collect()
    assert cache.size_bytes == 0
    later = training_split(2)
    an_epoch(inputs_of(later, CountingStart(), cache))
    assert cache.size_bytes == 11 * ITEM_BYTES


def test_a_stop_while_keeping_leaves_nothing_half_kept() -> None:
    examples, begin, cache = training_split(), CountingStart(), FeatureCache(10_000)
    asked: Iterator[int] = iter(range(100))

    def stop_at_the_third() -> None:
        if next(asked) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        an_epoch(Inputs(examples, CPU, begin, cache, 4, stop_at_the_third))
    assert cache.size_bytes == 0
    assert len(an_epoch(inputs_of(examples, begin, cache))) == 4


@pytest.mark.parametrize("with_adapters", [True, False])
@pytest.mark.parametrize("model", [VIT, RESNET])
def test_a_divided_backbone_computes_what_the_whole_one_does(
    model: str, *, with_adapters: bool
) -> None:
    template = random_backbone(model, with_adapters=with_adapters)
    layout = ParameterLayout(generated_tensors(template.module))
    extractor = FunctionalExtractor(template, layout, CPU, max_cache_bytes=1 << 20)
    parameters = {t.name: torch.rand(t.shape) / 10 for t in layout.tensors}
    data = random_client_data(1, 5, image_shape=IMAGE_SHAPE)
    ((inputs, _),) = extractor.inputs(data.train, lambda: None).batches(5)
    ((images, _),) = data.train.batches(5, CPU)
    extractor.evaluation_mode()
    found = extractor.call(parameters, inputs, torch.float32)
    whole = torch.func.functional_call(template.module.eval(), parameters, (images,))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    assert not inputs.requires_grad
    if not with_adapters:
        assert torch.equal(found, inputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kept_inputs_lie_on_the_device_that_trains() -> None:
    template = random_backbone(RESNET)
    layout = ParameterLayout(generated_tensors(template.module))
    device = torch.device("cuda")
    data = random_client_data(1, 5, image_shape=IMAGE_SHAPE)
    found = [
        next(
            FunctionalExtractor(
                template, layout, device, mixed_precision=True, max_cache_bytes=size
            )
            .inputs(data.train, lambda: None)
            .batches(5)
        )
        for size in (1 << 20, 0)
    ]
    for inputs, labels in found:
        assert (inputs.device.type, labels.device.type) == ("cuda", "cuda")
    torch.testing.assert_close(found[0][0], found[1][0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_keeps_the_images_of_a_network_without_a_frozen_beginning() -> None:
    template = build_feature_extractor("mlp:4x1", (1, 8, 8))
    layout = ParameterLayout(generated_tensors(template.module))
    extractor = FunctionalExtractor(template, layout, torch.device("cuda"), max_cache_bytes=1 << 20)
    data = random_client_data(1, 5, image_shape=(1, 8, 8)).train
    with capture_logs() as logs:
        passes = [list(extractor.inputs(data, lambda: None).batches(2)) for _ in range(2)]
    assert [log["event"] for log in logs] == ["inputs cached"]
    for found in passes:
        for batch, expected in zip(found, data.batches(2, CPU), strict=True):
            assert [one.device.type for one in batch] == ["cuda", "cuda"]
            torch.testing.assert_close([one.cpu() for one in batch], list(expected))
