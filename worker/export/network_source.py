"""Python that builds an exported model's extractor without this project, for its state dict."""

from __future__ import annotations

import inspect
import math

from shared.federation.model_names import is_import_path, mlp_size
from worker.export.model import Description
from worker.methods.interface import PersonalModel
from worker.models import adapters, cnn, mlp
from worker.models.adapters import BottleneckAdapter, ConvolutionalAdapter
from worker.models.backbones import find_backbone
from worker.models.frozen import FrozenBackbone

_NETWORK = '''
class Network(nn.Module):
    """The backbone under the name that its tensors have in the file."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)

'''


def network_source(model: PersonalModel, description: Description) -> str:
    """A program that ends with ``extractor``, a module whose tensors are the file's ``module.*``.

    It imports only torch, torchvision and timm, except that a user's own model comes from the
    user's own code.
    """
    if isinstance(model.module, FrozenBackbone):
        return _backbone_source(model.module, description)
    if isinstance(model.module, cnn.ConvolutionalExtractor):
        return f"{inspect.getsource(cnn)}\n\nextractor = {description.model.replace('-', '_')}()"
    if isinstance(model.module, mlp.MultilayerPerceptron):
        width, depth = mlp_size(description.model)
        sizes = f"{math.prod(description.image_shape)}, {width}, {depth}"
        return f"{inspect.getsource(mlp)}\n\nextractor = MultilayerPerceptron({sizes})"
    if is_import_path(description.model):
        module, _, name = description.model.partition(":")
        return f"from {module} import {name}  # your own code\n\nextractor, _ = {name}()"
    return f"extractor = ...  # put here what {description.method} makes of {description.model}"


def _backbone_source(module: FrozenBackbone, description: Description) -> str:
    backbone = find_backbone(description.model)
    imports, *build = backbone.build_source(description.image_shape)
    is_adapted = any(
        isinstance(part, BottleneckAdapter | ConvolutionalAdapter) for part in module.modules()
    )
    # The adapters' file imports only torch.
    parts = inspect.getsource(adapters) if is_adapted else "import torch\nfrom torch import nn\n"
    lines = [parts, _NETWORK, imports, "", *build]
    if is_adapted:
        lines.append(backbone.adapt_source(module.network))
    return "\n".join([*lines, "extractor = Network(network)"])
