"""A federation as flat values: parameters by dotted name, and rows of rounds and clients."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from coordinator.tracking.interface import Record

_TENSORS = "parameters.tensors"
"""Names and shapes of all that is shared: long, and told by the digest."""
_FACTS = (
    "name",
    "state",
    "reason",
    "rounds_committed",
    "rounds_planned",
    "clients_enrolled",
    "weights_version",
    "weights_digest",
    "specification_digest",
    "created_at",
    "started_at",
    "finished_at",
)
_ROUND = (
    "number",
    "kind",
    "phase",
    "reason",
    "base_version",
    "new_version",
    "new_digest",
    "cohort_size",
    "updates_received",
    "opened_at",
    "deadline_at",
    "closed_at",
    "bytes_up",
    "bytes_down",
)
_CLIENT = (
    "client",
    "state",
    "attempt",
    "num_examples",
    "bytes_up",
    "bytes_down",
    "submitted_at",
    "reason",
)


def facts(federation: Record) -> dict[str, Any]:
    """What is known of the federation besides its parameters."""
    return {name: federation[name] for name in _FACTS}


def parameters(federation: Record) -> dict[str, Any]:
    """The specification by dotted name; lists are JSON. What is null is left out."""
    return {
        name: value
        for name, value in _flat(federation["specification"], "")
        if name != _TENSORS and value is not None
    }


def _flat(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from _flat(one, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(one) if isinstance(one, list) else one


def round_row(round_: Record) -> dict[str, Any]:
    """A round and the means of its clients' metrics."""
    return {name: round_[name] for name in _ROUND} | dict(round_["metrics"])


def client_rows(round_: Record) -> list[dict[str, Any]]:
    """Each client's part in a round, with its metrics."""
    return [
        {"round": round_["number"]} | {name: one[name] for name in _CLIENT} | one["metrics"]
        for one in round_["assignments"]
    ]


def scalars(round_: Record) -> dict[str, float]:
    """What can be drawn as curves over rounds, by name: of the round, then of each client."""
    found: dict[str, float] = dict(round_["metrics"])
    for name in ("cohort_size", "updates_received", "bytes_up", "bytes_down"):
        found[name] = float(round_[name])
    for one in round_["assignments"]:
        found |= {f"clients/{one['client']}/{name}": v for name, v in one["metrics"].items()}
    return found
