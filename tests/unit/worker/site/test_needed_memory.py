"""What a specification asks of a site's memory."""

from __future__ import annotations

from typing import Any

import pytest

from shared.federation.specification import FederationSpecification
from tests.support.specifications import tiny_specification
from worker.errors import ConfigError
from worker.site.needed_memory import check_needed_memory

WEIGHTS_BYTES = 3 * tiny_specification().parameters.size_bytes


def with_training(**members: Any) -> FederationSpecification:
    document = tiny_specification().document
    training = document["training"] | members
    return FederationSpecification.of_record(document | {"training": training})


def test_a_batch_of_images_has_its_size_and_no_more() -> None:
    specification = with_training(
        image_shape=(3, 1024, 1024), method="own.methods:It", hyperparameters={"batch_size": 8}
    )
    needed = 4 * 8 * 3 * 1024 * 1024
    check_needed_memory(specification, needed)
    with pytest.raises(ConfigError) as refused:
        check_needed_memory(specification, needed - 1)
    assert str(refused.value) == (
        "federation tiny asks for 0.094 GiB of memory for 8 images of 3×1024×1024, and this site "
        "allows 0.094 GiB: see HYPERFL_MAX_MEMORY_BYTES"
    )


@pytest.mark.parametrize("batch_size", [-5, "many", True, None])
def test_a_model_is_tried_with_two_images_whatever_is_said_of_batches(batch_size: Any) -> None:
    given = {} if batch_size is None else {"batch_size": batch_size}
    specification = with_training(
        image_shape=(1, 100, 100), method="own.methods:It", hyperparameters=given
    )
    check_needed_memory(specification, 80_000)
    with pytest.raises(ConfigError, match="2 images of 1×100×100"):
        check_needed_memory(specification, 79_999)


def test_weights_count_with_their_change_and_its_file() -> None:
    specification = with_training(image_shape=(1, 1, 1))
    check_needed_memory(specification, WEIGHTS_BYTES)
    with pytest.raises(ConfigError, match="for its weights and their change"):
        check_needed_memory(specification, WEIGHTS_BYTES - 1)


def shared_as(
    shapes: dict[str, tuple[int, ...]], **hyperparameters: Any
) -> FederationSpecification:
    document = tiny_specification().document
    tensors = [
        {"name": name, "shape": shape, "initialisation": [{"rows": shape[0]}]}
        for name, shape in shapes.items()
    ]
    training = document["training"] | {"image_shape": (1,), "hyperparameters": hyperparameters}
    parameters = {"seed": 1, "tensors": tensors}
    return FederationSpecification.of_record(
        document | {"training": training, "parameters": parameters}
    )


def test_what_few_shared_numbers_stand_for_counts_too() -> None:
    factors = {"hypernetwork.output.left": (3000, 1), "hypernetwork.output.right": (4000, 1)}
    specification = shared_as(factors)
    needed = 6 * 4 * 3000 * 4000
    check_needed_memory(specification, needed)
    with pytest.raises(ConfigError, match="for the weights that it generates"):
        check_needed_memory(specification, needed - 1)


def test_what_everybody_draws_beside_a_shared_bias_counts_too() -> None:
    specification = shared_as({"hypernetwork.output.bias": (1000,)}, hidden_size=4096)
    needed = 2 * 4 * 1000 * 4096
    check_needed_memory(specification, needed)
    with pytest.raises(ConfigError, match="for the part of its weights that is fixed"):
        check_needed_memory(specification, needed - 1)
