"""What an attack is given: what the coordinator has of a round, and the code that everybody has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from shared.arrays import Array, NamedArrays
from shared.federation.plans import TrainingPlan
from shared.tensors.factored_encoding import Delta
from shared.tensors.low_rank import FactoredDelta
from worker.models.allowed_imports import NOTHING, AllowedImports


@dataclass(frozen=True, eq=False)
class Observation:
    """One client's update, or a cohort's sum, as the coordinator reads it.

    Attributes:
        plan: how the clients train.
        weights: that they started from, float32 by name.
        changes: of the shared tensors (after − before), float32 or factors by name.
        num_examples: that the update claims to stand for.
        allowed_imports: code that the plan may name.
    """

    plan: TrainingPlan
    weights: NamedArrays
    changes: Mapping[str, Delta]
    num_examples: int
    allowed_imports: AllowedImports = NOTHING

    def learned(self, name: str) -> Array:
        """The change of a tensor without what weight decay took, float32 of the tensor's shape."""
        base, change = self.weights[name], self.changes[name]
        if isinstance(change, FactoredDelta):
            learned: Array = change.left.T @ change.right
            return learned
        if not self.plan.hyperparameters.get("weight_decay"):
            return change
        return without_decayed_share(base, change)

    def without_decay(self, steps: int) -> Observation:
        """The same, less what weight decay took in so many steps of the plan's SGD: exactly.

        :meth:`learned` estimates it, which is too little where the weights point as what is
        learned does.
        """
        settings = self.plan.hyperparameters
        momentum, decay = float(settings["momentum"]), float(settings["weight_decay"])
        kept, velocity = 1.0, 0.0
        for _ in range(steps):
            velocity = momentum * velocity + decay * kept
            kept -= float(settings["learning_rate"]) * velocity
        changes: dict[str, Delta] = {
            name: change
            if isinstance(change, FactoredDelta)
            else change - np.float32(kept - 1.0) * self.weights[name]
            for name, change in self.changes.items()
        }
        plan = self.plan.model_copy(update={"hyperparameters": settings | {"weight_decay": 0.0}})
        return replace(self, plan=plan, changes=changes)


def without_decayed_share(base: Array, change: Array) -> Array:
    """A change of ``base`` without what weight decay took, float32 of the same shape.

    Decay takes the same share of every value. What is learned is all but orthogonal to the weights,
    so the share is the change's projection on them.
    """
    flat = base.reshape(-1).astype(np.float64)
    share = float(change.reshape(-1) @ flat) / max(float(flat @ flat), 1e-30)
    # Decay only shrinks.
    learned: Array = change - np.float32(min(share, 0.0)) * base
    return learned
