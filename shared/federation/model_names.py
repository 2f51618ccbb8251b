"""Which methods and models there are, and which go together: names, without torch.

The worker builds the model and checks everything; a coordinator refuses by this what no worker
could take.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from shared.federation.plans import KNOWN_METHODS, takes_backbone
from shared.federation.timm_models import timm_models

CNNS = ("cnn-mnist", "cnn-cifar")
TORCHVISION_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VIT_PREFIX, RESNET_PREFIX = "vit:", "resnet:"
MLP_PREFIX = "mlp:"
MAX_MLP_WIDTH, MAX_MLP_DEPTH = 8192, 16

_MLP = re.compile(r"mlp:([1-9][0-9]{0,3})x([1-9][0-9]?)")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_import_path(name: str) -> bool:
    """Whether ``name`` looks like ``package.module:name``, a user's own method or model."""
    return _IMPORT_PATH.fullmatch(name) is not None


def import_paths(method: str, model: str) -> tuple[str, ...]:
    """Those of a federation's two names that are no names of ours: code of the machine's."""
    own_method = [] if method in KNOWN_METHODS or ":" not in method else [method]
    own_model = [model] if is_own_model(model) else []
    return (*own_method, *own_model)


def is_own_model(model: str) -> bool:
    """Whether ``model`` is named like a user's own: by an import path, whose colon no name has."""
    return ":" in model and not is_backbone(model) and not is_mlp(model)


def is_mlp(model: str) -> bool:
    """Whether ``model`` is named like a multilayer perceptron, known or not."""
    return model.startswith(MLP_PREFIX)


def mlp_size(model: str) -> tuple[int, int]:
    """Width and depth of ``mlp:WIDTHxDEPTH``. Raises ValueError if it is none."""
    found = _MLP.fullmatch(model)
    width, depth = (0, 0) if found is None else map(int, found.groups())
    if not (1 <= width <= MAX_MLP_WIDTH and 1 <= depth <= MAX_MLP_DEPTH):
        raise ValueError(
            f"unknown model {model!r}: expected mlp:WIDTHxDEPTH, such as mlp:64x2, of width 1 to "
            f"{MAX_MLP_WIDTH} and depth 1 to {MAX_MLP_DEPTH}"
        )
    return width, depth


def check_input_shape(model: str, shape: Sequence[int]) -> None:
    """Raises ValueError if a known model takes images, and the shape is a vector's."""
    if len(shape) == 1 and (model in CNNS or is_backbone(model)):
        raise ValueError(
            f"model {model!r} takes images, and image_shape {list(shape)} is a vector's: "
            "use mlp:WIDTHxDEPTH"
        )


def is_backbone(model: str) -> bool:
    """Whether ``model`` is named like a pretrained network, known or not."""
    return model.startswith((VIT_PREFIX, RESNET_PREFIX)) or model in TORCHVISION_RESNETS


def check_method(method: str) -> None:
    """Raises ValueError, with the closest names, unless ``method`` is known or an import path."""
    if method not in KNOWN_METHODS and not is_import_path(method):
        close = ", ".join(_closest(method, KNOWN_METHODS))
        raise ValueError(
            f"unknown method {method!r}; the closest are {close}; "
            "a method of your own is named 'package.module:name'"
        )


def check_model(method: str, model: str, shape: Sequence[int] = ()) -> None:
    """Raises ValueError unless the method can train a model of this name, on inputs of this shape.

    For a method by import path, any model of a known name or by import path will do.
    """
    check_model_name(model)
    check_input_shape(model, shape)
    if method not in KNOWN_METHODS:
        return
    if takes_backbone(method) and not is_backbone(model):
        raise ValueError(
            f"method {method} trains on a frozen backbone, which {model!r} is not: "
            f"use vit:NAME, resnet:NAME or one of {', '.join(TORCHVISION_RESNETS)}"
        )
    if is_backbone(model) and not takes_backbone(method):
        fitting = ", ".join(known for known in KNOWN_METHODS if takes_backbone(known))
        raise ValueError(
            f"model {model!r} is a frozen backbone, which method {method} does not take: "
            f"train it with {fitting}"
        )
    if method == "fedbn" and (model in CNNS or is_mlp(model)):
        raise ValueError(
            f"model {model!r} has no batch normalisation, which is what fedbn keeps: use fedavg"
        )


def check_model_name(model: str) -> None:
    """Raises ValueError, with the closest names, unless ``model`` is known or an import path."""
    if is_mlp(model):
        mlp_size(model)
        return
    for prefix, names, kind in (
        (
            VIT_PREFIX,
            timm_models().transformer_depths,
            "a vision transformer whose blocks each have one MLP",
        ),
        (RESNET_PREFIX, timm_models().resnets, "a ResNet of four stages"),
    ):
        if model.startswith(prefix):
            name = model.removeprefix(prefix).partition(".")[0]
            if name not in names:
                close = [prefix + one for one in _closest(name, names)]
                raise ValueError(
                    f"unknown model {model!r}: timm has no such model that adapters fit, "
                    f"{kind}; the closest are {', '.join(close)}"
                )
            return
    known = (*CNNS, *TORCHVISION_RESNETS)
    if model not in known and not is_import_path(model):
        of_timm = [VIT_PREFIX + name for name in timm_models().transformer_depths]
        of_timm += [RESNET_PREFIX + name for name in timm_models().resnets]
        close = [name for name in of_timm if name.endswith(f":{model}")]
        close += [name for name in _closest(model, (*known, *of_timm)) if name not in close]
        raise ValueError(
            f"unknown model {model!r}; the closest are {', '.join(close)}; "
            "mlp:WIDTHxDEPTH is a multilayer perceptron; "
            "vit:NAME and resnet:NAME take names of timm; "
            "a model of your own is named 'package.module:function'"
        )


def _closest(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.0)
