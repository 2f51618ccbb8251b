"""Whatever fits or breaks the OpenAPI document is answered as it says, and never by 5xx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from coordinator.app import create_app
from coordinator.migrate import migrate
from coordinator.settings import CoordinatorSettings
from shared.codec import MEDIA_TYPE

pytestmark = pytest.mark.integration

_EXAMPLES = 30


@schemathesis.serializer(MEDIA_TYPE)
def _serialise_update(context: Any, value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray) else str(value).encode()


_OPERATIONS = sorted(
    (method.upper(), path)
    for path, methods in create_app(CoordinatorSettings()).openapi()["paths"].items()
    for method in methods
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, str]]:
    """The document of a coordinator that serves, and an administrator's headers."""
    folder: Path = tmp_path_factory.mktemp("coordinator")
    configured = CoordinatorSettings(data_dir=folder)
    migrate(configured.effective_database_url)
    app = create_app(configured)
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    token = configured.effective_admin_token_file.read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    return document, headers


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), _OPERATIONS)
def test_every_call_is_answered_as_documented(
    api: tuple[Any, dict[str, str]], method: str, path: str, mode: GenerationMode
) -> None:
    document, headers = api
    operation = document[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def answer(case: Any) -> None:
        # Rules that tie two members together are beyond a schema: refusing is right, too.
        case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

    try:
        answer()
    except Unsatisfiable:  # a call without parameters has no way to be wrong
        assert mode is GenerationMode.NEGATIVE
