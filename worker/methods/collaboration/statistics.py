"""What a client's features are like by class (Xu, Tong and Huang, ICLR 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from worker.data.client_data import Batch


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Of one client's training examples, in float64 on the CPU. C classes, features of width d.

    Attributes:
        frequencies: (C,), n_c/n.
        means: h (C, d), n_c/n times the mean feature of class c; zeros where it has no example.
        variance: V = 1/n·Σ_c (n_c/n·mean‖f‖² − ‖h_c‖²), at least 0: how far h is from what it
            would be for more examples.
    """

    frequencies: torch.Tensor
    means: torch.Tensor
    variance: float


def class_statistics(batches: Iterable[Batch], num_classes: int) -> ClassStatistics:
    """Of features (B, d) and labels (B,), in batches of one client; at least one example."""
    counts = torch.zeros(num_classes, dtype=torch.float64)
    sums = torch.zeros(num_classes, 1, dtype=torch.float64)
    squares = torch.zeros((), dtype=torch.float64)
    for features, labels in batches:
        one_hot = torch.nn.functional.one_hot(labels, num_classes).double()
        found = features.double()
        counts = counts.to(found.device) + one_hot.sum(0)
        sums = sums.to(found.device) + one_hot.T @ found
        squares = squares.to(found.device) + found.square().sum()
    num_examples = counts.sum()
    means = sums / num_examples
    spread = squares / num_examples - means.square().sum()
    return ClassStatistics(
        frequencies=(counts / num_examples).cpu(),
        means=means.cpu(),
        variance=max(0.0, float(spread / num_examples)),
    )
