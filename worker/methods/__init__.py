"""Training methods: what each shares and how it trains locally.

A built-in method is a class in a file of its own, which takes (plan, device, resources) and is a
:class:`worker.methods.base.Method`. Adding one touches three other places: its name in
:data:`worker.methods.registry.METHODS`, its hyperparameters with their bounds under the same name
in :data:`shared.plans.PLANS`, and which parts it shares in :mod:`shared.catalogue`. The last two
are not here because the coordinator checks a federation before it creates it, and has no torch.

A method of a user's own is named by import path, needs neither, and checks its own hyperparameters.
"""

from worker.methods.registry import build_method

__all__ = ["build_method"]
