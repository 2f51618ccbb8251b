"""How a command fails: what a user can cause is one line and an exit code, all else passes."""

from __future__ import annotations

import errno
import os

import pytest
import typer
from pydantic import BaseModel, ValidationError

from shared.terminal.failures import FAILED, INVALID_INPUT, fail, one_line_errors
from shared.validation import InvalidInput


class Broken(Exception):
    """Goes wrong at run time."""


class WrongNumber(ValueError):
    """Is found before anything ran."""


class UnusableFile(Broken, InvalidInput):
    """Is both of a tree of failures and what a person gave."""


class Sizes(BaseModel):
    first: int
    second: int


def refusal_of_a_model() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Sizes.model_validate({"first": "secret", "second": "secret"})
    return caught.value


FULL_DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "state.bin")


@pytest.mark.parametrize(
    ("error", "message", "exit_code"),
    [
        (InvalidInput("clients[0]: no name"), "clients[0]: no name", 2),
        (UnusableFile("worker.toml: no name"), "worker.toml: no name", 2),
        (Broken("the server is gone"), "the server is gone", 1),
        (Broken("the server is gone\nand\nso on"), "the server is gone", 1),
        (WrongNumber("port -1"), "port -1", 2),
        (FULL_DISK, "[Errno 28] No space left on device: 'state.bin'", 1),
        (FileNotFoundError("weights.bin"), "weights.bin", 1),
        (ConnectionRefusedError("nobody listens"), "nobody listens", 1),
        (
            refusal_of_a_model(),
            "first: Input should be a valid integer, unable to parse string as an integer",
            2,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_a_user_can_cause_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], error: Exception, message: str, exit_code: int
) -> None:
    with pytest.raises(typer.Exit) as end, one_line_errors(Broken, ValueError):
        raise error
    assert end.value.exit_code == exit_code
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_a_kind_of_value_error_that_is_expected_by_itself_is_a_failure() -> None:
    """Bytes that cannot be read were found while it ran, whatever class says so."""
    with pytest.raises(typer.Exit) as end, one_line_errors(WrongNumber):
        raise WrongNumber("not what was written")
    assert end.value.exit_code == 1


def test_the_exit_codes_are_those_of_unknown_options_and_of_failures() -> None:
    assert (INVALID_INPUT, FAILED) == (2, 1)


@pytest.mark.parametrize(
    "error",
    [
        Broken("not among those that this command expects"),
        ValueError("a mistake of ours"),
        KeyError("a mistake of ours"),
        RuntimeError("a mistake of ours"),
        KeyboardInterrupt(),
        SystemExit(3),
        typer.Exit(4),
    ],
    ids=repr,
)
def test_what_nobody_expects_passes_through(
    capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught, one_line_errors(WrongNumber):
        raise error
    assert caught.value is error
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("module", ["torch", "torch.nn", "torchvision.models", "timm", "PIL.Image"])
def test_a_missing_package_of_the_worker_names_the_extra(
    capsys: pytest.CaptureFixture[str], module: str
) -> None:
    with pytest.raises(typer.Exit) as end, one_line_errors():
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert end.value.exit_code == 1
    said = "error: this command needs the worker's packages: pip install 'hyperfl[worker]'\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("module", ["torchaudio", "shared.no_such_module", None])
def test_another_missing_module_is_a_mistake_of_ours(module: str | None) -> None:
    error = ImportError("cannot import it", name=module)
    with pytest.raises(ImportError) as caught, one_line_errors():
        raise error
    assert caught.value is error


def test_what_succeeds_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with one_line_errors(Broken):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_message_without_an_end_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        fail("\x1b" * 100_000)
    assert len(capsys.readouterr().err) == len("error: ") + 2000 + len("\n")
