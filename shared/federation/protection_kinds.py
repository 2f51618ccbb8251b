"""The kinds of protection by name, and what a federation shares under one."""

from __future__ import annotations

from typing import Any, Literal

from shared.federation.plans import KNOWN_METHODS

_DENSE_PARTS = {"table", "kronecker hypernetwork"}

ProtectionKind = Literal["none", "secure-sum", "dp", "secure-sum+dp"]


def default_encoding(kind: str, method: str) -> Literal["factored", "dense"]:
    """Of updates: factors have no sum, noise is no product of them, a table has to be exact.

    What Kronecker products are made of is small, and changes in every direction.
    """
    shares = KNOWN_METHODS[method].shares if method in KNOWN_METHODS else ()
    return "factored" if kind == "none" and not _DENSE_PARTS.intersection(shares) else "dense"


def with_shared_bias(method: str, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """With ``shared_part = output-bias`` for a method on a hypernetwork, unless it is given.

    Its sum cannot be taken apart into clients' parts, and no private tensor is in its gradient.
    """
    known = KNOWN_METHODS.get(method)
    if known is None or "shared_part" not in known.plan.model_fields:
        return hyperparameters
    return {"shared_part": "output-bias"} | hyperparameters
