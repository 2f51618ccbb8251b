"""The script that says whether the coordinator in its container is healthy."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from coordinator.settings import CoordinatorSettings
from tests.support.docker import DOCKER


@pytest.fixture
def check_coordinator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", DOCKER / "check_coordinator.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("status", "ready"), [(200, True), (503, False), (500, False), (404, False)]
)
def test_the_coordinator_is_healthy_when_readyz_answers_200(
    check_coordinator: ModuleType, status: int, ready: bool
) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(status)

    settings = CoordinatorSettings(port=8765)
    assert check_coordinator.is_ready(settings, httpx.MockTransport(answer)) is ready
    assert asked == ["http://127.0.0.1:8765/readyz"]


def test_a_coordinator_that_does_not_answer_is_unhealthy(check_coordinator: ModuleType) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    assert not check_coordinator.is_ready(CoordinatorSettings(), httpx.MockTransport(refuse))


def test_a_coordinator_with_tls_is_asked_over_tls(check_coordinator: ModuleType) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.url.scheme == "https" else 400)

    settings = CoordinatorSettings(tls_certificate=Path("cert.pem"), tls_key=Path("key.pem"))
    assert check_coordinator.is_ready(settings, httpx.MockTransport(answer))
