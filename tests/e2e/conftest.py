from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.processes import ServingCoordinator, serving_coordinator


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingCoordinator]:
    """One coordinator for a module's tests; each uses a federation of its own."""
    with serving_coordinator(tmp_path_factory.mktemp("site")) as serving:
        yield serving
