"""The rounds that a client has trained, counted once each."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.rest.schema import Task
from tests.support.clock import ManualClock
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.specifications import tiny_specification
from worker.errors import PrivateStateError
from worker.site.round_ledger import FILE_NAME, RoundLedger, load_ledger, save_ledger

DAY_SECONDS = 86400


def task(round_number: int, **changed: str) -> Task:
    coordinator = FakeCoordinator(tiny_specification())
    return coordinator.add_task("alice", round_number).model_copy(update=changed)


def test_rounds_of_the_last_day_are_known_and_all_are_counted() -> None:
    clock, ledger = ManualClock(), RoundLedger()
    for number in (1, 2, 3):
        ledger = ledger.with_round(task(number), clock())
        clock.advance(DAY_SECONDS / 2)
    assert ledger.num_rounds == 3
    assert ledger.num_in_day_before(clock()) == 1
    assert [one.round_number for one in ledger.recent] == [2, 3]


def test_a_round_is_known_again_by_its_number_and_its_weights() -> None:
    ledger = RoundLedger().with_round(task(1), ManualClock()())
    assert ledger.has(task(1))
    assert not ledger.has(task(2))
    assert not ledger.has(task(1, base_digest="sha256:" + 64 * "0"))


def test_a_clock_that_is_set_back_makes_no_room() -> None:
    clock = ManualClock()
    ledger = RoundLedger().with_round(task(1), clock())
    clock.advance(-30 * DAY_SECONDS)
    assert ledger.num_in_day_before(clock()) == 1


def test_what_is_counted_is_found_again(tmp_path: Path) -> None:
    assert load_ledger(tmp_path / "alice") == RoundLedger()
    ledger = RoundLedger().with_round(task(1), ManualClock()())
    save_ledger(tmp_path / "alice", ledger)
    assert load_ledger(tmp_path / "alice") == ledger


def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"num_rounds": -1}')
    with pytest.raises(PrivateStateError, match=r"rounds\.json is damaged: num_rounds"):
        load_ledger(tmp_path)
    assert (tmp_path / FILE_NAME).read_text() == '{"num_rounds": -1}'
