"""Methods by name, or by import path for a user's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from shared.plans import TrainingPlan
from worker.errors import InvalidInput
from worker.methods.base import DEFAULT_RESOURCES, Method, SiteResources
from worker.methods.centaur import Centaur
from worker.methods.dp_fedavg import DPFedAvg
from worker.methods.fedavg import FedAvg
from worker.methods.fedavg_adapter import FedAvgAdapter
from worker.methods.fedavg_fixed import FedAvgFixed
from worker.methods.hyperfl import HyperFL
from worker.methods.hyperfl_lpm import HyperFLLPM
from worker.methods.local import Local
from worker.methods.local_adapter import LocalAdapter
from worker.methods.local_fixed import LocalFixed
from worker.methods.ppsgd import PPSGD
from worker.models.import_path import load_by_import_path

METHODS: Mapping[str, Callable[[TrainingPlan, torch.device, SiteResources], Method]] = (
    MappingProxyType(
        {
            "hyperfl": HyperFL,
            "hyperfl-lpm": HyperFLLPM,
            "local": Local,
            "fedavg": FedAvg,
            "dp-fedavg": DPFedAvg,
            "centaur": Centaur,
            "ppsgd": PPSGD,
            "fedavg-adapter": FedAvgAdapter,
            "local-adapter": LocalAdapter,
            "fedavg-fixed": FedAvgFixed,
            "local-fixed": LocalFixed,
        }
    )
)
"""Methods by name; each has its plan under the same name in ``shared.plans.PLANS``."""


class MethodError(InvalidInput, ValueError):
    """A method that cannot be used: one line with the reason."""


def build_method(
    plan: TrainingPlan, device: torch.device, resources: SiteResources = DEFAULT_RESOURCES
) -> Method:
    """The method that ``plan`` names, ready to train on ``device``.

    A method by import path (``package.module:name``) is called with the plan and the device.

    Raises:
        MethodError: the method is unknown, cannot be built, or shares what it calls private.
        ModelError: the plan's feature extractor cannot be used.
    """
    method = _build(plan, device, resources)
    private = method.initial_private(client_seed=0).keys()
    if both := sorted(private & method.parameters(seed=0).by_name.keys()):
        raise MethodError(
            f"method {plan.method!r} would share what it calls private: {', '.join(both)}"
        )
    return method


def _build(plan: TrainingPlan, device: torch.device, resources: SiteResources) -> Method:
    if plan.method in METHODS:
        return METHODS[plan.method](plan, device, resources)
    if ":" not in plan.method:
        close = difflib.get_close_matches(plan.method, METHODS, n=3, cutoff=0.0)
        raise MethodError(
            f"this worker does not know the method {plan.method!r}; the closest are "
            f"{', '.join(close)}; methods of your own are named 'package.module:name'"
        )
    try:
        build = load_by_import_path(plan.method)
    except ValueError as error:
        raise MethodError(str(error)) from error
    if not callable(build):
        raise MethodError(f"{plan.method!r} is neither a class nor a function")
    method: Method = build(plan, device)
    return method
