"""Settings as a person types them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker.errors import ConfigError


def parse_settings(settings: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """``key=value`` pairs; a value is a number or true or false where it can be, else text.

    Raises:
        ConfigError: one is no such pair; names the ``option`` that it is of.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise ConfigError(f"{option} must be KEY=VALUE, not {setting}")
        parsed[key] = _value(text)
    return parsed


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
