"""Which clients of a group the machine has memory for together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from worker.methods.hypernetwork.client import HyperFLClient
from worker.methods.hypernetwork.factored_sgd import rows_needed


def parts_within(
    clients: Sequence[HyperFLClient], output_weight: torch.Tensor, max_bytes: int
) -> Iterator[list[HyperFLClient]]:
    """The clients in their order, in parts whose factors need at most ``max_bytes``, or are of one.

    ``output_weight`` is W (P, h).
    """
    num_outputs, num_features = output_weight.shape
    row_bytes = num_outputs * output_weight.element_size()
    part: list[HyperFLClient] = []
    rows = 0
    for client in clients:
        rows_of_client = rows_needed(num_features, client.num_steps)
        rows = max(rows, rows_of_client)
        if part and (len(part) + 1) * rows * row_bytes > max_bytes:
            yield part
            part, rows = [], rows_of_client
        part.append(client)
    if part:
        yield part
