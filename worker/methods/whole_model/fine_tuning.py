"""What a client keeps of a fine-tuned shared model: its change, and of which weights it is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog
import torch

from shared.arrays import digest_arrays
from worker.methods.interface import Participant, PrivateTensors

_PREFIX = "change."
_BASE = "change.base"
_log = structlog.get_logger()

Tensors = Mapping[str, torch.Tensor]


def change_of(tuned: Tensors, shared: Tensors) -> PrivateTensors:
    """The private tensors that turn ``shared``, and nothing else, into ``tuned``.

    They are ``change.<name>`` for each tensor of ``shared``, and ``change.base``, uint8 (32,): the
    SHA-256 of ``shared``.
    """
    changes = {_PREFIX + name: tuned[name] - before for name, before in shared.items()}
    return changes | {_BASE: _digest(shared)}


def with_change(participant: Participant, shared: Tensors) -> dict[str, torch.Tensor]:
    """``shared`` with the client's change, if it is one of these very tensors.

    Added to later weights, a change would give a model that nobody has trained.
    """
    private = participant.private
    if not any(name.startswith(_PREFIX) for name in private):
        return dict(shared)
    base = private.get(_BASE)
    if base is None or not torch.equal(base.cpu(), _digest(shared)):
        _log.warning(
            "fine-tuning left out: it belongs to other weights; run personalize again",
            client=participant.name,
        )
        return dict(shared)
    return {
        name: tensor + private[_PREFIX + name].to(tensor.device) for name, tensor in shared.items()
    }


def change_shapes(
    private: Iterable[str], shared: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a client with these private tensors must have, none or all."""
    names = set(private)
    if not any(name.startswith(_PREFIX) for name in names):
        return {}
    base = {_BASE: (32,)} if _BASE in names else {}
    return {_PREFIX + name: shape for name, shape in shared.items()} | base


def _digest(tensors: Tensors) -> torch.Tensor:
    digest = digest_arrays({name: tensor.cpu().numpy() for name, tensor in tensors.items()})
    return torch.frombuffer(bytearray.fromhex(digest.removeprefix("sha256:")), dtype=torch.uint8)
