"""The commands as a user types them, against a coordinator that listens."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from shared.terminal.cli import ENTRY_POINT_GROUP
from tests.support.processes import Finished, ServingCoordinator, hyperfl, hyperfl_here
from tests.support.specifications import tiny_specification
from worker.demo.processes import stream_step

pytestmark = pytest.mark.e2e


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, child in command.commands.items():
        yield from _leaves(child, (*path, name))


_COMMANDS = dict(
    leaf
    for entry_point in entry_points(group=ENTRY_POINT_GROUP)
    for leaf in _leaves(get_command(entry_point.load()), (entry_point.name,))
)
_SILENT = {
    *("coordinator serve", "worker run", "worker specify", "worker policy init", "worker init"),
    "client revoke",
}


def _create(coordinator: ServingCoordinator, name: str) -> None:
    file = coordinator.folder / f"{name}.json"
    file.write_text(tiny_specification(name).model_dump_json())
    created = coordinator.admin("federation", "create", file, "--json").json
    assert (created["name"], created["state"]) == (name, "draft")


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_every_command_shows_an_example_of_itself(name: str) -> None:
    assert f"Example: hyperfl {name}" in _COMMANDS[name].help


@pytest.mark.parametrize("name", sorted(_COMMANDS.keys() - _SILENT))
def test_every_command_that_prints_data_can_print_json(name: str) -> None:
    options = {option for parameter in _COMMANDS[name].params for option in parameter.opts}
    assert "--json" in options


def test_a_federation_is_steered_from_the_command_line(coordinator: ServingCoordinator) -> None:
    _create(coordinator, "steered")
    invited = coordinator.invite("steered", "site-a", "site-b")
    assert set(invited) == {"site-a", "site-b"}
    states = [
        coordinator.admin("federation", action, "steered", "--json").json["state"]
        for action in ("start", "pause", "resume", "finish")
    ]
    assert states == ["running", "paused", "running", "finished"]


def test_tables_name_what_they_show(coordinator: ServingCoordinator) -> None:
    _create(coordinator, "shown")
    coordinator.invite("shown", "site-a")
    assert "shown" in coordinator.admin("federation", "list").output
    clients = coordinator.admin("client", "list", "shown").output
    assert "site-a" in clients
    assert "invited" in clients
    assert "worker version" in clients
    assert "device" in clients
    assert coordinator.admin("client", "revoke", "shown", "site-a").exit_code == 0
    assert "revoked" in coordinator.admin("client", "list", "shown").output
    assert coordinator.admin("round", "list", "shown", "--json").json == []


def test_a_token_that_is_shown_once_is_shown_whole(coordinator: ServingCoordinator) -> None:
    _create(coordinator, "narrow")
    shown = hyperfl_here(
        *("client", "enroll", "narrow", "site-a"),
        folder=coordinator.folder,
        HYPERFL_COORDINATOR_URL=coordinator.url,
        HYPERFL_ADMIN_TOKEN_FILE=str(coordinator.admin_token_file),
        COLUMNS="60",
    )
    assert re.search(r"hyperfl-enrolment-[\w-]{43}(?![\w-])", shown.output)


def test_a_federation_is_watched_through_a_pause_to_its_end(
    coordinator: ServingCoordinator,
) -> None:
    _create(coordinator, "halted")
    coordinator.admin("federation", "start", "halted")
    coordinator.admin("federation", "pause", "halted")
    options = ("--url", coordinator.url, "--admin-token-file", str(coordinator.admin_token_file))
    lines = stream_step("round", "watch", "halted", *options, "--json")
    paused = next(line for line in lines if line is not None)
    assert paused["federation"]["reason"] == "paused by an administrator"
    coordinator.admin("federation", "finish", "halted")
    last = [line for line in lines if line is not None][-1]
    assert last["federation"]["state"] == "finished"
    watched = coordinator.admin("round", "watch", "halted")
    assert (watched.exit_code, "finished" in watched.output) == (0, True)


def test_tokens_of_people_come_and_go(coordinator: ServingCoordinator) -> None:
    _create(coordinator, "looked-at")
    create = ("token", "create", "dashboard", "--scope", "read-only", "--valid-days", "1")
    created = coordinator.admin(*create, "--json").json
    assert (created["name"], created["scope"]) == ("dashboard", "read-only")
    assert created["expires_at"] is not None
    file = coordinator.folder / "reader-token"
    file.write_text(created["token"])

    def as_reader(*arguments: object) -> Finished:
        return hyperfl_here(
            *arguments,
            folder=coordinator.folder,
            HYPERFL_COORDINATOR_URL=coordinator.url,
            HYPERFL_ADMIN_TOKEN_FILE=str(file),
        )

    assert as_reader("federation", "show", "looked-at", "--json").json["state"] == "draft"
    refused = as_reader("federation", "start", "looked-at")
    assert refused.exit_code == 1
    assert _says_one_line(refused.errors, "this token is read-only")
    listed = coordinator.admin("token", "list", "--json").json
    assert [one["name"] for one in listed if not one["name"].startswith("file-")] == ["dashboard"]
    assert all("token" not in one for one in listed)
    assert "dashboard" in coordinator.admin("token", "list").output
    taken = coordinator.admin(*create)
    assert taken.exit_code == 1
    assert _says_one_line(taken.errors, "dashboard")
    assert coordinator.admin("token", "revoke", "dashboard").exit_code == 0
    ended = as_reader("federation", "show", "looked-at")
    assert _says_one_line(ended.errors, "the token is not valid")
    assert coordinator.admin("token", "revoke", "dashboard").exit_code == 1


def test_the_audit_says_who_did_what_and_who_looked(
    coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    before = coordinator.admin("audit", "list", "--limit", "1000", "--json").json
    after = max((event["id"] for event in before), default=0)
    _create(coordinator, "watched")
    for _ in range(3):
        coordinator.admin("federation", "show", "watched")
    assert coordinator.admin("federation", "pause", "watched").exit_code == 1
    listed = ("audit", "list", "--after", str(after))
    about = [
        (event["actor"].split("-")[0], event["action"], event["outcome"])
        for event in coordinator.admin(*listed, "--json").json
        if "watched" in event["subject"]
    ]
    assert about == [
        ("admin file", "POST /v1/federations", "201"),
        ("admin file", "GET /v1/federations/{federation_name}", "200"),
        (
            "admin file",
            "PATCH /v1/federations/{federation_name}",
            "409 illegal-transition",
        ),
    ]
    assert "illegal-transition" in coordinator.admin(*listed).output
    first = coordinator.admin(*listed, "--limit", "1", "--json").json
    assert [event["id"] for event in first] == [after + 1]
    file = tmp_path / "audit.jsonl"
    export = ("audit", "export", str(file), "--after", str(after), "--json")
    exported = coordinator.admin(*export).json
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[: len(about)] == coordinator.admin(*listed, "--json").json[: len(about)]
    assert (exported["events"], exported["last_id"]) == (len(lines), lines[-1]["id"])
    assert _says_one_line(coordinator.admin(*export).errors, f"{file} exists")
    nowhere = coordinator.admin("audit", "export", str(tmp_path / "none" / "audit.jsonl"))
    assert _says_one_line(nowhere.errors, "No such file or directory")


def test_the_admin_token_is_its_owners_alone_and_never_logged(
    coordinator: ServingCoordinator,
) -> None:
    file = coordinator.admin_token_file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text().strip()
    assert token not in coordinator.process.log_file.read_text()


def _says_one_line(errors: str, *parts: str) -> bool:
    line = errors.strip()
    return line.startswith("error: ") and "\n" not in line and all(part in line for part in parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("federation", "show", "nowhere"), ("nowhere",)),
        (("federation", "start", "nowhere"), ("nowhere",)),
        (("round", "show", "nowhere", "1"), ("nowhere",)),
        (("client", "enroll", "nowhere", "site-a"), ("nowhere",)),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_1(
    coordinator: ServingCoordinator, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    done = coordinator.admin(*arguments)
    assert done.exit_code == 1
    assert _says_one_line(done.errors, *parts), done.errors


def test_a_specification_that_is_wrong_is_named_with_its_place(
    coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    document = tiny_specification("wrong").model_dump(mode="json")
    document["round_policy"]["rounds"] = 0
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(document))
    done = coordinator.admin("federation", "create", file)
    assert done.exit_code == 2
    assert _says_one_line(done.errors, "round_policy.rounds"), done.errors
    file.write_text("{not json")
    done = coordinator.admin("federation", "create", file)
    assert done.exit_code == 2
    assert _says_one_line(done.errors, "wrong.json", "not JSON"), done.errors
    done = coordinator.admin("federation", "create", "absent.json")
    assert done.exit_code == 2
    assert _says_one_line(done.errors, "absent.json cannot be read"), done.errors


def test_an_unknown_option_or_command_exits_with_2(tmp_path: Path) -> None:
    assert hyperfl("federation", "list", "--colour", folder=tmp_path).exit_code == 2
    assert hyperfl_here("federate", folder=tmp_path).exit_code == 2
    assert hyperfl_here("demo", "--clients", "0", folder=tmp_path).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("worker", "specify", "a", "--model", "cnn-mnits"), ("the closest are cnn-mnist",)),
        (("worker", "specify", "a", "--preset", "papr"), ("unknown preset 'papr'", "paper")),
        (("worker", "run", "--config", "absent.toml"), ("absent.toml cannot be read",)),
        (("worker", "run"), ("--config",)),
        (("demo", "--method", "hyprfl"), ("the closest are hyperfl",)),
        (
            (
                *("demo", "--method", "fedavg-fixed", "--model", "vit:test_vit"),
                *("--backbone-weights", "rnadom", "--image-shape", "3x32x32"),
            ),
            ("hub, random or an existing file, not", "rnadom"),
        ),
        (("experiment", "run", "absent.toml"), ("absent.toml cannot be read",)),
    ],
)
def test_invalid_input_exits_with_2(
    tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    options = ("--dataset", "digits") if arguments[1] == "specify" else ()
    done = hyperfl_here(*arguments, *options, folder=tmp_path)
    assert (done.exit_code, done.output) == (2, "")
    assert _says_one_line(done.errors, *parts), done.errors


def test_a_process_ends_as_its_command_does_here(tmp_path: Path) -> None:
    arguments = ("experiment", "run", "absent.toml")
    done = hyperfl(*arguments, folder=tmp_path)
    assert (done.exit_code, done.output) == (2, "")
    assert done == hyperfl_here(*arguments, folder=tmp_path)


def test_a_missing_token_and_a_silent_coordinator_are_one_line(tmp_path: Path) -> None:
    done = hyperfl("federation", "list", folder=tmp_path)
    assert done.exit_code == 2
    assert _says_one_line(done.errors, "admin token", "--admin-token-file"), done.errors
    token = tmp_path / "token"
    token.write_text("x" * 40)
    done = hyperfl_here(
        "federation",
        "list",
        "--admin-token-file",
        token,
        "--url",
        "http://127.0.0.1:9",
        folder=tmp_path,
    )
    assert done.exit_code == 1
    assert _says_one_line(done.errors, "http://127.0.0.1:9", "does not answer"), done.errors


def test_settings_that_contradict_each_other_are_refused_at_start(tmp_path: Path) -> None:
    done = hyperfl_here(
        "coordinator", "serve", folder=tmp_path, HYPERFL_TLS_CERTIFICATE="certificate.pem"
    )
    assert done.exit_code == 2
    assert _says_one_line(done.errors, "HYPERFL_TLS_KEY"), done.errors
    done = hyperfl_here("coordinator", "serve", "--host", "0.0.0.0", folder=tmp_path)
    assert done.exit_code == 2
    assert _says_one_line(done.errors, "no TLS on 0.0.0.0", "HYPERFL_PLAINTEXT"), done.errors
    done = hyperfl_here("federation", "list", folder=tmp_path, HYPERFL_COORDINATR_URL="http://far")
    assert done.exit_code == 2
    assert _says_one_line(done.errors, "is it HYPERFL_COORDINATOR_URL"), done.errors
    done = hyperfl_here(
        "coordinator", "migrate", "--database-url", "mysql://somewhere", folder=tmp_path
    )
    assert done.exit_code == 2
    assert _says_one_line(done.errors, "database_url", "mysql"), done.errors
    done = hyperfl_here(
        "coordinator", "migrate", "--database-url", "postgresql://u@127.0.0.1:9/d", folder=tmp_path
    )
    assert done.exit_code == 1
    assert _says_one_line(done.errors, "127.0.0.1"), done.errors


def test_a_port_that_is_taken_is_one_line_and_nothing_is_migrated(
    coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    port = coordinator.url.rpartition(":")[2]
    done = hyperfl_here("coordinator", "serve", "--port", port, folder=tmp_path)
    assert done.exit_code == 2
    assert _says_one_line(done.errors, f"port {port} of 127.0.0.1", "Address already in use")
    assert not (tmp_path / "hyperfl-data").exists()


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hyperfl.db'}"
    first = hyperfl("coordinator", "migrate", "--database-url", url, "--json", folder=tmp_path)
    again = hyperfl_here("coordinator", "migrate", "--database-url", url, "--json", folder=tmp_path)
    assert first.json["before"] is None
    assert again.json == {"before": first.json["after"], "after": first.json["after"]}
