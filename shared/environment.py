"""The ``HYPERFL_*`` variables of both sides: a process finds no others, and none without a value.

A name that is misspelt, or a value that came out empty, would leave out without a word what it
was meant to say, such as TLS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

PREFIX = "HYPERFL_"
SETTINGS_GROUP = "hyperfl.settings"
"""Entry points of the settings of each side: a class with a field for each variable."""


def check_environment(environment: Mapping[str, str], own_names: Iterable[str]) -> None:
    """Raises ValueError for a variable that is empty, or that neither side reads.

    Args:
        environment: variables by name; case does not matter, as it does not to the settings.
        own_names: of the settings that ask, without prefix and in any case.
    """
    known = {name.upper() for name in own_names}
    found = {
        variable.upper().removeprefix(PREFIX): variable
        for variable in sorted(environment)
        if variable.upper().startswith(PREFIX)
    }
    if found.keys() - known:
        known |= _installed_names()
    for name, variable in found.items():
        if name not in known:
            near = [PREFIX + one for one in get_close_matches(name, sorted(known))]
            hint = f"; is it {' or '.join(near)}?" if near else ""
            raise ValueError(f"{variable} is not a setting{hint}")
        if not environment[variable]:
            raise ValueError(f"{variable} is empty: give it a value or unset it")


def shown(default: str) -> dict[str, Any]:
    """For a field's ``json_schema_extra``: how a default is shown whose value says little."""
    return {"default_shown": default}


def _installed_names() -> set[str]:
    """Names of all settings of both sides, looked up only for a variable that is not one's own."""
    classes = [entry_point.load() for entry_point in entry_points(group=SETTINGS_GROUP)]
    return {name.upper() for settings in classes for name in settings.model_fields}
