"""The weights of a backbone: where they come from, and that every site has the same.

A federation's plan pins their digest. A site takes them from the hub, or from a file of its own;
random ones come from a fixed seed and serve trials without a download.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from shared.arrays import digest_arrays
from worker.data.images import ImageShape
from worker.models.backbones import Backbone, find_backbone
from worker.models.errors import ModelError
from worker.models.frozen import BeforeNothing, FrozenBackbone, Split
from worker.models.registry import CONSTRUCTION_SEED, FeatureExtractor, check_features

BackboneSource = Literal["hub", "random", "file"]
_SHOWN_DIFFERENCES = 3

_log = structlog.get_logger()


def load_frozen_backbone(
    model: str,
    image_shape: ImageShape,
    *,
    source: BackboneSource,
    expected_digest: str,
    file: Path | None,
    with_adapters: bool,
) -> FeatureExtractor:
    """The backbone with the federation's weights, frozen.

    Args:
        model: ``vit:TIMM_NAME``, ``resnet18``, ``resnet34`` or ``resnet50``.
        image_shape: 3, height, width.
        source: where the plan takes the weights from.
        expected_digest: of the weights, see :func:`backbone_digest`.
        file: this site's copy, used instead of a download; needed when ``source`` is ``file``.
        with_adapters: whether to put new adapters into it, which are trained.

    Raises:
        ModelError: the model cannot be used, or the weights are not the expected ones.
    """
    backbone = find_backbone(model)
    network = _load(model, backbone, image_shape, source, file)
    found = backbone_digest(network)
    if found != expected_digest:
        raise ModelError(
            f"the weights of {model} from {file or source} have the digest {found}, "
            f"but the federation's have {expected_digest}"
        )
    network.requires_grad_(False)
    split: Split | None = BeforeNothing()
    feature_width = backbone.feature_width(network)
    if with_adapters:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(CONSTRUCTION_SEED)
            split = backbone.insert_adapters(network)
    module = FrozenBackbone(network, split)
    check_features(model, module, feature_width, image_shape)
    _check_split(model, module, image_shape)
    return FeatureExtractor(
        module, feature_width, image_shape, backbone.config.private_hidden_width
    )


def _check_split(model: str, module: FrozenBackbone, image_shape: ImageShape) -> None:
    """Raises ModelError unless the divided network computes what the whole one does."""
    images = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.allclose(module(images), module.network(images), rtol=1e-3, atol=1e-4):
            raise ModelError(f"model {model!r} computes other features when it is divided")


def pin_backbone(
    model: str, image_shape: ImageShape, source: BackboneSource, file: Path | None
) -> str:
    """The digest of the backbone's weights, for the plan of a federation.

    Raises:
        ModelError: the model or its weights cannot be used.
    """
    return backbone_digest(_load(model, find_backbone(model), image_shape, source, file))


def backbone_digest(network: nn.Module) -> str:
    """``sha256:<hex>`` of all parameters and persistent buffers, without a classifier's."""
    return digest_arrays({name: tensor.numpy() for name, tensor in network.state_dict().items()})


def _load(
    model: str,
    backbone: Backbone,
    image_shape: ImageShape,
    source: BackboneSource,
    file: Path | None,
) -> nn.Module:
    if image_shape[0] != 3:
        raise ModelError(f"model {model!r} takes images of 3 channels, not {image_shape[0]}")
    if source == "file" and file is None:
        raise ModelError(
            f"the federation's weights of {model} come from a file: "
            "say with backbone_weights_file where this site's copy is"
        )
    from_hub = source == "hub" and file is None
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(CONSTRUCTION_SEED)
            network = backbone.build(image_shape, from_hub=from_hub)
    except Exception as error:
        what = "downloading" if from_hub else "building"
        raise ModelError(f"{what} model {model!r} failed: {error}") from error
    if file is not None:
        _load_file(network, file, backbone.config.classifiers)
    elif source == "random":
        _log.warning(
            "THE BACKBONE'S WEIGHTS ARE RANDOM: nothing was pretrained, for trials only",
            model=model,
            seed=CONSTRUCTION_SEED,
        )
    return network.eval()


def _load_file(network: nn.Module, file: Path, classifiers: tuple[str, ...]) -> None:
    tensors = {
        name: tensor
        for name, tensor in _read(file).items()
        if not name.startswith(tuple(f"{layer}." for layer in classifiers))
    }
    expected = network.state_dict()
    if differences := _differences(tensors, expected):
        more = len(differences) - _SHOWN_DIFFERENCES
        raise ModelError(
            f"{file} does not fit the backbone: {'; '.join(differences[:_SHOWN_DIFFERENCES])}"
            + (f"; and {more} more" if more > 0 else "")
        )
    network.load_state_dict(tensors)


def _read(file: Path) -> Mapping[str, torch.Tensor]:
    """Tensors by name from a safetensors file, or from a state dict that torch.save wrote."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except SafetensorError as error:
        raise ModelError(f"{file} is not a safetensors file: {error}") from error
    except Exception as error:  # torch raises what its reader happened on
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{file} is not a state dict saved by torch: {reason}") from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in loaded.items()
    ):
        raise ModelError(f"{file} holds something other than tensors by name")
    return loaded


def _differences(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> list[str]:
    differences = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        if name not in found:
            differences.append(f"{name} is missing")
        elif name not in expected:
            differences.append(f"{name} is unknown")
        elif found[name].shape != expected[name].shape:
            differences.append(
                f"{name} has shape {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
            )
    return differences
