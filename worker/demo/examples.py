"""How many examples the demo's clients have."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from shared.validation import first_fault
from worker.data.client_split import split_for_client
from worker.data.loading import DatasetCache, natural_image_shape
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError


def examples_of_clients(data: dict[str, Any]) -> list[int]:
    """Training examples of each client.

    Args:
        data: what every client's ``[clients.data]`` says.

    Raises:
        DataError: the data cannot be used.
    """
    try:
        sources = [
            DataSource.model_validate(data | {"client_index": index})
            for index in range(data["num_clients"])
        ]
    except ValidationError as error:
        raise DataError(str(first_fault(error))) from error
    try:
        # The smallest images there are: only their labels are wanted.
        shape = natural_image_shape(sources[0].dataset) or (1, 8, 8)
        dataset = DatasetCache().dataset(sources[0], Wanted(shape))
        return [len(split_for_client(source, dataset)[0]) for source in sources]
    except OSError as error:
        raise DataError(str(error)) from error
