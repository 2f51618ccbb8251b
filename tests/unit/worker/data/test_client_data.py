import numpy as np
import pytest
import torch

from worker.data.client_data import Examples
from worker.data.images import LabelledImages
from worker.data.scaling import PixelScaling

CPU = torch.device("cpu")


def seeded(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def data():
    images = torch.from_numpy(seeded().integers(0, 256, (30, 3, 8, 8), dtype=np.uint8))
    return LabelledImages(images, torch.arange(30) % 4, ("a", "b", "c", "d"))


def make(data, positions, *, augment=False, image_shape=(3, 8, 8)):
    return Examples(
        data,
        torch.tensor(positions),
        PixelScaling((0.4, 0.5, 0.6), (0.1, 0.2, 0.3), image_shape),
        augment=augment,
    )


def test_a_batch_is_normalised(data):
    examples = make(data, [7, 3, 20])
    pixels, labels = examples.batch(torch.tensor([2, 0]), CPU)
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(pixels, (data.images[[20, 7]] / 255 - mean) / std)
    assert (pixels.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert labels.tolist() == [0, 3]
    assert examples.labels.tolist() == [3, 3, 0]
    assert len(examples) == 3


def test_making_a_batch_leaves_the_shared_images_alone(data):
    before = data.images.clone()
    make(data, range(30), augment=True).batch(torch.arange(30), CPU, seeded())
    assert torch.equal(data.images, before)


def test_batches_keep_order_and_the_last_short_one(data):
    examples = make(data, range(10, 20))
    batches = list(examples.batches(4, CPU))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([labels for _, labels in batches]), examples.labels)


def test_an_epoch_is_a_permutation_drawn_from_the_generator(data):
    examples = make(data, range(10, 20))
    first, again, other = (
        list(examples.shuffled_batches(4, CPU, seeded(seed))) for seed in (1, 1, 2)
    )
    assert [len(labels) for _, labels in first] == [4, 4, 2]
    pixels = torch.cat([batch for batch, _ in first])
    assert torch.equal(pixels, torch.cat([batch for batch, _ in again]))
    assert not torch.equal(pixels, torch.cat([batch for batch, _ in other]))
    in_order = examples.batch(torch.arange(10), CPU)[0]
    torch.testing.assert_close(pixels.sum((1, 2, 3)).sort()[0], in_order.sum((1, 2, 3)).sort()[0])


def test_augmentation_needs_both_the_setting_and_a_generator(data):
    positions = torch.arange(30)
    plain = make(data, range(30)).batch(positions, CPU)[0]
    augmenting = make(data, range(30), augment=True)
    assert torch.equal(make(data, range(30)).batch(positions, CPU, seeded())[0], plain)
    assert torch.equal(augmenting.batch(positions, CPU)[0], plain)
    augmented = augmenting.batch(positions, CPU, seeded())[0]
    assert not torch.equal(augmented, plain)
    assert torch.equal(augmenting.batch(positions, CPU, seeded())[0], augmented)


def test_evaluation_batches_are_never_augmented(data):
    ((pixels, _),) = make(data, range(30), augment=True).batches(30, CPU)
    assert torch.equal(pixels, make(data, range(30)).batch(torch.arange(30), CPU)[0])


def test_a_batch_is_brought_to_the_shape_of_the_model():
    grey = LabelledImages(
        torch.full((4, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), ("a",)
    )
    examples = Examples(
        grey, torch.arange(4), PixelScaling((0.5,), (0.5,), (3, 28, 20)), augment=False
    )
    pixels, _ = examples.batch(torch.tensor([1, 2]), CPU)
    torch.testing.assert_close(pixels, torch.ones(2, 3, 28, 20))
    assert pixels.is_contiguous()
