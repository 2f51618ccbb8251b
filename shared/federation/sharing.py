"""Which tensors a known method shares for a model: names, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from shared.federation.model_names import (
    CNNS,
    RESNET_PREFIX,
    TORCHVISION_RESNETS,
    VIT_PREFIX,
    is_mlp,
    is_own_model,
    mlp_size,
)
from shared.federation.plans import KNOWN_METHODS
from shared.federation.timm_models import timm_models

HYPERNETWORK = (
    "hypernetwork.trunk.weight",
    "hypernetwork.trunk.bias",
    "hypernetwork.output.weight",
    "hypernetwork.output.bias",
)
OUTPUT_BIAS = HYPERNETWORK[-1]
KRONECKER_HYPERNETWORK = (
    "hypernetwork.trunk.weight",
    "hypernetwork.trunk.bias",
    "hypernetwork.output.left",
    "hypernetwork.output.right",
    "hypernetwork.output.bias_left",
    "hypernetwork.output.bias_right",
)
CLIENTS_TABLE = "clients.table"
"""What each client tells all others of itself, a row for each."""


_HEAD = ("head.weight", "head.bias")


_HIDDEN = ("head.hidden.weight", "head.hidden.bias")


_NUM_CONVOLUTIONS = {"cnn-mnist": 2, "cnn-cifar": 3}


_SHOWN_NAMES = 3


def check_shared_names(
    method: str, model: str, names: Set[str], shared_part: object = None
) -> None:
    """Raises ValueError unless a method that is known shares tensors of these names.

    ``shared_part`` is the hyperparameter of this name, of a method that has it.

    Of a user's own model the extractor's names are not known here; then it must have some.
    """
    if method not in KNOWN_METHODS:
        return
    shares = KNOWN_METHODS[method].shares
    expected = _expected_names(shares, model)
    if shared_part == "output-bias":
        expected = {OUTPUT_BIAS}
    own_extractor = "extractor" in shares and is_own_model(model)
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
        raise ValueError(
            f"method {method} shares the extractor, but there is no extractor.* tensor"
        )


def _expected_names(shares: tuple[str, ...], model: str) -> set[str]:
    """All names but those of a user's own extractor."""
    names: set[str] = set()
    if "hypernetwork" in shares:
        names.update(HYPERNETWORK)
    if "kronecker hypernetwork" in shares:
        names.update(KRONECKER_HYPERNETWORK)
    if "extractor" in shares:
        names.update(f"extractor.{name}" for name in _extractor_names(model))
    if "table" in shares:
        names.add(CLIENTS_TABLE)
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
    if is_mlp(model):
        _, depth = mlp_size(model)
        return [f"layers.{index}.{part}" for index in range(depth) for part in ("weight", "bias")]
    if model.startswith(VIT_PREFIX):
        depth = timm_models().transformer_depths[model.removeprefix(VIT_PREFIX).partition(".")[0]]
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


def _starts_with(prefix: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefix)


def _never(_name: str) -> bool:
    return False


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
