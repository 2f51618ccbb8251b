"""That IG succeeds where it is known to: else its failures would mean nothing."""

from __future__ import annotations

from tests.support.observed_rounds import (
    CNN,
    CNN_SHAPE,
    LINEAR,
    LINEAR_SHAPE,
    observe,
    plan_of,
)
from worker.attacks import gradient_inversion
from worker.attacks.extractor_change import read_extractor_change
from worker.attacks.measures import psnr


def test_one_image_in_one_step_of_fedavg_comes_out() -> None:
    seen = observe(plan_of("fedavg", CNN, CNN_SHAPE, epochs=1), [3])
    found = gradient_inversion.invert(
        seen.network,
        read_extractor_change(seen.observation),
        seen.labels,
        seen.pixel_range,
        iterations=200,
    )
    assert float(psnr(found, seen.pixels)) >= 25.0


def test_an_update_of_other_images_gives_nothing() -> None:
    seen, other = (
        observe(plan_of("fedavg", LINEAR, LINEAR_SHAPE, epochs=1), [place]) for place in (3, 4)
    )
    found = gradient_inversion.invert(
        seen.network,
        read_extractor_change(other.observation),
        other.labels,
        seen.pixel_range,
        iterations=200,
    )
    assert float(psnr(found, other.pixels)) >= 25.0
    assert float(psnr(found, seen.pixels)) < 15.0
