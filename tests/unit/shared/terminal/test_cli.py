"""What `hyperfl COMMAND --help` says of every command is all of what was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from typer.main import get_command

from shared.terminal.cli import ENTRY_POINT_GROUP

_MARKUP = re.compile(r"\[/?[a-z][^\]]*\]")
"""What rich takes for markup, and leaves out."""


def _texts(command: Any, name: str) -> Iterator[tuple[str, str]]:
    yield name, command.help or ""
    for parameter in command.params:
        yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""
    for child, below in getattr(command, "commands", {}).items():
        yield from _texts(below, f"{name} {child}")


@pytest.mark.parametrize(
    "entry_point", entry_points(group=ENTRY_POINT_GROUP), ids=lambda one: one.name
)
def test_no_word_of_a_help_is_taken_for_markup(entry_point: Any) -> None:
    texts = dict(_texts(get_command(entry_point.load()), entry_point.name))
    assert any(texts.values())
    assert {name: found for name, text in texts.items() if (found := _MARKUP.findall(text))} == {}
