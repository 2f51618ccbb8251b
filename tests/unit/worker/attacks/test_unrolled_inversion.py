"""That a round's steps are simulated as a client takes them, and that images come out of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import one_hot

from tests.support.observed_rounds import (
    LINEAR,
    LINEAR_SHAPE,
    ObservedRound,
    observe,
    plan_of,
)
from worker.attacks import gradient_inversion, hypernetwork_inversion, unrolled_inversion
from worker.attacks.extractor_change import ExtractorChange, read_extractor_change
from worker.attacks.gradient_inversion import cosine_distance
from worker.attacks.measures import psnr_matrix
from worker.attacks.unrolled_inversion import LocalSteps

CONVOLUTIONS = "tests.support.extractors:convolutions_on_digits"


def observed(
    method: str, model: str, positions: list[int], **settings: Any
) -> tuple[ObservedRound, LocalSteps, ExtractorChange]:
    plan = plan_of(method, model, LINEAR_SHAPE, **settings)
    seen = observe(plan, positions)
    steps = LocalSteps.of(plan)
    observation = seen.observation.without_decay(steps.count(len(positions)))
    return seen, steps, read_extractor_change(observation)


def reached(found: torch.Tensor, seen: ObservedRound) -> float:
    return float(psnr_matrix(found, seen.pixels).max(dim=0).values.mean())


def truth(seen: ObservedRound) -> tuple[torch.Tensor, torch.Tensor]:
    labels = one_hot(seen.labels, seen.network.num_classes).float()
    return seen.pixel_range.normalised(seen.pixels)[None], labels[None]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("fedavg", {"weight_decay": 0.05}),
        ("hyperfl", {"feature_dropout": 0.0, "head_epochs": 0, "clip_norm": 0.2}),
    ],
)
def test_the_clients_own_images_give_what_it_sent(method: str, settings: dict[str, Any]) -> None:
    seen, steps, change = observed(method, LINEAR, [3, 4, 5], epochs=4, **settings)
    own = {name: one for name, one in seen.private.items() if name.startswith("head.")}
    head = {name: one.requires_grad_() for name, one in (change.head or own).items()}
    extractor, moved = unrolled_inversion.simulate(
        seen.network, change, head, *truth(seen), torch.ones(1, 3, 1), steps
    )
    for name, one in extractor.items():
        assert float(cosine_distance([one], [change.gradient[name]]).detach()) < 1e-3
        ratio = float(one.detach().norm() / change.gradient[name].norm())
        assert ratio == pytest.approx(1.0, abs=0.02)
    assert moved.keys() == (head.keys() if method == "fedavg" else set())
    for name, one in moved.items():
        assert change.head_gradient is not None
        torch.testing.assert_close(one, change.head_gradient[name], rtol=0.01, atol=1e-5)


@pytest.mark.parametrize("clips_examples", [False, True])
def test_the_gradient_through_the_steps_is_that_of_finite_differences(
    *, clips_examples: bool
) -> None:
    seen, steps, change = observed("fedavg", LINEAR, [3, 4, 5], epochs=2, batch_size=2)
    before = {name: one.double() for name, one in change.before.items()}
    change = replace(change, before=before, movement=1.5)
    steps = replace(steps, learning_rate=0.5, clip_norm=0.5, clips_examples=clips_examples)
    head = {name: one.double() for name, one in (change.head or {}).items()}
    generator = torch.Generator().manual_seed(0)
    directions = {
        name: torch.randn(one.shape, generator=generator, dtype=torch.float64)
        for name, one in before.items()
    }

    def along(
        images: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor, *tensors: torch.Tensor
    ) -> torch.Tensor:
        named = dict(zip(head, tensors, strict=True))
        extractor, moved = unrolled_inversion.simulate(
            seen.network, change, named, images, labels.softmax(dim=-1), masks, steps
        )
        parts = [(one * directions[name]).sum() for name, one in extractor.items()]
        return torch.stack([*parts, *(one.square().sum() for one in moved.values())]).sum()

    images, labels = (one.double().requires_grad_() for one in truth(seen))
    masks = torch.rand(2, 3, 32, generator=generator, dtype=torch.float64).requires_grad_()
    tensors = [one.requires_grad_() for one in head.values()]
    assert torch.autograd.gradcheck(along, (images, labels, masks, *tensors), fast_mode=True)


def test_images_of_several_steps_come_out_where_one_gradient_gives_less() -> None:
    seen, steps, change = observed("fedavg", LINEAR, [3, 4, 5], epochs=5)
    prior = seen.public_pixels(150)
    closed = hypernetwork_inversion.invert(
        seen.network, change, 3, seen.pixel_range, prior, iterations=100
    )
    found = unrolled_inversion.invert(
        seen.network, change, 3, seen.pixel_range, prior, steps, iterations=150
    )
    nearest = reached(prior, seen)
    assert reached(found, seen) > nearest + 10.0
    assert reached(found, seen) > reached(closed, seen) + 10.0


def test_images_come_out_of_a_network_without_a_linear_layer() -> None:
    seen, steps, change = observed("fedavg", CONVOLUTIONS, [3], epochs=5)
    prior = seen.public_pixels(150)
    found = unrolled_inversion.invert(
        seen.network, change, 1, seen.pixel_range, prior, steps, iterations=150
    )
    single = gradient_inversion.invert(
        seen.network, change, seen.labels, seen.pixel_range, iterations=150
    )
    assert reached(found, seen) > reached(prior, seen) + 10.0
    assert reached(found, seen) > reached(single, seen) + 5.0


def test_the_order_of_batches_need_not_be_known() -> None:
    seen, steps, change = observed("fedavg", LINEAR, [3, 4, 5, 6], epochs=2, batch_size=2)
    prior = seen.public_pixels(150)
    found = unrolled_inversion.invert(
        seen.network, change, 4, seen.pixel_range, prior, steps, iterations=150
    )
    assert found.shape == (8, *LINEAR_SHAPE)
    assert reached(found, seen) > reached(prior, seen) + 3.0


def test_an_update_of_other_images_gives_nothing() -> None:
    (seen, _, _), (other, steps, change) = (
        observed("fedavg", LINEAR, [place], epochs=5) for place in (3, 4)
    )
    found = unrolled_inversion.invert(
        seen.network, change, 1, seen.pixel_range, seen.public_pixels(150), steps, iterations=150
    )
    assert reached(found, other) > 25.0
    assert reached(found, seen) < 15.0


def test_what_is_private_is_clipped_by_example_and_its_head_stays() -> None:
    budget = {"rounds": 3}
    shared, kept = (
        LocalSteps.of(plan_of(method, LINEAR, LINEAR_SHAPE, **budget))
        for method in ("dp-fedavg", "ppsgd")
    )
    assert (shared.clips_examples, shared.trains_head) == (True, True)
    assert (kept.clips_examples, kept.trains_head) == (True, False)


def test_a_method_that_is_not_known_is_refused() -> None:
    plan = plan_of("fedavg", LINEAR, LINEAR_SHAPE).model_copy(update={"method": "other"})
    with pytest.raises(ValueError, match="how method other trains"):
        LocalSteps.of(plan)
