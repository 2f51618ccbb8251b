"""A process finds the HYPERFL_* variables of either side, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from typer.main import get_command

from coordinator.settings import CoordinatorSettings
from shared.environment import PREFIX, SETTINGS_GROUP, check_environment
from shared.terminal.cli import ENTRY_POINT_GROUP
from worker.settings import WorkerSettings

BOTH = CoordinatorSettings.model_fields | WorkerSettings.model_fields


def _variables(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.envvar is not None:
            yield parameter.envvar
    for child in getattr(command, "commands", {}).values():
        yield from _variables(child)


def test_the_settings_of_both_sides_are_found() -> None:
    found = {entry_point.load() for entry_point in entry_points(group=SETTINGS_GROUP)}
    assert found == {CoordinatorSettings, WorkerSettings}


@pytest.mark.parametrize("settings", [CoordinatorSettings, WorkerSettings])
def test_either_side_finds_the_variables_of_both(settings: type[Any]) -> None:
    environment = {f"{PREFIX}{name.upper()}": "x" for name in BOTH}
    check_environment(environment, settings.model_fields)
    check_environment({name.lower(): value for name, value in environment.items()}, ())


def test_what_commands_read_is_among_the_settings() -> None:
    read = {
        variable
        for entry_point in entry_points(group=ENTRY_POINT_GROUP)
        for variable in _variables(get_command(entry_point.load()))
    }
    assert "HYPERFL_COORDINATOR_URL" in read
    assert read <= {f"{PREFIX}{name.upper()}" for name in BOTH}


def test_ones_own_variables_are_looked_at_without_the_other_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere(**_: str) -> Any:
        raise AssertionError("a start that finds its own variables alone looks for no others")

    monkeypatch.setattr("shared.environment.entry_points", nowhere)
    check_environment({"HYPERFL_PORT": "1", "PATH": "x"}, CoordinatorSettings.model_fields)
    with pytest.raises(ValueError, match="HYPERFL_PORT is empty"):
        check_environment({"HYPERFL_PORT": ""}, CoordinatorSettings.model_fields)


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
