"""HyperFL-LPM: HyperFL's training on adapters, with a backbone that never changes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.federation.hyperparameters import HyperFLLPMPlan
from shared.tensors.low_rank import FactoredDelta
from tests.support.backbones import (
    IMAGE_SHAPE,
    RESNET,
    VIT,
    lpm_plan,
    random_backbone,
    with_lone_values,
)
from tests.support.plain_hyperfl import plain_round
from tests.support.random_clients import random_client_data
from worker.errors import ModelError
from worker.methods import build_method
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import Participant, SiteResources
from worker.methods.local_round.extractor import FunctionalExtractor
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout, TrainableTensor
from worker.models.registry import FeatureExtractor

CPU = torch.device("cpu")


def in_float64(extractor: FeatureExtractor) -> FeatureExtractor:
    module = copy.deepcopy(extractor.module).double()
    return FeatureExtractor(
        module, extractor.feature_width, extractor.image_shape, extractor.private_hidden_width
    )


def participant_of(method: HyperFL, dtype: torch.dtype) -> Participant:
    private = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in method.initial_private(100).items()
    }
    data = random_client_data(seed=1, num_train=11, image_shape=IMAGE_SHAPE)
    return Participant("client", data, private, seed=100)


@pytest.mark.parametrize("model", [VIT, RESNET])
def test_a_round_equals_the_plain_loop_and_leaves_the_backbone_alone(model: str) -> None:
    extractor = random_backbone(model)
    double = in_float64(extractor)
    training_plan = lpm_plan(model, epochs=2 if model == VIT else 1)
    plan = HyperFLLPMPlan.model_validate(training_plan.hyperparameters)
    # Eleven examples in batches of five: with maps of 1×1, the last is a single value a channel.
    method = HyperFL(training_plan, CPU, settings=plan, extractor=double)
    weights = {
        name: array.astype(np.float64)
        for name, array in method.parameters(seed=3).initial_values().items()
    }
    participant = participant_of(method, torch.float64)
    (found,) = method.train([participant], weights, 4, lambda: False)
    # The oracle's copy: what it does to its own backbone would show in the comparison.
    expected = plain_round(
        participant, weights, with_lone_values(double.module), plan, round_number=4
    )
    for name, delta in found.deltas.items():
        change = (
            delta.scale * weights[name] + delta.left.T @ delta.right
            if isinstance(delta, FactoredDelta)
            else delta
        )
        assert float(np.abs(change).max()) > 1e-6, name
        np.testing.assert_allclose(
            weights[name] + change, expected.weights[name], rtol=1e-9, atol=1e-9, err_msg=name
        )
    assert found.private.keys() == expected.private.keys()
    for name, tensor in expected.private.items():
        torch.testing.assert_close(found.private[name], tensor, rtol=1e-9, atol=1e-9, msg=name)
    for name, value in expected.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-7), name


def test_the_backbones_statistics_are_unchanged_by_training_mode() -> None:
    extractor = random_backbone(RESNET)
    layout = ParameterLayout(generated_tensors(extractor.module))
    functional = FunctionalExtractor(extractor, layout, CPU)
    inner = functional._module
    before = {name: buffer.clone() for name, buffer in inner.named_buffers()}
    theta = torch.cat([inner.get_parameter(t.name).detach().reshape(-1) for t in layout.tensors])
    private = {name: b.clone() for name, b in before.items() if ".adapter." in name}
    inputs = functional.begin(torch.randn(6, *IMAGE_SHAPE))
    functional.training_features(theta, private, inputs, np.random.default_rng(0))
    for name, buffer in inner.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0, msg=name)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in private.items())


def test_only_the_adapters_statistics_and_the_hidden_layer_are_private() -> None:
    method = build_method(lpm_plan(RESNET), CPU)
    private = method.initial_private(1)
    assert private["head.hidden.weight"].shape == (128, 512)
    assert private["head.hidden.bias"].shape == (128,)
    assert private["head.weight"].shape == (3, 128)
    assert float(private["head.hidden.weight"].abs().max()) <= 512**-0.5
    assert float(private["head.weight"].abs().max()) <= 128**-0.5
    buffers = [name for name in private if name.startswith("buffers.")]
    assert len(buffers) == 4 * 2 * 3
    assert all(".adapter." in name for name in buffers)
    vit = build_method(lpm_plan(VIT), CPU).initial_private(1)
    assert vit.keys() == {"embedding", "head.weight", "head.bias"}


def test_the_hidden_layer_learns() -> None:
    method = build_method(lpm_plan(RESNET, epochs=1), CPU)
    assert isinstance(method, HyperFL)
    participant = participant_of(method, torch.float32)
    weights = method.parameters(seed=3).initial_values()
    (result,) = method.train([participant], weights, 1, lambda: False)
    for name in ("head.hidden.weight", "head.hidden.bias"):
        assert not torch.equal(result.private[name], participant.private[name])


def test_the_hypernetwork_generates_as_many_values_as_the_adapters_have() -> None:
    parameters = build_method(lpm_plan(RESNET), CPU).parameters(seed=1)
    assert parameters.by_name["hypernetwork.output.weight"].shape == (352_000, 4)


@pytest.mark.parametrize("change", ["name", "shape", "missing"])
def test_generated_names_and_shapes_are_the_adapters_own(change: str) -> None:
    extractor = random_backbone(VIT)
    tensors = generated_tensors(extractor.module)
    first = tensors[0]
    changed = {
        # The published code's slip: a name without its dot was loaded nowhere.
        "name": [TrainableTensor(first.name.replace("adapter.", "adapter"), first.shape, 0, 1)],
        "shape": [TrainableTensor(first.name, (first.num_elements,), 0, 1)],
        "missing": [],
    }[change]
    with pytest.raises(ValueError, match=r"generated network\.blocks\.0\.mlp\.adapter\.?down"):
        FunctionalExtractor(extractor, ParameterLayout(changed + tensors[1:]), CPU)


def test_other_weights_than_the_plans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"but the federation's have sha256:{'0' * 64}"):
        build_method(lpm_plan(VIT, digest=f"sha256:{'0' * 64}"), CPU)
    with pytest.raises(FileNotFoundError):
        build_method(
            lpm_plan(VIT), CPU, SiteResources(backbone_weights_file=tmp_path / "missing.pt")
        )


def test_mixed_precision_computes_in_bfloat16_and_gives_float32() -> None:
    extractor = random_backbone(VIT)
    layout = ParameterLayout(generated_tensors(extractor.module))
    exact, mixed = (
        FunctionalExtractor(extractor, layout, CPU, mixed_precision=flag) for flag in (False, True)
    )
    theta = torch.randn(layout.num_parameters, generator=torch.Generator().manual_seed(1)) / 10
    theta.requires_grad_()
    images = torch.randn(2, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(2))
    expected, found = (one.features(theta, {}, one.begin(images)) for one in (exact, mixed))
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.2, atol=0.2)
    (gradient,) = torch.autograd.grad(found.sum(), theta)
    assert gradient.dtype == torch.float32
