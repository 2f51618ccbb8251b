"""That plain HyperFL's update gives images away, head and labels unknown."""

from __future__ import annotations

import pytest

from tests.support.observed_rounds import (
    CNN,
    CNN_SHAPE,
    LINEAR,
    LINEAR_SHAPE,
    observe,
    plan_of,
)
from worker.attacks import hypernetwork_inversion
from worker.attacks.extractor_change import read_extractor_change
from worker.attacks.measures import psnr_matrix


@pytest.mark.parametrize("method", ["hyperfl", "fedavg", "fedpac", "pfedhn"])
@pytest.mark.parametrize("encoding", ["factored", "dense"])
def test_what_a_linear_layer_was_given_is_read_off_the_update(method: str, encoding: str) -> None:
    plan = plan_of(method, LINEAR, LINEAR_SHAPE, epochs=1)
    seen = observe(plan, [3], encoding=encoding)
    found = hypernetwork_inversion.invert(
        seen.network,
        read_extractor_change(seen.observation),
        1,
        seen.pixel_range,
        seen.public_pixels(150),
        iterations=30,
    )
    assert float(psnr_matrix(found, seen.pixels)) >= 40.0


@pytest.mark.parametrize(
    "shared_part", ["hypernetwork", pytest.param("output-bias", marks=pytest.mark.slow)]
)
def test_convolutions_do_not_hide_an_image(shared_part: str) -> None:
    plan = plan_of("hyperfl", CNN, CNN_SHAPE, epochs=1, shared_part=shared_part)
    seen = observe(plan, [3], encoding="dense")
    prior = seen.public_pixels(150)
    found = hypernetwork_inversion.invert(
        seen.network,
        read_extractor_change(seen.observation),
        1,
        seen.pixel_range,
        prior,
        iterations=400,
    )
    reached = float(psnr_matrix(found, seen.pixels))
    # Without the embedding θ is known but for a tenth.
    assert reached >= (25.0 if shared_part == "hypernetwork" else 20.0)
    assert reached > float(psnr_matrix(prior, seen.pixels).max())


def test_a_round_of_many_images_gives_no_image() -> None:
    """So that a success is the attack's, and not what every candidate comes to."""
    seen = observe(plan_of("hyperfl", LINEAR, LINEAR_SHAPE), list(range(300)))
    found = hypernetwork_inversion.invert(
        seen.network,
        read_extractor_change(seen.observation),
        300,
        seen.pixel_range,
        seen.public_pixels(150),
        iterations=30,
    )
    reached = psnr_matrix(found, seen.pixels).max(dim=0).values
    nearest = psnr_matrix(seen.public_pixels(150), seen.pixels).max(dim=0).values
    assert float(reached.mean()) < float(nearest.mean())
