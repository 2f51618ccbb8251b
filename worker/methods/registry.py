"""Methods by name, or by import path for a user's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from pydantic import ValidationError

from shared.federation.model_names import import_paths
from shared.federation.plans import TrainingPlan
from shared.validation import first_fault
from worker.errors import ImportNotAllowed, MethodError, ModelError
from worker.methods.centaur import Centaur
from worker.methods.ditto import Ditto
from worker.methods.dp_fedavg import DPFedAvg
from worker.methods.fedavg import FedAvg, Local
from worker.methods.fedbn import FedBN
from worker.methods.fedpac import FedPAC
from worker.methods.fedper import FedPer
from worker.methods.fedprox import FedProx
from worker.methods.hyperfl import HyperFL
from worker.methods.hyperfl_lpm import HyperFLLPM
from worker.methods.hyperfl_plus import HyperFLPlus
from worker.methods.interface import DEFAULT_RESOURCES, Method, SiteResources, Trains
from worker.methods.on_backbone import FedAvgAdapter, FedAvgFixed, LocalAdapter, LocalFixed
from worker.methods.pfedhn import PFedHN
from worker.methods.ppsgd import PPSGD
from worker.methods.whole_model.method import ModelMethod
from worker.models.allowed_imports import AllowedImports
from worker.models.import_path import load_by_import_path
from worker.user_code import said

METHODS: Mapping[str, type[HyperFL | HyperFLPlus | PFedHN | ModelMethod]] = MappingProxyType(
    {
        "hyperfl": HyperFL,
        "hyperfl-lpm": HyperFLLPM,
        "hyperfl-plus": HyperFLPlus,
        "local": Local,
        "fedavg": FedAvg,
        "fedprox": FedProx,
        "fedper": FedPer,
        "fedbn": FedBN,
        "ditto": Ditto,
        "fedpac": FedPAC,
        "pfedhn": PFedHN,
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

    A method by import path (``package.module:name``) is a class that is called with all three, too.
    Before anything is imported, ``resources`` must allow both the method and the model.

    Raises:
        ImportNotAllowed: the plan names code that the site has not allowed.
        MethodError: the method is unknown, cannot be built, or shares what it calls private.
        ModelError: the plan's feature extractor cannot be used.
    """
    resources.allowed_imports.require(*import_paths(plan.method, plan.model))
    if plan.method in METHODS:
        method: Method = METHODS[plan.method](plan, device, resources)
        _check_names(plan.method, method)
        return method
    build = _find(plan, resources.allowed_imports)
    try:
        method = build(plan, device, resources)
        _check_names(plan.method, method)
    except (ImportNotAllowed, MethodError, ModelError):
        raise
    except (Exception, SystemExit) as error:
        raise MethodError(f"building {plan.method!r} failed: {_one_line(error)}") from error
    return method


_MEMBERS = tuple(
    name
    for part in (Method, Trains)
    for name in vars(part)
    if callable(getattr(part, name)) and not name.startswith("_")
)


def _check_names(name: str, method: Method) -> None:
    private = method.initial_private(client_seed=0).keys()
    if both := sorted(private & method.parameters(seed=0).by_name.keys()):
        raise MethodError(f"method {name!r} would share what it calls private: {', '.join(both)}")


def _find(
    plan: TrainingPlan, allowed: AllowedImports
) -> Callable[[TrainingPlan, torch.device, SiteResources], Any]:
    """The class that a plan names. One that lacks a method's members is not called."""
    if ":" not in plan.method:
        close = difflib.get_close_matches(plan.method, METHODS, n=3, cutoff=0.0)
        raise MethodError(
            f"this worker does not know the method {plan.method!r}; the closest are "
            f"{', '.join(close)}; methods of your own are named 'package.module:name'"
        )
    try:
        build = load_by_import_path(plan.method, allowed)
    except ValueError as error:
        raise MethodError(str(error)) from error
    if not isinstance(build, type):
        raise MethodError(f"{plan.method!r} is not a class, as a method must be")
    if missing := [name for name in _MEMBERS if not callable(getattr(build, name, None))]:
        raise MethodError(f"{plan.method!r} is not a method: it lacks {', '.join(missing)}")
    found: Callable[[TrainingPlan, torch.device, SiteResources], Any] = build
    return found


def _one_line(error: BaseException) -> str:
    """Its type and message; of what a plan refuses, the first."""
    return str(first_fault(error)) if isinstance(error, ValidationError) else said(error)
