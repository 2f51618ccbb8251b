"""The weights of a backbone: where they come from, and that every site has the same.

A federation's plan pins their digest. A site takes them from the hub, or from a file of its own;
random ones come from a fixed seed and serve trials without a download.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeGuard

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from shared.arrays import digest_arrays
from worker.data.images import ImageShape
from worker.errors import DownloadError, ModelError
from worker.models.backbones import Backbone, find_backbone
from worker.models.frozen import BeforeNothing, FrozenBackbone, Split
from worker.models.registry import CONSTRUCTION_SEED, FeatureExtractor, check_features

BackboneSource = Literal["hub", "random", "file"]
_COUNTER = ".num_batches_tracked"
_SHOWN_DIFFERENCES = 3
_SHOWN_NAMES = 5
_CHECKPOINT_NAMES = ("state_dict", "model")

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
        model: of a frozen backbone (:func:`worker.models.backbones.find_backbone`).
        image_shape: 3, height, width.
        source: where the plan takes the weights from.
        expected_digest: of the weights, see :func:`backbone_digest`.
        file: this site's copy, used instead of a download; needed when ``source`` is ``file``.
        with_adapters: whether to put new adapters into it, which are trained.

    Raises:
        ModelError: the model cannot be used, or the weights are not the expected ones.
        DownloadError: the hub did not give them.
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
            raise ModelError(
                f"model {model!r} computes different features when it is split around its adapters"
            )


def pin_backbone(
    model: str, image_shape: ImageShape, source: BackboneSource, file: Path | None
) -> str:
    """The digest of the backbone's weights, for the plan of a federation.

    Raises:
        ModelError: the model or its weights cannot be used.
        DownloadError: the hub did not give them.
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
            "name this site's copy with backbone_weights_file"
        )
    from_hub = source == "hub" and file is None
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(CONSTRUCTION_SEED)
            network = backbone.build(image_shape, from_hub=from_hub)
    except Exception as error:
        if from_hub:
            raise DownloadError(f"downloading model {model!r} failed: {error}") from error
        raise ModelError(f"building model {model!r} failed: {error}") from error
    if file is not None:
        _load_file(network, file, backbone.config.classifiers)
    elif source == "random":
        _log.warning(
            "THE BACKBONE'S WEIGHTS ARE RANDOM: nothing was pretrained, for trials only",
            model=model,
            seed=CONSTRUCTION_SEED,
        )
    for name, tensor in network.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(
                f"the weights of {model} from {file or source} cannot be used: "
                f"{name} has NaN or infinite values"
            )
    return network.eval()


def _load_file(network: nn.Module, file: Path, classifiers: tuple[str, ...]) -> None:
    expected = network.state_dict()
    # Files of torch before 0.4.1 lack these, which evaluation mode does not read; torch takes them.
    counters = {name: one for name, one in expected.items() if name.endswith(_COUNTER)}
    tensors = counters | {
        name: tensor
        for name, tensor in _read(file).items()
        if not name.startswith(tuple(f"{layer}." for layer in classifiers))
    }
    if differences := _differences(tensors, expected):
        more = len(differences) - _SHOWN_DIFFERENCES
        raise ModelError(
            f"{file} does not fit the backbone: {'; '.join(differences[:_SHOWN_DIFFERENCES])}"
            + (f"; and {more} more" if more > 0 else "")
        )
    try:
        network.load_state_dict(tensors)
    except (RuntimeError, NotImplementedError) as error:  # as of sparse tensors
        reason = " ".join(str(error).split())
        raise ModelError(f"{file} does not fit the backbone: {reason}") from error


def _read(file: Path) -> Mapping[str, torch.Tensor]:
    """Tensors by name from a safetensors file, or from a state dict that torch.save wrote."""
    if _is_safetensors(file) or file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ModelError(f"{file} is not a safetensors file: {error}") from error
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    # torch raises what its reader happened on (an OSError where the file ends early, though it
    # could be opened above), and may advise to load without weights_only, which would run whatever
    # code is in the file. None of that is handed on.
    except Exception as error:
        raise ModelError(
            f"{file} is neither a state dict saved by torch nor a safetensors file; a file that "
            "holds more than tensors is not read, since that could run code in it"
        ) from error
    return _state_dict(file, loaded)


def _is_safetensors(file: Path) -> bool:
    """Whether it starts as one: a JSON header after its length as 8 little-endian bytes."""
    with file.open("rb") as stream:
        start = stream.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and length <= file.stat().st_size - 8


def _state_dict(file: Path, loaded: object) -> Mapping[str, torch.Tensor]:
    """Tensors by name; those of a checkpoint are under a usual name in it."""
    candidates = [loaded]
    if isinstance(loaded, Mapping):
        candidates += [loaded.get(name) for name in _CHECKPOINT_NAMES]
    for candidate in candidates:
        if _is_state_dict(candidate):
            return candidate
    found = f"a {type(loaded).__name__}"
    if isinstance(loaded, Mapping):
        names = [repr(name) for name in loaded]
        shown = ", ".join(names[:_SHOWN_NAMES])
        more = len(names) - _SHOWN_NAMES
        found = f"entries {shown}" + (f" and {more} more" if more > 0 else "")
    raise ModelError(
        f"{file} holds something other than tensors by name: {found}; "
        f"of a checkpoint, tensors by name are taken from {' or '.join(_CHECKPOINT_NAMES)}"
    )


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, torch.Tensor]]:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor)
            for name, tensor in value.items()
        )
    )


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
