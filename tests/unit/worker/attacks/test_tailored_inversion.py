"""That the paper's tailored attack succeeds on HyperFL's first step."""

from __future__ import annotations

import pytest

from tests.support.observed_rounds import CNN, CNN_SHAPE, observe, plan_of
from worker.attacks import tailored_inversion
from worker.attacks.measures import psnr


@pytest.mark.slow
def test_one_image_in_one_step_of_hyperfl_comes_out() -> None:
    seen = observe(plan_of("hyperfl", CNN, CNN_SHAPE, epochs=1), [3])
    found = tailored_inversion.invert(
        seen.network, seen.observation, seen.labels, seen.pixel_range, iterations=300
    )
    assert float(psnr(found, seen.pixels)) >= 25.0
