"""Frozen backbones with adapters: shapes and counts, what trains and what does not, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.func import functional_call

from tests.support.backbones import IMAGE_SHAPE, RESNET, VIT, random_backbone
from worker.errors import ModelError
from worker.models.adapters import BottleneckAdapter, ConvolutionalAdapter
from worker.models.backbones import find_backbone
from worker.models.frozen import FrozenBackbone
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout
from worker.models.registry import (
    FeatureExtractor,
    build_feature_extractor,
    default_image_shape,
    pixel_statistics,
)


@pytest.fixture(scope="module")
def vit() -> FeatureExtractor:
    return random_backbone(VIT)


@pytest.fixture(scope="module")
def resnet() -> FeatureExtractor:
    return random_backbone(RESNET)


def num_generated(extractor: FeatureExtractor) -> int:
    return ParameterLayout(generated_tensors(extractor.module)).num_parameters


def test_the_papers_vision_transformer_has_its_number_of_adapter_parameters() -> None:
    model = "vit:vit_small_patch16_384"
    assert default_image_shape(model) == (3, 384, 384)
    network = find_backbone(model).build((3, 384, 384), from_hub=False).requires_grad_(False)
    assert find_backbone(model).feature_width(network) == 384
    assert find_backbone(model).insert_adapters(network) is not None
    tensors = generated_tensors(network)
    assert ParameterLayout(tensors).num_parameters == 235_296
    assert len(tensors) == 12 * 6
    assert [(t.name, t.shape) for t in tensors[:6]] == [
        ("blocks.0.mlp.adapter.down.weight", (24, 384)),
        ("blocks.0.mlp.adapter.down.bias", (24,)),
        ("blocks.0.mlp.adapter.up.weight", (384, 24)),
        ("blocks.0.mlp.adapter.up.bias", (384,)),
        ("blocks.0.mlp.adapter.normalisation.weight", (384,)),
        ("blocks.0.mlp.adapter.normalisation.bias", (384,)),
    ]
    down, up, constant = tensors[0], tensors[2], tensors[4]
    assert down.bound == pytest.approx(384**-0.5)
    assert up.bound == pytest.approx(24**-0.5)
    assert (constant.centre, constant.bound) == (0, 0)


@pytest.mark.parametrize(
    ("model", "planes"),
    [
        ("resnet18", (64, 128, 256, 512)),
        ("resnet34", (64, 128, 256, 512)),
        ("resnet50", (256, 512, 1024, 2048)),
        ("resnet:resnet18", (64, 128, 256, 512)),
        ("resnet:resnet26d", (256, 512, 1024, 2048)),
    ],
)
def test_resnets_have_an_adapter_after_each_stage(model: str, planes: tuple[int, ...]) -> None:
    extractor = random_backbone(model)
    assert extractor.feature_width == planes[-1]
    assert extractor.private_hidden_width == 128
    assert num_generated(extractor) == sum(width * width + 4 * width for width in planes)
    names = [t.name for t in generated_tensors(extractor.module)]
    assert names[:2] == [
        "network.layer1.adapter.inner_normalisation.weight",
        "network.layer1.adapter.inner_normalisation.bias",
    ]
    assert default_image_shape(model) == (3, 224, 224)


def test_a_vision_transformer_has_no_private_hidden_layer(vit: FeatureExtractor) -> None:
    assert vit.private_hidden_width is None


def bottleneck_that_adds(width: int) -> BottleneckAdapter:
    """With weights that change what goes through it, which at first they do not."""
    adapter = BottleneckAdapter(width)
    nn.init.normal_(adapter.normalisation.weight)
    nn.init.normal_(adapter.normalisation.bias)
    return adapter


def test_adapters_compute_what_the_paper_says() -> None:
    bottleneck = bottleneck_that_adds(32)
    tokens = torch.randn(2, 3, 32)
    inner = torch.relu(tokens @ bottleneck.down.weight.T + bottleneck.down.bias)
    assert inner.shape == (2, 3, 2)
    outer = inner @ bottleneck.up.weight.T + bottleneck.up.bias
    mean, variance = outer.mean(-1, keepdim=True), outer.var(-1, keepdim=True, correction=0)
    normalised_outer = (outer - mean) / (variance + 1e-5).sqrt()
    last = bottleneck.normalisation
    expected = tokens + normalised_outer * last.weight + last.bias
    torch.testing.assert_close(bottleneck(tokens), expected)

    convolutional = ConvolutionalAdapter(4)
    nn.init.normal_(convolutional.convolution.weight)
    assert convolutional.convolution.bias is None
    maps = torch.randn(6, 4, 2, 3) * 3 + 1

    def normalised(values: torch.Tensor) -> torch.Tensor:
        mean = values.mean((0, 2, 3), keepdim=True)
        variance = values.var((0, 2, 3), keepdim=True, correction=0)
        return (values - mean) / (variance + 1e-5).sqrt()

    weight = convolutional.convolution.weight[:, :, 0, 0]
    mixed = torch.einsum("oc,bchw->bohw", weight, normalised(maps))
    torch.testing.assert_close(convolutional(maps), normalised(maps + mixed))


def test_training_starts_from_the_backbones_own_features() -> None:
    tokens = torch.randn(2, 3, 32)
    assert torch.equal(BottleneckAdapter(32)(tokens), tokens)
    maps = torch.randn(6, 4, 2, 3) * 3 + 1
    alone = nn.BatchNorm2d(4)
    torch.testing.assert_close(ConvolutionalAdapter(4)(maps), alone(maps))
    for adapter in (BottleneckAdapter(32), ConvolutionalAdapter(4)):
        # A range of the layer's default would undo it.
        zeros = [one for one in generated_tensors(adapter) if (one.centre, one.bound) == (0, 0)]
        assert {"normalisation.weight", "convolution.weight"} & {one.name for one in zeros}


def test_the_adapter_lies_inside_the_residual_of_each_blocks_mlp() -> None:
    network = timm.create_model("test_vit", pretrained=False, num_classes=0, img_size=32).eval()
    images = torch.randn(2, *IMAGE_SHAPE)
    adapters = [bottleneck_that_adds(network.num_features) for _ in network.blocks]
    tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
    for block, adapter in zip(network.blocks, adapters, strict=True):
        tokens = tokens + block.ls1(block.attn(block.norm1(tokens)))
        tokens = tokens + block.ls2(adapter(block.mlp(block.norm2(tokens))))
    expected = network.norm(tokens)[:, 0]  # the class token

    find_backbone(VIT).insert_adapters(network)
    for block, adapter in zip(network.blocks, adapters, strict=True):
        block.mlp.adapter = adapter
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("model", [VIT, RESNET])
def test_every_generated_tensor_changes_the_features(
    model: str, request: pytest.FixtureRequest
) -> None:
    extractor = request.getfixturevalue("vit" if model == VIT else "resnet")
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, *IMAGE_SHAPE, generator=generator)
    generated = {
        tensor.name: torch.rand(tensor.shape, generator=generator).requires_grad_()
        for tensor in generated_tensors(extractor.module)
    }
    features = functional_call(extractor.module.eval(), generated, (images,))
    direction = torch.randn(features.shape, generator=generator)
    gradients = torch.autograd.grad((features * direction).sum(), list(generated.values()))
    for name, gradient in zip(generated, gradients, strict=True):
        assert float(gradient.abs().max()) > 1e-6, name


def test_what_is_frozen_stays_in_evaluation_mode(resnet: FeatureExtractor) -> None:
    module = resnet.module.train()
    assert module.training
    norms = {n: m for n, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, norm in norms.items() if norm.training} == {
        f"network.layer{stage}.adapter.{part}_normalisation"
        for stage in range(1, 5)
        for part in ("inner", "outer")
    }
    module.eval()
    assert not any(norm.training for norm in norms.values())


def test_only_adapters_are_trainable(vit: FeatureExtractor, resnet: FeatureExtractor) -> None:
    for extractor in (vit, resnet):
        for name, parameter in extractor.module.named_parameters():
            assert parameter.requires_grad == (".adapter." in name), name


def test_pixels_are_normalised_as_in_pretraining() -> None:
    assert pixel_statistics("vit:vit_small_patch16_384") == ((0.5,) * 3, (0.5,) * 3)
    assert pixel_statistics("resnet18") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert pixel_statistics("cnn-mnist") is None
    assert pixel_statistics("tests.support.extractors:tiny") is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("vit:vit_smal_patch16_384", "unknown model .*; the closest are vit:vit_small_patch"),
        ("vit:vit_small_patch16_384.nope", "Invalid pretrained tag"),
        ("cnn-mnist", "'cnn-mnist' is not a pretrained backbone: use vit:NAME, .*resnet18"),
    ],
)
def test_other_names_are_refused(model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        random_backbone(model)


@pytest.mark.parametrize("model", ["vit:test_convnext", "vit:vit_pwee_patch16_reg1_gap_256"])
def test_a_network_without_blocks_of_one_mlp_is_refused(model: str) -> None:
    with pytest.raises(ModelError, match="whose blocks each have one MLP; the closest are vit:"):
        random_backbone(model)


def test_another_timms_network_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="not a vision transformer whose blocks have one MLP"):
        find_backbone(VIT).insert_adapters(nn.Sequential())


@pytest.mark.parametrize("model", ["resnet101", "resnet152"])
def test_deeper_resnets_have_the_same_places(model: str) -> None:
    backbone = find_backbone(model)
    with torch.device("meta"):
        network = backbone.build((3, 224, 224), from_hub=False)
        backbone.insert_adapters(network)
    assert backbone.feature_width(network) == 2048
    adapters = {n for n, m in network.named_modules() if isinstance(m, ConvolutionalAdapter)}
    assert adapters == {f"layer{stage}.adapter" for stage in range(1, 5)}


def test_timms_resnets_come_with_its_own_configuration() -> None:
    assert default_image_shape("resnet:test_resnet") == (3, 160, 160)
    extractor = random_backbone("resnet:test_resnet", (3, 64, 64))
    assert extractor.private_hidden_width == 128
    assert isinstance(extractor.module, FrozenBackbone)
    assert extractor.module.split is not None
    network = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    assert extractor.feature_width == network.num_features
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    begun = extractor.module.eval().begin(images)
    torch.testing.assert_close(
        extractor.module(begun, is_begun=True), extractor.module.network(images)
    )


@pytest.mark.parametrize(
    ("image_shape", "message"),
    [((1, 32, 32), "3 channels, not 1"), ((3, 33, 32), "not take images of 3×33×32: .*divisible")],
)
def test_images_that_do_not_fit_are_refused(
    image_shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        random_backbone(VIT, image_shape)


def test_plain_hyperfl_does_not_take_a_backbone() -> None:
    with pytest.raises(ModelError, match="train it with hyperfl-lpm"):
        build_feature_extractor(RESNET, None)


Recorded = list[tuple[str, dict[str, Any]]]


def recording(
    recorded: Recorded, build: Callable[..., nn.Module], **replaced: Any
) -> Callable[..., nn.Module]:
    def record(name: str, **options: Any) -> nn.Module:
        recorded.append((name, options))
        return build(name, **options | replaced)

    return record


def test_the_hubs_download_is_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: Recorded = []
    monkeypatch.setattr(
        timm, "create_model", recording(recorded, timm.create_model, pretrained=False)
    )
    monkeypatch.setattr(
        torchvision.models,
        "get_model",
        recording(recorded, torchvision.models.get_model, weights=None),
    )
    find_backbone(VIT).build(IMAGE_SHAPE, from_hub=True)
    find_backbone(RESNET).build(IMAGE_SHAPE, from_hub=True)
    assert recorded == [
        ("test_vit", {"pretrained": True, "num_classes": 0, "img_size": (32, 32)}),
        ("resnet18", {"weights": "IMAGENET1K_V1"}),
    ]
