"""The list of HYPERFL_* variables has what the settings and the commands read, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from typer.main import get_command

from coordinator.cli import ENTRY_POINT_GROUP
from coordinator.settings import CoordinatorSettings
from shared.environment import COORDINATOR_NAMES, PREFIX, WORKER_NAMES, check_environment
from worker.settings import WorkerSettings


def _variables(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.envvar is not None:
            yield parameter.envvar
    for child in getattr(command, "commands", {}).values():
        yield from _variables(child)


def test_the_lists_are_those_of_the_settings() -> None:
    assert {name.upper() for name in CoordinatorSettings.model_fields} == COORDINATOR_NAMES
    assert {name.upper() for name in WorkerSettings.model_fields} == WORKER_NAMES


def test_what_commands_read_is_in_the_lists() -> None:
    read = {
        variable
        for entry_point in entry_points(group=ENTRY_POINT_GROUP)
        for variable in _variables(get_command(entry_point.load()))
    }
    assert "HYPERFL_COORDINATOR_URL" in read
    assert read <= {PREFIX + name for name in COORDINATOR_NAMES | WORKER_NAMES}


def test_variables_of_others_may_be_as_they_like() -> None:
    check_environment({"PATH": "", "HYPER_FL": "x", "hyperfl_port": "8400"}, ())


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HYPERFL_PORT": ""}, "HYPERFL_PORT is empty: give it a value or unset it"),
        ({"HYPERFL_NEW": ""}, "HYPERFL_NEW is empty: give it a value or unset it"),
        ({"HYPERFL_HOTS": "::1"}, "HYPERFL_HOTS is not a setting; is it HYPERFL_HOST?"),
        ({"HYPERFL_": "x"}, "HYPERFL_ is not a setting"),
    ],
)
def test_a_variable_is_refused_in_one_line(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match="HYPERFL_") as raised:
        check_environment(environment, ("new",))
    assert str(raised.value) == message
