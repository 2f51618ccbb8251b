"""That ROG succeeds where it is known to."""

from __future__ import annotations

import pytest

from tests.support.observed_rounds import CNN, CNN_SHAPE, observe, plan_of
from worker.attacks import reduced_inversion
from worker.attacks.extractor_change import read_extractor_change
from worker.attacks.measures import psnr


@pytest.mark.slow
def test_one_image_in_one_step_of_fedavg_comes_out() -> None:
    seen = observe(plan_of("fedavg", CNN, CNN_SHAPE, epochs=1), [3])
    found = reduced_inversion.invert(
        seen.network,
        read_extractor_change(seen.observation),
        seen.labels,
        seen.pixel_range,
        iterations=300,
    )
    assert float(psnr(found, seen.pixels)) >= 25.0
