"""``hyperfl federation``: create, list, show, start, pause, resume and finish federations."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.commands.connection import (
    DEFAULT_URL,
    JsonOption,
    TokenFileOption,
    UrlOption,
    connect,
)
from coordinator.commands.export import export
from shared.federation.specification import FederationSpecification
from shared.rest.schema import FederationAction, FederationSummary, FederationView
from shared.terminal.failures import INVALID_INPUT, fail, one_line_errors
from shared.terminal.tables import print_json, print_rows, print_table
from shared.terminal.text_files import UnreadableText, read_text

_COLUMNS = (
    "name",
    "state",
    "method",
    "model",
    "rounds_committed",
    "rounds_planned",
    "clients_enrolled",
    "reason",
)

federation = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Create, control and list federations."
)

NameArgument = Annotated[str, typer.Argument(help="The federation's name.")]


@federation.command()
def create(
    file: Annotated[
        Path, typer.Argument(help="Specification as JSON or TOML; - reads JSON from stdin.")
    ],
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a federation from a specification (see `hyperfl worker specify`).

    Example: hyperfl federation create federation.json
    """
    with one_line_errors(ValueError):
        specification = FederationSpecification.model_validate(_read(file))
    with connect(url, admin_token_file) as connection:
        created = connection.post(
            "/v1/federations", FederationView, specification.model_dump(mode="json")
        )
    _print_one(created, as_json)


def _read(file: Path) -> Any:
    name = "stdin" if str(file) == "-" else str(file)
    try:
        text = sys.stdin.read() if name == "stdin" else read_text(file)
        return tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (UnreadableText, UnicodeDecodeError) as error:
        fail(f"{name} is no text: {error}" if name == "stdin" else str(error), INVALID_INPUT)
    except json.JSONDecodeError as error:
        fail(f"{name} is not JSON: {error}", INVALID_INPUT)
    except tomllib.TOMLDecodeError as error:
        fail(f"{name} is not TOML: {error}", INVALID_INPUT)


@federation.command("list")
def list_all(
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all federations.

    Example: hyperfl federation list
    """
    with connect(url, admin_token_file) as connection:
        found = connection.get("/v1/federations", list[FederationSummary])
    print_rows(found, _COLUMNS, as_json=as_json)


@federation.command()
def show(
    name: NameArgument,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one federation; --json adds its specification.

    Example: hyperfl federation show hospitals --json
    """
    with connect(url, admin_token_file) as connection:
        found = connection.get(f"/v1/federations/{name}", FederationView)
    _print_one(found, as_json)


@federation.command()
def start(
    name: NameArgument,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a federation: its first round opens when enough clients are enrolled.

    Example: hyperfl federation start hospitals
    """
    _act(name, FederationAction.START, url, admin_token_file, as_json)


@federation.command()
def pause(
    name: NameArgument,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pause a federation: the coordinator hands out no more work.

    Example: hyperfl federation pause hospitals
    """
    _act(name, FederationAction.PAUSE, url, admin_token_file, as_json)


@federation.command()
def resume(
    name: NameArgument,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resume a paused federation.

    Example: hyperfl federation resume hospitals
    """
    _act(name, FederationAction.RESUME, url, admin_token_file, as_json)


@federation.command()
def finish(
    name: NameArgument,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a federation for good, before its last round.

    Example: hyperfl federation finish hospitals
    """
    _act(name, FederationAction.FINISH, url, admin_token_file, as_json)


federation.command()(export)


def _act(
    name: str, action: FederationAction, url: str, admin_token_file: Path | None, as_json: bool
) -> None:
    with connect(url, admin_token_file) as connection:
        changed = connection.patch(
            f"/v1/federations/{name}", FederationView, {"action": action.value}
        )
    _print_one(changed, as_json)


def _print_one(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        print_table([found], _COLUMNS)
