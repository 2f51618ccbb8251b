import numpy as np
import torch
from torch.nn.functional import pad

from worker.data.augmentation import random_crop_and_flip

GENERATOR_SEED = 11


def seeded():
    return np.random.default_rng(GENERATOR_SEED)


def images(count):
    return torch.from_numpy(seeded().integers(1, 256, (count, 3, 8, 8), dtype=np.uint8))


def test_the_same_generator_state_gives_the_same_images():
    batch = images(16)
    first, again = (random_crop_and_flip(batch, seeded()) for _ in range(2))
    assert torch.equal(first, again)
    generator = seeded()
    random_crop_and_flip(batch, generator)
    assert not torch.equal(first, random_crop_and_flip(batch, generator))


def test_every_result_is_a_crop_of_the_padded_image_or_its_mirror():
    batch = images(64)
    augmented = random_crop_and_flip(batch, seeded())
    assert (augmented.shape, augmented.dtype) == (batch.shape, torch.uint8)
    flips = offsets = 0
    seen = set()
    for image, result in zip(pad(batch, (4,) * 4), augmented, strict=True):
        found = [
            (top, left, flipped)
            for top in range(9)
            for left in range(9)
            for flipped in (False, True)
            if torch.equal(
                result.flip(2) if flipped else result, image[:, top : top + 8, left : left + 8]
            )
        ]
        assert len(found) == 1
        seen.add(found[0][:2])
        flips += found[0][2]
        offsets += found[0][:2] != (4, 4)
    assert 16 < flips < 48
    assert offsets > 48
    assert len(seen) > 20
