from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.docker import SETTINGS, dockerfile, interpolate, services


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HYPERFL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """The settings that a service's container starts with."""

    def build(service: str, side: str) -> Any:
        environment = dockerfile(side).environment() | services()[service]["environment"]
        for name, value in environment.items():
            monkeypatch.setenv(name, interpolate(value, POSTGRES_PASSWORD="p"))
        return SETTINGS[side]()

    return build
