"""What a specification asks of a site's memory, found out before anything is made of it."""

from __future__ import annotations

import math

from shared.federation.sharing import KRONECKER_HYPERNETWORK, OUTPUT_BIAS
from shared.federation.specification import FederationSpecification
from worker.errors import ConfigError

FREE_SHARE = 0.5
"""Of the memory that is free at the start, where the site gives no bound of its own."""

_COPIES_OF_WEIGHTS = 3
"""The weights, a client's change of them, and the file that it is sent as."""
_COPIES_OF_GENERATED = 6
"""What is generated from factors, its gradient, and what both are computed from."""
_COPIES_OF_FIXED = 2
"""What is drawn here, and the copy that is computed with."""
_TRIED_WITH = 2
"""Images that a model is tried with before anybody trains."""


def check_needed_memory(specification: FederationSpecification, max_bytes: int) -> None:
    """Raises ConfigError, naming the part, if weights or a batch of images are more than allowed.

    What a network makes of a batch comes on top: that is why only a part of what is free is
    allowed by default.
    """
    training = specification.training
    batch_size = training.hyperparameters.get("batch_size")
    images = max(batch_size, _TRIED_WITH) if isinstance(batch_size, int) else _TRIED_WITH
    size = "×".join(map(str, training.image_shape))
    what = "images" if len(training.image_shape) > 1 else "rows"
    for needed, part in (
        (_COPIES_OF_WEIGHTS * specification.parameters.size_bytes, "its weights and their change"),
        (_COPIES_OF_GENERATED * 4 * _generated(specification), "the weights that it generates"),
        (_COPIES_OF_FIXED * 4 * _fixed(specification), "the part of its weights that is fixed"),
        (4 * images * math.prod(training.image_shape), f"{images} {what} of {size}"),
    ):
        if needed > max_bytes:
            raise ConfigError(
                f"federation {specification.name} asks for {_gib(needed)} of memory for {part}, "
                f"and this site allows {_gib(max_bytes)}: see HYPERFL_MAX_MEMORY_BYTES"
            )


def _generated(specification: FederationSpecification) -> int:
    """Numbers that few shared ones stand for, as factors of Kronecker products."""
    shared = specification.parameters.by_name
    factors = [shared[name] for name in KRONECKER_HYPERNETWORK[2:4] if name in shared]
    if len(factors) < len(KRONECKER_HYPERNETWORK[2:4]):
        return 0
    left, right = (tensor.initialisation for tensor in factors)
    return sum(one.rows * other.rows for one, other in zip(left, right, strict=False))


def _fixed(specification: FederationSpecification) -> int:
    """Numbers of W (P, h), where b (P,) alone is shared and everybody draws W."""
    shared = specification.parameters.by_name
    hidden_size = specification.training.hyperparameters.get("hidden_size")
    if shared.keys() != {OUTPUT_BIAS} or not isinstance(hidden_size, int):
        return 0
    return shared[OUTPUT_BIAS].num_elements * hidden_size


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):,.3f} GiB"
