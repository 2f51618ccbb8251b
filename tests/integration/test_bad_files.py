"""Every command with every file that it takes, and every setting, wrong: one line, and exit code 2.

The coordinator's address leads nowhere, so whoever asks before reading says so, and fails here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from coordinator.settings import CoordinatorSettings
from shared.terminal.cli import ENTRY_POINT_GROUP
from tests.support.processes import hyperfl_here
from tests.support.specifications import tiny_specification
from worker.settings import WorkerSettings

pytestmark = pytest.mark.integration

NOWHERE = "http://127.0.0.1:9"
TOKEN = "x" * 43
CONFIG = f"""\
coordinator_url = "{NOWHERE}"
federation = "tiny"
[[clients]]
name = "a"
state_dir = "state"
enrolment_token = "{TOKEN}"
[clients.data]
dataset = "digits"
"""
SPECIFICATION = tiny_specification().model_dump_json(indent=1)
ENVIRONMENT = {"HYPERFL_GIVE_UP_AFTER_SECONDS": "0.01", "HYPERFL_COORDINATOR_URL": NOWHERE}


@dataclass(frozen=True)
class Taken:
    """A file that a command takes.

    Attributes:
        words: of the command; FILE is where the file's name stands.
        content: that it takes; None where no text is.
        others: files beside it.
    """

    words: str
    content: str | None
    others: dict[str, str] = field(default_factory=dict)


def with_admin_token(words: str) -> Taken:
    return Taken(
        f"{words} --admin-token-file FILE", TOKEN + "\n", {"federation.json": SPECIFICATION}
    )


def with_config(words: str) -> Taken:
    return Taken(f"{words} --config FILE", CONFIG)


TAKEN = [
    *map(
        with_admin_token,
        (
            "audit list",
            "audit export audit.jsonl",
            "client enroll tiny a",
            "client list tiny",
            "client revoke tiny a",
            "federation create federation.json",
            "federation list",
            "federation export tiny",
            "federation show tiny",
            "federation start tiny",
            "federation pause tiny",
            "federation resume tiny",
            "federation finish tiny",
            "round list tiny",
            "round show tiny 1",
            "round watch tiny",
            "token create a --scope read-only",
            "token list",
            "token revoke a",
        ),
    ),
    *map(
        with_config,
        (
            "worker run",
            "worker evaluate",
            "worker personalize",
            "worker rotate",
            "worker export --client a --output a.pt2",
            "worker check",
            "worker accept-backup --client a",
            "worker fetch --spool spool",
            "worker train --spool spool",
            "worker send --spool spool",
            "worker predict --client a a.png",
            "worker status",
            "worker keys show",
            "worker keys export --client a --output a.json",
            "worker keys renew --client a",
            "worker peers list",
            "worker peers trust a.json",
            "worker peers verify --name a --fingerprint 1",
        ),
    ),
    Taken("federation create FILE --admin-token-file token", SPECIFICATION, {"token": TOKEN}),
    Taken("worker policy explain --specification FILE", SPECIFICATION),
    Taken(
        "worker policy explain --specification federation.json --config FILE",
        CONFIG,
        {"federation.json": SPECIFICATION},
    ),
    Taken(
        "worker check --config worker.toml --specification FILE",
        SPECIFICATION,
        {"worker.toml": CONFIG},
    ),
    Taken("worker peers trust FILE --config worker.toml", None, {"worker.toml": CONFIG}),
    Taken("worker train --spool FILE --config worker.toml", None, {"worker.toml": CONFIG}),
    Taken("worker send --spool FILE --config worker.toml", None, {"worker.toml": CONFIG}),
    Taken("privacy audit --config FILE --client a", CONFIG),
    Taken(
        "privacy audit --config worker.toml --specification FILE",
        SPECIFICATION,
        {"worker.toml": CONFIG},
    ),
    Taken("privacy table FILE", None),
    Taken("experiment run FILE", None),
    Taken("experiment report FILE", None),
    Taken("coordinator restore FILE", None),
    Taken("coordinator serve --tls-certificate FILE --tls-key FILE", None),
    Taken(
        "worker run --config worker.toml",
        TOKEN,
        {
            "worker.toml": CONFIG.replace(
                f'enrolment_token = "{TOKEN}"', 'enrolment_token_file = "FILE"'
            )
        },
    ),
    Taken("worker run --config worker.toml", None, {"worker.toml": 'ca_file = "FILE"\n' + CONFIG}),
    Taken("worker specify tiny --model cnn-mnist --image-shape 1x28x28 --classes FILE", "a\nb\n"),
]
WITHOUT_FILES = {
    "coordinator migrate": "opens a database alone",
    "coordinator backup": "reads a database, and writes a file",
    "demo": "reads data sets, which have tests of their own",
    "experiment pretrain": "reads data sets, which have tests of their own",
    "worker init": "writes alone",
    "worker policy init": "writes alone",
}
_STATUS = ("worker", "status", "--config", "worker.toml")
KINDS = ("missing", "empty", "folder", "unreadable", "utf-16", "binary", "crlf")
ALLOWED = {
    # A folder of images, or names in place of a file.
    ("worker specify tiny --model cnn-mnist --image-shape 1x28x28 --classes FILE", "missing"),
}


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield " ".join(path)
        return
    for name, child in command.commands.items():
        yield from _leaves(child, (*path, name))


def test_every_command_is_in_the_table() -> None:
    every = {
        name
        for entry_point in entry_points(group=ENTRY_POINT_GROUP)
        for name in _leaves(get_command(entry_point.load()), (entry_point.name,))
    }
    listed = {
        name for name in every if any(f"{one.words} ".startswith(f"{name} ") for one in TAKEN)
    }
    assert listed | WITHOUT_FILES.keys() == every
    assert not listed & WITHOUT_FILES.keys()


def make(kind: str, file: Path, content: str | None) -> None:
    """A file that nobody can use, or the right one with the line ends of Windows."""
    match kind:
        case "empty":
            file.touch()
        case "folder":
            file.mkdir()
        case "unreadable":
            file.symlink_to("/proc/self/mem")  # of which not even root may read the first byte
        case "utf-16":
            file.write_text(content or "{}", encoding="utf-16")
        case "binary":
            file.write_bytes(b"\x00\xff\xfe" * 100)
        case "crlf":
            assert content is not None
            file.write_text(content, newline="\r\n")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", TAKEN, ids=lambda one: one.words)
def test_a_file_that_cannot_be_used_is_one_line(taken: Taken, kind: str, tmp_path: Path) -> None:
    if (taken.words, kind) in ALLOWED or (kind == "crlf" and taken.content is None):
        return
    name = "the-file"
    for other, content in taken.others.items():
        (tmp_path / other).write_text(content.replace("FILE", name))
    make(kind, tmp_path / name, taken.content)
    before = sorted(tmp_path.rglob("*"))
    done = hyperfl_here(*taken.words.replace("FILE", name).split(), folder=tmp_path, **ENVIRONMENT)
    lines = done.errors.splitlines()
    assert "Traceback" not in done.errors
    if kind == "crlf":
        assert not any(line.startswith("error: ") and name in line for line in lines)
        return
    assert (done.exit_code, len(lines)) == (2, 1), done.errors + done.output
    assert lines[0].startswith("error: ")
    assert name in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("settings", [CoordinatorSettings, WorkerSettings])
def test_a_setting_that_cannot_be_used_is_one_line(settings: Any, tmp_path: Path) -> None:
    """Each empty, and each of those that are no free text as a word that means nothing to it."""
    (tmp_path / "worker.toml").write_text(CONFIG)
    words = ("coordinator", "migrate") if settings is CoordinatorSettings else _STATUS
    for name, member in settings.model_fields.items():
        variable = f"HYPERFL_{name.upper()}"
        free = set(get_args(member.annotation) or [member.annotation]) & {str, Path}
        for value in ("",) if free and not member.metadata else ("", "no such value"):
            done = hyperfl_here(*words, folder=tmp_path, **{variable: value})
            assert (done.exit_code, done.output) == (2, ""), (variable, value, done.errors)
            assert done.errors.startswith("error: ")
            assert done.errors.count("\n") == 1
            assert name in done.errors.lower()
    assert {one.name for one in tmp_path.iterdir()} == {"worker.toml"}


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("HYPERFL_ADMIN_TOKEN_FILE", ("federation", "list")),
        ("HYPERFL_WORKER_CONFIG", ("worker", "run")),
        ("SSL_CERT_FILE", ("federation", "list")),
        ("SSL_CERT_FILE", ("worker", "run", "--config", "worker.toml")),
    ],
)
def test_a_variable_that_names_no_usable_file_is_one_line(
    variable: str, words: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    (tmp_path / "worker.toml").write_text(CONFIG)
    make(kind, tmp_path / "the-file", None)
    done = hyperfl_here(*words, folder=tmp_path, **ENVIRONMENT, **{variable: "the-file"})
    assert (done.exit_code, done.errors.count("\n")) == (2, 1), done.errors
    assert "the-file" in done.errors
    assert not (tmp_path / "state").exists()
