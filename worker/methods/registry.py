"""Methods by name, or by import path for a user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from shared.plans import TrainingPlan
from worker.methods.base import Method
from worker.methods.centaur import Centaur
from worker.methods.dp_fedavg import DPFedAvg
from worker.methods.fedavg import FedAvg
from worker.methods.hyperfl import MAX_FACTOR_BYTES, HyperFL
from worker.methods.hyperfl_lpm import build_hyperfl_lpm
from worker.methods.local import Local
from worker.methods.ppsgd import PPSGD
from worker.models.import_path import load_by_import_path

_MODEL_METHODS: Mapping[str, Callable[[TrainingPlan, torch.device], Method]] = MappingProxyType(
    {
        "local": Local,
        "fedavg": FedAvg,
        "dp-fedavg": DPFedAvg,
        "centaur": Centaur,
        "ppsgd": PPSGD,
    }
)


class MethodError(ValueError):
    """A method that cannot be used: one line with the reason."""


def build_method(
    plan: TrainingPlan,
    device: torch.device,
    max_factor_bytes: int = MAX_FACTOR_BYTES,
    *,
    backbone_weights_file: Path | None = None,
) -> Method:
    """The method that ``plan`` names, ready to train on ``device``.

    A method by import path (``package.module:name``) is called with the plan and the device.
    ``max_factor_bytes`` bounds the memory of clients in lock step; ``backbone_weights_file`` is
    this site's copy of a pretrained backbone's weights.

    Raises:
        MethodError: the method is unknown, cannot be built, or shares what it calls private.
        ModelError: the plan's feature extractor cannot be used.
    """
    method = _build(plan, device, max_factor_bytes, backbone_weights_file)
    private = method.initial_private(client_seed=0).keys()
    if both := sorted(private & method.parameters(seed=0).by_name.keys()):
        raise MethodError(
            f"method {plan.method!r} would share what it calls private: {', '.join(both)}"
        )
    return method


def _build(
    plan: TrainingPlan,
    device: torch.device,
    max_factor_bytes: int,
    backbone_weights_file: Path | None,
) -> Method:
    if plan.method == "hyperfl":
        return HyperFL(plan, device, max_factor_bytes=max_factor_bytes)
    if plan.method == "hyperfl-lpm":
        return build_hyperfl_lpm(
            plan,
            device,
            max_factor_bytes=max_factor_bytes,
            backbone_weights_file=backbone_weights_file,
        )
    if plan.method in _MODEL_METHODS:
        return _MODEL_METHODS[plan.method](plan, device)
    if ":" not in plan.method:
        raise MethodError(
            f"this worker does not know the method {plan.method!r}; it knows hyperfl, hyperfl-lpm, "
            f"{', '.join(_MODEL_METHODS)}, and methods of your own named 'package.module:name'"
        )
    try:
        build = load_by_import_path(plan.method)
    except ValueError as error:
        raise MethodError(str(error)) from error
    if not callable(build):
        raise MethodError(f"{plan.method!r} is neither a class nor a function")
    method: Method = build(plan, device)
    return method
