"""A coordinator's clock is set back or ahead in a round: time is lost at most, and no update."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import PROJECT
from tests.support.two_sites import ROUNDS, two_sites

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_CLOCK_FOLDER = PROJECT / "tests" / "support" / "moved_clock"
_HOUR = 3600.0


def _set(file: Path, seconds: float) -> None:
    """In one step, so that nobody reads half a number."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(file)


def _play(folder: Path, moves: list[float]) -> str:
    """The last digest of a federation whose coordinator's clock is moved in every round."""
    clock = folder.parent / "clock"
    _set(clock, 0.0)
    environment = {
        "PYTHONPATH": f"{_CLOCK_FOLDER}:{PROJECT}",
        "MOVED_CLOCK": str(clock),
    }
    with two_sites(folder, **environment) as sites:
        for seconds in moves:
            task = sites.take_task()
            _set(clock, seconds)
            assert sites.http.get("/readyz").status_code == 200
            shown = sites.http.get("/v1/federations", headers=dict(sites.admin))
            assert shown.status_code == 200, shown.text
            answer = sites.send_update(task)
            if answer.status_code not in (200, 201):
                assert answer.status_code == 409, answer.text
                sites.play_round()
        digest = sites.finish()
        log = sites.coordinator.log_file.read_text()
    assert "Traceback" not in log
    return digest


def test_a_clock_that_is_set_back_or_ahead_changes_no_weights(tmp_path: Path) -> None:
    (tmp_path / "steady").mkdir()
    (tmp_path / "moved").mkdir()
    steady = _play(tmp_path / "steady" / "site", [0.0] * ROUNDS)
    assert _play(tmp_path / "moved" / "site", [-_HOUR, -_HOUR / 2, -24 * _HOUR]) == steady
