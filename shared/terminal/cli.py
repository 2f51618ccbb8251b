"""The ``hyperfl`` command. Subcommands are entry points: torch is loaded only where it is used."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

ENTRY_POINT_GROUP = "hyperfl.commands"


class _InstalledCommands(TyperGroup):
    """A group whose commands are the installed entry points, loaded when they are called."""

    _is_listing = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The names of the installed commands."""
        return sorted(_installed())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """The command called ``cmd_name``, if it is installed."""
        entry_point = _installed().get(cmd_name)
        if entry_point is None:
            return None
        if self._is_listing:
            return TyperCommand(cmd_name, help=_outline(entry_point))
        command = get_command(entry_point.load())
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The list of commands, for which none of them is loaded."""
        self._is_listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._is_listing = False


@cache
def _installed() -> Mapping[str, EntryPoint]:
    """The commands by name, looked up once: that opens a file of every installed package."""
    return {one.name: one for one in entry_points(group=ENTRY_POINT_GROUP)}


def _outline(entry_point: EntryPoint) -> str:
    """What a command is for: the first line of its module's docstring, after its name."""
    spec = find_spec(entry_point.module)
    if spec is None or spec.origin is None:
        return ""
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    _, _, outline = docstring.partition("\n")[0].partition(": ")
    return outline[:1].upper() + outline[1:]


app = typer.Typer(
    cls=_InstalledCommands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("hyperfl"))
        raise typer.Exit


@app.callback()
def _main(
    _version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Federated learning with HyperFL: train models across sites that keep their data.

    Example: hyperfl demo
    """


def main() -> None:
    """Entry point of the ``hyperfl`` script."""
    sys.exit(app())
