"""The kinds of protection by name, and what a federation shares under one."""

from __future__ import annotations

from typing import Any, Literal

from shared.federation.plans import KNOWN_METHODS

ProtectionKind = Literal["none", "secure-sum", "dp", "secure-sum+dp"]


def default_encoding(kind: str) -> Literal["factored", "dense"]:
    """Of updates: factors have no sum, and noise is no product of factors."""
    return "factored" if kind == "none" else "dense"


def with_shared_bias(method: str, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """With ``shared_part = output-bias`` for a method on a hypernetwork, unless it is given.

    Its sum cannot be taken apart into clients' parts, and no private tensor is in its gradient.
    """
    known = KNOWN_METHODS.get(method)
    if known is None or "hypernetwork" not in known.shares:
        return hyperparameters
    return {"shared_part": "output-bias"} | hyperparameters
