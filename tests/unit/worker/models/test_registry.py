"""Feature extractors: the paper's, a user's own, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tests.support import extractors
from tests.support.random_clients import TESTS_ALLOWED
from worker.models.allowed_imports import AllowedImports
from worker.models.cnn import ConvolutionalExtractor
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout
from worker.models.registry import ModelError, build_feature_extractor, default_image_shape

TINY = "tests.support.extractors"


@pytest.mark.parametrize(
    ("model", "image_shape", "num_parameters"),
    [("cnn-mnist", (1, 28, 28), 115_776), ("cnn-cifar", (3, 32, 32), 106_400)],
)
def test_the_papers_networks(
    model: str, image_shape: tuple[int, int, int], num_parameters: int
) -> None:
    assert default_image_shape(model) == image_shape
    extractor = build_feature_extractor(model, None)
    assert extractor.image_shape == image_shape
    assert extractor.feature_width == 128
    layout = ParameterLayout(generated_tensors(extractor.module))
    assert layout.num_parameters == num_parameters


def test_pooling_before_activation_is_the_papers_network() -> None:
    module = build_feature_extractor("cnn-mnist", None).module
    assert isinstance(module, ConvolutionalExtractor)
    images = torch.randn(3, 1, 28, 28)
    maps = images
    for convolution in module.convolutions:
        maps = torch.nn.functional.max_pool2d(torch.nn.functional.leaky_relu(convolution(maps)), 2)
    features = torch.nn.functional.leaky_relu(module.linear(maps.flatten(1)))
    torch.testing.assert_close(module(images), features)


def test_a_users_own_module() -> None:
    extractor = build_feature_extractor(f"{TINY}:tiny", (1, 4, 4), TESTS_ALLOWED)
    assert isinstance(extractor.module, extractors.TinyExtractor)
    assert extractor.feature_width == extractors.WIDTH
    assert default_image_shape(f"{TINY}:tiny") is None


def test_building_is_repeatable_and_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(())
    torch.manual_seed(1)
    first = build_feature_extractor(f"{TINY}:tiny", (1, 4, 4), TESTS_ALLOWED).module.state_dict()
    assert torch.rand(()) == expected
    second = build_feature_extractor(f"{TINY}:tiny", (1, 4, 4), TESTS_ALLOWED).module.state_dict()
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "image_shape", "message"),
    [
        ("cnn-mnits", None, "unknown model 'cnn-mnits'; the closest are cnn-mnist"),
        ("resnet81", None, "unknown model 'resnet81'; the closest are resnet18"),
        ("cnn-mnist", (3, 32, 32), "does not take images of 3×32×32"),
        (f"{TINY}:tiny", None, "needs an image shape"),
        (f"{TINY}:tiny", (1, 5, 4), "does not take images of 1×5×4"),
        (f"{TINY}:wrong_width", (1, 4, 4), r"gives features \(2, 5\) .* not \(2, 6\)"),
        (f"{TINY}:returns_a_module_only", (1, 4, 4), "must return"),
        (f"{TINY}:fails", (1, 4, 4), "building model .* failed: .*no weights file"),
        (f"{TINY}:entirely_frozen", (1, 4, 4), "no trainable parameters"),
        (f"{TINY}:NOT_A_FUNCTION", (1, 4, 4), "is not a function"),
        (f"{TINY}:missing", (1, 4, 4), "has no 'missing'"),
        ("no_such_package.models:tiny", (1, 4, 4), "cannot import 'no_such_package.models'"),
        ("tests.support.extractors:", (1, 4, 4), "not an import path"),
    ],
)
def test_what_cannot_be_used_is_a_clear_error(
    model: str, image_shape: tuple[int, int, int] | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        build_feature_extractor(model, image_shape, AllowedImports(("tests", "no_such_package")))


def test_the_default_shape_of_an_unknown_model_is_an_error() -> None:
    with pytest.raises(ModelError, match="unknown model"):
        default_image_shape("cnn")
