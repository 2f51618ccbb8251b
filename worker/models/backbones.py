"""Pretrained networks by name: ``vit:TIMM_NAME`` and torchvision's ``resnet18``, 34 and 50.

timm and torchvision are imported when a backbone is asked for, since they take seconds to load.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from worker.data.images import ImageShape
from worker.models.adapters import BottleneckAdapter, ConvolutionalAdapter, with_adapter
from worker.models.errors import ModelError
from worker.models.frozen import Split

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

    def feature_width(self, network: nn.Module) -> int:
        """Length of one image's feature vector."""

    def insert_adapters(self, network: nn.Module) -> Split | None:
        """Puts new adapters into ``network``; returns where its frozen beginning ends, if known."""


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
    close = difflib.get_close_matches(model, _RESNETS, n=3, cutoff=0.0)
    raise ModelError(
        f"model {model!r} is no pretrained backbone: the closest are {', '.join(close)}; "
        "vit:NAME takes any name from timm"
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

    def feature_width(self, network: nn.Module) -> int:
        width = network.num_features
        if not isinstance(width, int):
            raise ModelError(f"model {self._model!r} does not say the width of its features")
        return width

    def insert_adapters(self, network: nn.Module) -> Split | None:
        from timm.models.vision_transformer import Block, VisionTransformer  # noqa: PLC0415

        blocks = getattr(network, "blocks", None)
        if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not all(
            isinstance(getattr(block, "mlp", None), nn.Module) for block in blocks
        ):
            raise ModelError(
                f"model {self._model!r} is no vision transformer of blocks with an MLP"
            )
        width = self.feature_width(network)
        for block in blocks:
            block.mlp = with_adapter(block.mlp, BottleneckAdapter(width))  # type: ignore[arg-type]
        # timm's other transformers compute in other orders; theirs is not written down here.
        is_plain = type(network) is VisionTransformer and type(blocks[0]) is Block
        return _InFirstBlock() if is_plain else None


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

    def feature_width(self, network: nn.Module) -> int:
        return _out_channels(network)

    def insert_adapters(self, network: nn.Module) -> Split | None:
        for name in ("layer1", "layer2", "layer3", "layer4"):
            stage = network.get_submodule(name)
            adapter = ConvolutionalAdapter(_out_channels(stage))
            setattr(network, name, with_adapter(stage, adapter))
        return _AfterFirstStage()


class _InFirstBlock:
    """After the first block's frozen MLP: the residual and the MLP's output, (B, 2, tokens, d)."""

    def begin(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        tokens = network.patch_drop(network._pos_embed(network.patch_embed(images)))
        tokens = network.norm_pre(tokens)
        block = network.blocks[0]
        tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))
        return torch.stack([tokens, block.mlp.layer(block.norm2(tokens))], dim=1)

    def finish(self, network: Any, begun: torch.Tensor) -> torch.Tensor:
        tokens, hidden = begun.unbind(dim=1)
        block = network.blocks[0]
        tokens = tokens + block.drop_path2(block.ls2(block.mlp.adapter(hidden)))
        for later in network.blocks[1:]:
            tokens = later(tokens)
        features: torch.Tensor = network.forward_head(network.norm(tokens))
        return features


class _AfterFirstStage:
    """After the first stage's frozen layers: maps (B, planes, H', W')."""

    def begin(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        maps = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        begun: torch.Tensor = network.layer1.layer(maps)
        return begun

    def finish(self, network: Any, begun: torch.Tensor) -> torch.Tensor:
        maps = network.layer1.adapter(begun)
        for stage in (network.layer2, network.layer3, network.layer4):
            maps = stage(maps)
        features: torch.Tensor = network.fc(network.avgpool(maps).flatten(1))
        return features


def _out_channels(stage: nn.Module) -> int:
    """Of a stage's last convolution, which a batch normalisation of as many features follows."""
    return [m for m in stage.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features
