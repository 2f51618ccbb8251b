"""Training methods: what each shares and how it trains locally.

A built-in method is a class in a file of its own, which takes (plan, device, resources) and is a
:class:`worker.methods.base.Method`. Adding one touches two other places: its name in
:data:`worker.methods.registry.METHODS`, and its hyperparameters with their bounds under the same
name in :data:`shared.plans.PLANS`. The second is not here because the coordinator checks a plan
before it creates a federation, and has no torch. Nothing else lists methods: what experiments
compare and plot follows from these two.

A method of a user's own is named by import path, needs neither, and checks its own hyperparameters.
"""

from worker.methods.registry import build_method

__all__ = ["build_method"]
