"""Which models a method can train, and which tensors it then shares: names, without torch.

The worker builds the model and checks everything; a coordinator refuses by this what no worker
could take.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Set
from types import MappingProxyType

from shared.plans import PLANS, takes_backbone
from shared.timm_models import RESNETS, TRANSFORMER_DEPTHS

CNNS = ("cnn-mnist", "cnn-cifar")
TORCHVISION_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VIT_PREFIX, RESNET_PREFIX = "vit:", "resnet:"
HYPERNETWORK = (
    "hypernetwork.trunk.weight",
    "hypernetwork.trunk.bias",
    "hypernetwork.output.weight",
    "hypernetwork.output.bias",
)

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_HEAD = ("head.weight", "head.bias")
_HIDDEN = ("head.hidden.weight", "head.hidden.bias")
_NUM_CONVOLUTIONS = {"cnn-mnist": 2, "cnn-cifar": 3}
_SHOWN_NAMES = 3

_SHARES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "hyperfl": ("hypernetwork",),
        "hyperfl-lpm": ("hypernetwork",),
        "local": (),
        "fedavg": ("extractor", "head"),
        "dp-fedavg": ("extractor", "head"),
        "centaur": ("extractor",),
        "ppsgd": ("extractor",),
        "fedavg-adapter": ("extractor", "head"),
        "local-adapter": (),
        "fedavg-fixed": ("head",),
        "local-fixed": (),
    }
)
"""Parts of a client's model that a method shares. All else is private, buffers always."""


def is_import_path(name: str) -> bool:
    """Whether ``name`` looks like ``package.module:name``, a user's own method or model."""
    return _IMPORT_PATH.fullmatch(name) is not None


def is_backbone(model: str) -> bool:
    """Whether ``model`` is named like a pretrained network, known or not."""
    return model.startswith((VIT_PREFIX, RESNET_PREFIX)) or model in TORCHVISION_RESNETS


def check_method(method: str) -> None:
    """Raises ValueError, with the closest names, unless ``method`` is known or an import path."""
    if method not in PLANS and not is_import_path(method):
        raise ValueError(
            f"unknown method {method!r}; the closest are {', '.join(_closest(method, PLANS))}; "
            "a method of your own is named 'package.module:name'"
        )


def check_model(method: str, model: str) -> None:
    """Raises ValueError unless the method can train a model of this name.

    For a method by import path, any model of a known name or by import path will do.
    """
    check_model_name(model)
    if method not in PLANS:
        return
    if takes_backbone(method) and not is_backbone(model):
        raise ValueError(
            f"method {method} trains on a frozen backbone, which {model!r} is not: "
            f"take vit:NAME, resnet:NAME or one of {', '.join(TORCHVISION_RESNETS)}"
        )
    if is_backbone(model) and not takes_backbone(method):
        fitting = ", ".join(known for known in PLANS if takes_backbone(known))
        raise ValueError(
            f"model {model!r} is a frozen backbone, which method {method} does not take: "
            f"train it with {fitting}"
        )


def check_model_name(model: str) -> None:
    """Raises ValueError, with the closest names, unless ``model`` is known or an import path."""
    for prefix, names, kind in (
        (VIT_PREFIX, TRANSFORMER_DEPTHS, "a vision transformer whose blocks each have one MLP"),
        (RESNET_PREFIX, RESNETS, "a ResNet of four stages"),
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
        of_timm = [VIT_PREFIX + name for name in TRANSFORMER_DEPTHS]
        of_timm += [RESNET_PREFIX + name for name in RESNETS]
        close = [name for name in of_timm if name.endswith(f":{model}")]
        close += [name for name in _closest(model, (*known, *of_timm)) if name not in close]
        raise ValueError(
            f"unknown model {model!r}; the closest are {', '.join(close)}; "
            "vit:NAME and resnet:NAME take names of timm; "
            "a model of your own is named 'package.module:function'"
        )


def check_shared_names(method: str, model: str, names: Set[str]) -> None:
    """Raises ValueError unless a method that is known shares tensors of these names.

    Of a user's own model the extractor's names are not known here; then it must have some.
    """
    if method not in PLANS:
        return
    shares = _SHARES[method]
    expected = _expected_names(shares, model)
    own_extractor = "extractor" in shares and is_import_path(model) and not is_backbone(model)
    is_extractors = _starts_with("extractor.") if own_extractor else _never
    if extra := sorted(name for name in names - expected if not is_extractors(name)):
        what = " and ".join(shares) or "nothing"
        raise ValueError(
            f"tensor {extra[0]} is not shared by method {method} with {model}, which shares "
            f"{what}" + (f"; nor are {_listed(extra[1:])}" if extra[1:] else "")
        )
    if missing := sorted(expected - names):
        raise ValueError(
            f"tensor {missing[0]}, which method {method} shares with {model}, is missing"
            + (f"; so are {_listed(missing[1:])}" if missing[1:] else "")
        )
    if own_extractor and not any(map(is_extractors, names)):
        raise ValueError(f"method {method} shares the extractor, but no extractor.* tensor is here")


def _expected_names(shares: tuple[str, ...], model: str) -> set[str]:
    """All names but those of a user's own extractor."""
    names: set[str] = set()
    if "hypernetwork" in shares:
        names.update(HYPERNETWORK)
    if "extractor" in shares:
        names.update(f"extractor.{name}" for name in _extractor_names(model))
    if "head" in shares:
        names.update(_HEAD)
        if model in TORCHVISION_RESNETS or model.startswith(RESNET_PREFIX):
            names.update(_HIDDEN)
    return names


def _extractor_names(model: str) -> Iterable[str]:
    """Trainable parameters of a built-in extractor, or of a backbone's adapters."""
    if model in CNNS:
        layers = [f"convolutions.{index}" for index in range(_NUM_CONVOLUTIONS[model])]
        return [f"{layer}.{part}" for layer in (*layers, "linear") for part in ("weight", "bias")]
    if model.startswith(VIT_PREFIX):
        depth = TRANSFORMER_DEPTHS[model.removeprefix(VIT_PREFIX).partition(".")[0]]
        return [
            f"network.blocks.{index}.mlp.adapter.{layer}.{part}"
            for index in range(depth)
            for layer in ("down", "up", "normalisation")
            for part in ("weight", "bias")
        ]
    if model in TORCHVISION_RESNETS or model.startswith(RESNET_PREFIX):
        normalisations = [
            f"{place}_normalisation.{part}"
            for place in ("inner", "outer")
            for part in ("weight", "bias")
        ]
        return [
            f"network.layer{stage}.adapter.{name}"
            for stage in range(1, 5)
            for name in (*normalisations, "convolution.weight")
        ]
    return []


def _closest(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.0)


def _starts_with(prefix: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefix)


def _never(_name: str) -> bool:
    return False


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
