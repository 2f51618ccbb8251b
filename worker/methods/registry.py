"""Methods by name, or by import path for a user's own."""

from __future__ import annotations

import torch

from shared.plans import TrainingPlan
from worker.methods.base import Method
from worker.methods.hyperfl import HyperFL
from worker.models.import_path import load_by_import_path


def build_method(plan: TrainingPlan, device: torch.device) -> Method:
    """The method that ``plan`` names, ready to train on ``device``.

    A method by import path (``package.module:name``) is called with the same two arguments.

    Raises:
        ValueError: the method is unknown or does not fit the plan.
        ModelError: the plan's feature extractor cannot be used.
    """
    if plan.method == "hyperfl":
        return HyperFL(plan, device)
    if ":" not in plan.method:
        raise ValueError(
            f"this worker does not know the method {plan.method!r}; it knows hyperfl, "
            "and methods of your own named 'package.module:name'"
        )
    build = load_by_import_path(plan.method)
    if not callable(build):
        raise ValueError(f"{plan.method!r} is neither a class nor a function")
    method: Method = build(plan, device)
    return method
