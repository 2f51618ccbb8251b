"""Pretrained networks by name: ``vit:TIMM_NAME`` and torchvision's ``resnet18``, 34 and 50.

timm and torchvision are imported when a backbone is asked for, since they take seconds to load.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from worker.data.images import ImageShape
from worker.models.adapters import BottleneckAdapter, ConvolutionalAdapter, with_adapter
from worker.models.errors import ModelError

_VIT_PREFIX = "vit:"
_RESNETS = ("resnet18", "resnet34", "resnet50")
_RESNET_HIDDEN_WIDTH = 128
_RESNET_IMAGE_SHAPE = (3, 224, 224)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# torchvision's "DEFAULT" changes between releases; these are the weights of the paper's time.
_RESNET_HUB_WEIGHTS = "IMAGENET1K_V1"


@dataclass(frozen=True)
class BackboneConfig:
    """What a backbone was made for.

    Attributes:
        image_shape: channels, height, width.
        mean: per channel, of pixels scaled to 0..1, as in pretraining.
        std: per channel, of pixels scaled to 0..1, as in pretraining.
        classifiers: names of layers that published weights have and the network here lacks.
        private_hidden_width: width of a hidden layer before the client's head; None for none.
    """

    image_shape: ImageShape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classifiers: tuple[str, ...]
    private_hidden_width: int | None


class Backbone(Protocol):
    """A family member: its configuration, its network, where its adapters go."""

    config: BackboneConfig

    def build(self, image_shape: ImageShape, *, from_hub: bool) -> nn.Module:
        """The network from images to features, with random weights or those of its hub."""

    def insert_adapters(self, network: nn.Module) -> int:
        """Puts new adapters into ``network``; returns the width of its features."""


def is_backbone(model: str) -> bool:
    """Whether ``model`` names a pretrained network."""
    return model.startswith(_VIT_PREFIX) or model in _RESNETS


def find_backbone(model: str) -> Backbone:
    """The backbone called ``model``.

    Raises:
        ModelError: the name is unknown; says the closest ones.
    """
    if model.startswith(_VIT_PREFIX):
        return _VisionTransformer(model)
    if model in _RESNETS:
        return _ResNet(model)
    raise ModelError(
        f"model {model!r} is no pretrained backbone: vit:NAME with a name from timm, or "
        f"{', '.join(_RESNETS)}"
    )


class _VisionTransformer:
    """Adapters follow each block's MLP, inside its residual."""

    def __init__(self, model: str) -> None:
        import timm  # noqa: PLC0415 - takes seconds

        self._model = model
        self._name = model.removeprefix(_VIT_PREFIX)
        architecture = self._name.partition(".")[0]
        names = timm.list_models()
        if architecture not in names:
            close = difflib.get_close_matches(architecture, names, n=3, cutoff=0.0)
            raise ModelError(
                f"unknown model {model!r}; the closest are "
                f"{', '.join(_VIT_PREFIX + name for name in close)}"
            )
        try:
            found = timm.models.get_pretrained_cfg(self._name)
        except RuntimeError as error:
            raise ModelError(f"model {model!r}: {error}") from error
        if found is None:
            raise ModelError(f"model {model!r} has no configuration in timm")
        channels, height, width = found.input_size
        heads = found.classifier or ()
        channels, height, width = found.input_size
        self.config = BackboneConfig(
            image_shape=(channels, height, width),
            mean=tuple(found.mean),
            std=tuple(found.std),
            classifiers=(heads,) if isinstance(heads, str) else tuple(heads),
            private_hidden_width=None,
        )

    def build(self, image_shape: ImageShape, *, from_hub: bool) -> nn.Module:
        import timm  # noqa: PLC0415

        options: Mapping[str, Any] = {}
        if image_shape != self.config.image_shape:
            options = {"img_size": image_shape[1:]}
        network: nn.Module = timm.create_model(
            self._name, pretrained=from_hub, num_classes=0, **options
        )
        return network

    def insert_adapters(self, network: nn.Module) -> int:
        blocks = getattr(network, "blocks", None)
        if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not all(
            isinstance(getattr(block, "mlp", None), nn.Module) for block in blocks
        ):
            raise ModelError(
                f"model {self._model!r} is no vision transformer of blocks with an MLP"
            )
        width = network.num_features
        if not isinstance(width, int):
            raise ModelError(f"model {self._model!r} does not say the width of its features")
        for block in blocks:
            block.mlp = with_adapter(block.mlp, BottleneckAdapter(width))  # type: ignore[arg-type]
        return width


class _ResNet:
    """Adapters follow each of the four stages; the client's head has a hidden layer of its own."""

    config = BackboneConfig(
        image_shape=_RESNET_IMAGE_SHAPE,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        classifiers=("fc",),
        private_hidden_width=_RESNET_HIDDEN_WIDTH,
    )

    def __init__(self, model: str) -> None:
        self._model = model

    def build(self, image_shape: ImageShape, *, from_hub: bool) -> nn.Module:
        from torchvision.models import get_model  # noqa: PLC0415 - takes seconds

        del image_shape  # convolutions take any
        network: nn.Module = get_model(
            self._model, weights=_RESNET_HUB_WEIGHTS if from_hub else None
        )
        network.fc = nn.Identity()
        return network

    def insert_adapters(self, network: nn.Module) -> int:
        planes = 0
        for name in ("layer1", "layer2", "layer3", "layer4"):
            stage = network.get_submodule(name)
            planes = _out_channels(stage)
            setattr(network, name, with_adapter(stage, ConvolutionalAdapter(planes)))
        return planes


def _out_channels(stage: nn.Module) -> int:
    """Of a stage's last convolution, which a batch normalisation of as many features follows."""
    return [m for m in stage.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features
