"""What others say reaches no terminal as anything but text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from shared.terminal.failures import fail
from shared.terminal.logs import configure_logging
from shared.terminal.printable import printable
from shared.terminal.tables import print_table

HOSTILE = {
    "\x1b[2J": "\\x1b[2J",
    "\x1b]8;;file:///etc/passwd\x07": "\\x1b]8;;file:///etc/passwd\\x07",
    "\x9b31m": "\\x9b31m",
    "\rall is well": "\\rall is well",
    "a\nerror: b": "a\\nerror: b",
    "\x7f\x08": "\\x7f\\x08",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u2066\u200b\ufeff": "\\u2066\\u200b\\ufeff",
    "\u2028\x85": "\\u2028\\x85",
    "\ud800": "\\ud800",
    "\U000e0041": "\\U000e0041",
}
parametrize_hostile = pytest.mark.parametrize(("said", "printed"), HOSTILE.items(), ids=ascii)


@parametrize_hostile
def test_what_is_no_visible_character_is_written_out(said: str, printed: str) -> None:
    assert printable(said) == printed


@pytest.mark.parametrize("said", ["", "60 rounds", "3×32×32 → θ, „hospitals“", "東京 🏥", "\\x1b"])
def test_what_can_be_seen_stays(said: str) -> None:
    assert printable(said) == said


@parametrize_hostile
def test_a_commands_error_is_one_line_of_text(
    capsys: pytest.CaptureFixture[str], said: str, printed: str
) -> None:
    with pytest.raises(Exception, match="1"):
        fail(said)
    assert capsys.readouterr().err == f"error: {printed}\n"


@parametrize_hostile
def test_a_table_shows_what_a_server_said_as_text(
    capsys: pytest.CaptureFixture[str], said: str, printed: str
) -> None:
    print_table([{"reason": said}], ["reason"])
    assert capsys.readouterr().out.splitlines()[1].rstrip() == printed


def test_a_table_reads_no_markup_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"reason": "[link=file:///etc/passwd]click[/link] [bold]"}], ["reason"])
    assert "[link=file:///etc/passwd]click[/link] [bold]" in capsys.readouterr().out


@pytest.fixture(params=[True, False], ids=["terminal", "file"])
def configured(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """Sets logs up as a command does; within the test, since pytest has handlers of its own."""

    def configure() -> None:
        monkeypatch.setattr(logging.root, "handlers", [])
        monkeypatch.setattr("sys.stderr.isatty", lambda: request.param)
        configure_logging("info")

    yield configure
    structlog.reset_defaults()


@parametrize_hostile
def test_no_line_of_a_log_has_it(
    configured: Callable[[], None], capsys: pytest.CaptureFixture[str], said: str, printed: str
) -> None:
    configured()
    structlog.get_logger().info("refused", detail=said, members={"of": [said]})
    logging.getLogger("other").warning("refused %s", said)
    written = capsys.readouterr().err
    assert said not in written
    assert len(written.splitlines()) == 2


def test_a_traceback_keeps_its_lines_and_nothing_else(
    configured: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    configured()
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        structlog.get_logger().exception("failed")
    written = capsys.readouterr().err
    assert "Traceback" in written
    assert "\x1b[2J" not in written
