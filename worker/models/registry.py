"""Feature extractors by name, or by import path for a user's own, checked before anyone trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from shared.federation.model_names import (
    check_input_shape,
    check_model_name,
    is_backbone,
    is_mlp,
    is_own_model,
    mlp_size,
)
from worker.data.images import ImageShape
from worker.errors import ModelError
from worker.models.allowed_imports import NOTHING, AllowedImports
from worker.models.backbones import find_backbone
from worker.models.cnn import FEATURE_WIDTH, cnn_cifar, cnn_mnist
from worker.models.import_path import load_by_import_path
from worker.models.mlp import MultilayerPerceptron
from worker.user_code import said

CONSTRUCTION_SEED = 0


@dataclass(frozen=True)
class FeatureExtractor:
    """A network from images, or from vectors, to features: a template.

    Attributes:
        module: on the CPU, and never changed. A hypernetwork generates its trainable parameters;
            its frozen ones are used as they are. Buffers that training mode may change start as
            each client's own.
        feature_width: length of one image's feature vector.
        image_shape: channels, height, width; or the length of a vector.
        private_hidden_width: width of a hidden layer before each client's head; None for none.
    """

    module: nn.Module
    feature_width: int
    image_shape: ImageShape
    private_hidden_width: int | None = None


@dataclass(frozen=True)
class _BuiltIn:
    build: Callable[[], nn.Module]
    feature_width: int
    image_shape: ImageShape


_MODELS: Mapping[str, _BuiltIn] = MappingProxyType(
    {
        "cnn-mnist": _BuiltIn(cnn_mnist, FEATURE_WIDTH, (1, 28, 28)),
        "cnn-cifar": _BuiltIn(cnn_cifar, FEATURE_WIDTH, (3, 32, 32)),
    }
)


def default_image_shape(model: str) -> ImageShape | None:
    """Channels, height, width a known model is made for; None for one that takes what it is given.

    Raises:
        ModelError: the name is unknown.
    """
    if is_backbone(model):
        return find_backbone(model).config.image_shape
    if is_own_model(model) or is_mlp(model):
        return None
    return _built_in(model).image_shape


def pixel_statistics(model: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of pixels that a frozen backbone expects; else None.

    Raises:
        ModelError: the name is unknown.
    """
    if not is_backbone(model):
        return None
    config = find_backbone(model).config
    return config.mean, config.std


def build_feature_extractor(
    model: str, image_shape: ImageShape | None, allowed_imports: AllowedImports = NOTHING
) -> FeatureExtractor:
    """The feature extractor called ``model``, tried on a batch of zeros.

    Args:
        model: ``cnn-mnist``, ``cnn-cifar``, ``mlp:WIDTHxDEPTH``, or ``package.module:function``, a
            function without arguments that returns an ``nn.Module`` and its feature width.
        image_shape: channels, height, width, or the length of a vector; None takes a built-in
            model's own.
        allowed_imports: what may be imported.

    Raises:
        ImportNotAllowed: the site has not allowed the function.
        ModelError: the name is unknown, the function does not fit, the model does not take such
            images, or its features are not (batch, feature width).
    """
    if is_backbone(model):
        raise ModelError(
            f"model {model!r} is a frozen backbone: train it with hyperfl-lpm or a method whose "
            "name ends in -adapter or -fixed"
        )
    shape = image_shape or default_image_shape(model)
    if shape is None:
        raise ModelError(
            f"model {model!r} needs an image shape: channels, height, width, or a vector's length"
        )
    try:
        check_input_shape(model, shape)
    except ValueError as error:
        raise ModelError(str(error)) from error
    # Built from a fixed seed, so that whatever a module draws is the same at every worker, and
    # outside the global stream, so that building one disturbs nobody.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(CONSTRUCTION_SEED)
        if is_mlp(model):
            module, feature_width = _build_mlp(model, shape)
        elif is_own_model(model):
            module, feature_width = _build_by_import_path(model, allowed_imports)
        else:
            module, feature_width = _built_in(model).build(), _built_in(model).feature_width
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ModelError(f"model {model!r} has no trainable parameters to generate")
    check_features(model, module, feature_width, shape)
    return FeatureExtractor(module, feature_width, shape)


def _built_in(model: str) -> _BuiltIn:
    try:
        check_model_name(model)
    except ValueError as error:
        raise ModelError(str(error)) from error
    return _MODELS[model]


def _build_mlp(model: str, shape: ImageShape) -> tuple[nn.Module, int]:
    try:
        width, depth = mlp_size(model)
    except ValueError as error:
        raise ModelError(str(error)) from error
    return MultilayerPerceptron(math.prod(shape), width, depth), width


def _build_by_import_path(model: str, allowed: AllowedImports) -> tuple[nn.Module, int]:
    try:
        build = load_by_import_path(model, allowed)
    except ValueError as error:
        raise ModelError(str(error)) from error
    if not callable(build):
        raise ModelError(f"{model!r} is not a function")
    try:
        built = build()
    except (Exception, SystemExit) as error:
        raise ModelError(f"building model {model!r} failed: {said(error)}") from error
    match built:
        case (nn.Module() as module, int() as feature_width) if feature_width > 0:
            return module.cpu(), feature_width
    raise ModelError(f"{model!r} must return (nn.Module, feature width), not {built!r:.200}")


def check_features(
    model: str, module: nn.Module, feature_width: int, image_shape: ImageShape
) -> None:
    """Raises ModelError unless ``module`` gives (2, feature width) for two inputs of zeros."""
    module.eval()
    images = torch.zeros(2, *image_shape)
    size = "×".join(map(str, image_shape))
    what = "images" if len(image_shape) > 1 else "vectors"
    try:
        with torch.no_grad():
            features = module(images)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"model {model!r} does not take {what} of {size}: {said(error)}"
        ) from error
    expected = (2, feature_width)
    found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
    if found != expected:
        raise ModelError(
            f"model {model!r} gives features {found} for two {what} of {size}, not {expected}"
        )
