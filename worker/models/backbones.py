"""Pretrained networks by name: ``vit:NAME`` and ``resnet:NAME`` of timm, torchvision's ResNets.

timm and torchvision are imported when a backbone is asked for, since they take seconds to load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from shared.federation.model_names import (
    RESNET_PREFIX,
    TORCHVISION_RESNETS,
    VIT_PREFIX,
    check_model_name,
)
from worker.data.images import ImageShape
from worker.errors import ModelError
from worker.models.adapters import adapt_blocks, adapt_stages
from worker.models.backbone_stages import AfterFirstStage, InFirstBlock
from worker.models.frozen import Split

_STAGES = ("layer1", "layer2", "layer3", "layer4")
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

    def build_source(self, image_shape: ImageShape) -> list[str]:
        """Python that does what :meth:`build` does, without this project; names it ``network``."""

    def adapt_source(self, network: nn.Module) -> str:
        """Python that puts adapters into ``network`` with functions of ``worker.models.adapters``.

        Args:
            network: with adapters or without.
        """


def find_backbone(model: str) -> Backbone:
    """The backbone called ``model``.

    Raises:
        ModelError: the name is unknown, or no backbone's.
    """
    try:
        check_model_name(model)
    except ValueError as error:
        raise ModelError(str(error)) from error
    if model.startswith(VIT_PREFIX):
        return _VisionTransformer(model)
    if model.startswith(RESNET_PREFIX):
        return _TimmResNet(model)
    if model in TORCHVISION_RESNETS:
        return _TorchvisionResNet(model)
    raise ModelError(
        f"model {model!r} is not a pretrained backbone: use vit:NAME, resnet:NAME or one of "
        f"{', '.join(TORCHVISION_RESNETS)}"
    )


def _timm_config(model: str, name: str, private_hidden_width: int | None) -> BackboneConfig:
    """Timm's own configuration of ``name``, which may have the tag of its weights."""
    import timm  # noqa: PLC0415 - takes seconds

    try:
        found = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ModelError(f"model {model!r}: {error}") from error
    if found is None:
        raise ModelError(f"model {model!r} is unknown to timm {timm.__version__}")
    heads = found.classifier or ()
    channels, height, width = found.input_size
    return BackboneConfig(
        image_shape=(channels, height, width),
        mean=tuple(found.mean),
        std=tuple(found.std),
        classifiers=(heads,) if isinstance(heads, str) else tuple(heads),
        private_hidden_width=private_hidden_width,
    )


def _timm_width(model: str, network: nn.Module) -> int:
    width = network.num_features
    if not isinstance(width, int):
        raise ModelError(f"model {model!r} does not say the width of its features")
    return width


class _VisionTransformer:
    """Adapters follow each block's MLP, inside its residual."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._name = model.removeprefix(VIT_PREFIX)
        self.config = _timm_config(model, self._name, None)

    def _options(self, image_shape: ImageShape) -> dict[str, Any]:
        resized = image_shape != self.config.image_shape
        return {"num_classes": 0} | ({"img_size": image_shape[1:]} if resized else {})

    def build(self, image_shape: ImageShape, *, from_hub: bool) -> nn.Module:
        import timm  # noqa: PLC0415

        network: nn.Module = timm.create_model(
            self._name, pretrained=from_hub, **self._options(image_shape)
        )
        return network

    def build_source(self, image_shape: ImageShape) -> list[str]:
        options = ", ".join(f"{key}={value}" for key, value in self._options(image_shape).items())
        return ["import timm", f"network = timm.create_model({self._name!r}, {options})"]

    def feature_width(self, network: nn.Module) -> int:
        return _timm_width(self._model, network)

    def insert_adapters(self, network: nn.Module) -> Split | None:
        from timm.models.vision_transformer import Block, VisionTransformer  # noqa: PLC0415

        blocks = getattr(network, "blocks", None)
        if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not all(
            isinstance(getattr(block, "mlp", None), nn.Module) for block in blocks
        ):
            raise ModelError(
                f"model {self._model!r} is not a vision transformer whose blocks have one MLP each"
            )
        is_plain = type(network) is VisionTransformer and type(blocks[0]) is Block
        adapt_blocks(network, self.feature_width(network))
        # timm's other transformers compute in other orders; theirs is not written down here.
        return InFirstBlock() if is_plain else None

    def adapt_source(self, network: nn.Module) -> str:
        return f"adapt_blocks(network, {self.feature_width(network)})"


class _TorchvisionResNet:
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

    def build_source(self, image_shape: ImageShape) -> list[str]:
        del image_shape
        return [
            "import torchvision",
            f"network = torchvision.models.get_model({self._model!r}, weights=None)",
            "network.fc = torch.nn.Identity()",
        ]

    def feature_width(self, network: nn.Module) -> int:
        return self._planes(network)[-1]

    def insert_adapters(self, network: nn.Module) -> Split | None:
        adapt_stages(network, self._planes(network))
        return AfterFirstStage(
            "relu", lambda network, maps: network.fc(network.avgpool(maps).flatten(1))
        )

    def adapt_source(self, network: nn.Module) -> str:
        return f"adapt_stages(network, {self._planes(network)})"

    def _planes(self, network: nn.Module) -> list[int]:
        """Channels after each stage: of its last block's last batch normalisation."""
        return [
            [
                module.num_features
                for name, module in network.get_submodule(stage).named_modules()
                if isinstance(module, nn.BatchNorm2d) and "adapter" not in name
            ][-1]
            for stage in _STAGES
        ]


class _TimmResNet:
    """As torchvision's, with timm's variants of stem, pooling and blocks."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._name = model.removeprefix(RESNET_PREFIX)
        self.config = _timm_config(model, self._name, _RESNET_HIDDEN_WIDTH)

    def build(self, image_shape: ImageShape, *, from_hub: bool) -> nn.Module:
        import timm  # noqa: PLC0415

        del image_shape  # convolutions take any
        network: nn.Module = timm.create_model(self._name, pretrained=from_hub, num_classes=0)
        return network

    def build_source(self, image_shape: ImageShape) -> list[str]:
        del image_shape
        return ["import timm", f"network = timm.create_model({self._name!r}, num_classes=0)"]

    def feature_width(self, network: nn.Module) -> int:
        return _timm_width(self._model, network)

    def insert_adapters(self, network: nn.Module) -> Split | None:
        adapt_stages(network, self._planes(network))
        return AfterFirstStage("act1", lambda network, maps: network.forward_head(maps))

    def adapt_source(self, network: nn.Module) -> str:
        return f"adapt_stages(network, {self._planes(network)})"

    def _planes(self, network: nn.Module) -> list[int]:
        info: Any = network.feature_info
        channels = {one["module"]: one["num_chs"] for one in info}
        return [channels[stage] for stage in _STAGES]
