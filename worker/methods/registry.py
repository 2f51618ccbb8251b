"""Methods by name, or by import path for a user's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from pydantic import ValidationError

from shared.federation.plans import TrainingPlan
from shared.validation import first_fault
from worker.errors import MethodError, ModelError
from worker.methods.centaur import Centaur
from worker.methods.dp_fedavg import DPFedAvg
from worker.methods.fedavg import FedAvg, Local
from worker.methods.hyperfl import HyperFL
from worker.methods.hyperfl_lpm import HyperFLLPM
from worker.methods.interface import DEFAULT_RESOURCES, Method, SiteResources
from worker.methods.on_backbone import FedAvgAdapter, FedAvgFixed, LocalAdapter, LocalFixed
from worker.methods.ppsgd import PPSGD
from worker.methods.whole_model.method import ModelMethod
from worker.models.import_path import load_by_import_path

METHODS: Mapping[str, type[HyperFL | ModelMethod]] = MappingProxyType(
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
"""Methods by name; ``KNOWN_METHODS`` of the plans has what each shares, under the same name."""


def build_method(
    plan: TrainingPlan, device: torch.device, resources: SiteResources = DEFAULT_RESOURCES
) -> Method:
    """The method that ``plan`` names, ready to train on ``device``.

    A method by import path (``package.module:name``) is called with all three, too.

    Raises:
        MethodError: the method is unknown, cannot be built, or shares what it calls private.
        ModelError: the plan's feature extractor cannot be used.
    """
    if plan.method in METHODS:
        method: Method = METHODS[plan.method](plan, device, resources)
        _check_names(plan.method, method)
        return method
    build = _find(plan)
    try:
        method = build(plan, device, resources)
        if missing := [name for name in _MEMBERS if not callable(getattr(method, name, None))]:
            raise MethodError(
                f"{plan.method!r} does not build a method: {type(method).__name__} lacks "
                f"{', '.join(missing)}"
            )
        _check_names(plan.method, method)
    except (MethodError, ModelError):
        raise
    except Exception as error:
        raise MethodError(f"building {plan.method!r} failed: {_one_line(error)}") from error
    return method


_MEMBERS = tuple(name for name in vars(Method) if not name.startswith("_"))


def _check_names(name: str, method: Method) -> None:
    private = method.initial_private(client_seed=0).keys()
    if both := sorted(private & method.parameters(seed=0).by_name.keys()):
        raise MethodError(f"method {name!r} would share what it calls private: {', '.join(both)}")


def _find(plan: TrainingPlan) -> Callable[[TrainingPlan, torch.device, SiteResources], Any]:
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
    found: Callable[[TrainingPlan, torch.device, SiteResources], Any] = build
    return found


def _one_line(error: Exception) -> str:
    """Its type and message; of what a plan refuses, the first."""
    if isinstance(error, ValidationError):
        return str(first_fault(error))
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
