"""The ``hyperfl`` command. Subcommands are entry points: torch is loaded only where it is used."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

ENTRY_POINT_GROUP = "hyperfl.commands"


class _InstalledCommands(TyperGroup):
    """A group whose commands are the installed entry points, loaded when they are called."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The names of the installed commands."""
        return sorted(entry_points(group=ENTRY_POINT_GROUP).names)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """The command called ``cmd_name``, if it is installed."""
        for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=cmd_name):
            command = get_command(entry_point.load())
            command.name = cmd_name
            return command
        return None


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
    """Federated learning with hypernetworks: only the hypernetwork is exchanged.

    Example: hyperfl demo
    """


def main() -> None:
    """Entry point of the ``hyperfl`` script."""
    sys.exit(app())
