"""A client's state has one worker at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import PrivateStateError
from worker.site import state_lock


def test_a_second_worker_is_kept_away(tmp_path: Path) -> None:
    with (
        state_lock.locked(tmp_path / "state"),
        pytest.raises(PrivateStateError, match="state is in use by another worker") as raised,
        state_lock.locked(tmp_path / "state"),
    ):
        pytest.fail("two workers have the same state")
    assert len(str(raised.value).splitlines()) == 1


def test_a_lock_ends_with_its_worker(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), state_lock.locked(tmp_path):
        raise KeyboardInterrupt
    with state_lock.locked(tmp_path):
        pass


def test_two_clients_are_locked_on_their_own(tmp_path: Path) -> None:
    with state_lock.locked(tmp_path / "site-a"), state_lock.locked(tmp_path / "site-b"):
        pass
