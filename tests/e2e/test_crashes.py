"""Processes killed at the worst moments: the federation ends by itself, with the same weights."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.specification import EncodingPlan, RoundPolicy
from tests.support.federation_folder import finish_federation, make_federation
from worker.specify import build_specification

pytestmark = pytest.mark.e2e

_ROUNDS = 2
_HIDDEN_SIZES = {"factored": 8, "dense": 4096}
"""The dense update is larger than a chunk of the database, so that it can be cut in the middle."""

COORDINATOR_POINTS = (
    "round-opened-uncommitted",
    "round-opened",
    "lease-granted-uncommitted",
    "lease-granted",
    "update-received",
    "update-recorded-uncommitted",
    "update-recorded",
    "aggregation-claimed-uncommitted",
    "aggregation-claimed",
    "weights-written",
    "weights-published-uncommitted",
    "round-committed",
)
DOWNLOAD_POINTS = ("weights-half-downloaded", "weights-downloaded", "weights-obtained")
"""Of whole weights; the other encoding's are rebuilt from deltas."""

WORKER_POINTS = (
    "weights-downloaded",
    "weights-obtained",
    "mid-training",
    "trained",
    "state-saved",
    "update-unanswered",
    "update-confirmed",
)
_ALWAYS_RUN = ("update-recorded", "weights-written", "update-unanswered")

Undisturbed = dict[str, tuple[Path, str]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    """By encoding: the folder of a federation at its start, and the weights it must end with."""
    known: Undisturbed = {}

    def run(encoding: str) -> tuple[Path, str]:
        if encoding not in known:
            start = tmp_path_factory.mktemp(encoding) / "start"
            asyncio.run(_make(start, encoding))
            whole = start.parent / "whole"
            shutil.copytree(start, whole)
            finished = finish_federation(whole, "steady")
            assert _phases(finished) == _WHOLE
            known[encoding] = (start, finished["weights_digest"])
        return known[encoding]

    return run


_WHOLE = [("train", "committed")] * _ROUNDS + [("evaluate", "committed")]


def _phases(finished: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["kind"], one["phase"]) for one in finished["rounds"]]


async def _make(folder: Path, encoding: str) -> None:
    specification = build_specification(
        "steady",
        method="hyperfl",
        model="tests.support.extractors:tiny",
        image_shape=(1, 4, 4),
        num_classes=10,
        hyperparameters={"hidden_size": _HIDDEN_SIZES[encoding], "epochs": 1},
        round_policy=RoundPolicy(rounds=_ROUNDS, lease_seconds=5.0),
        encoding=EncodingPlan.model_validate({"name": encoding}),
        seed=1,
    )
    await make_federation(folder, specification, "site-a", 'dataset = "digits"')


def _points(*names: str) -> list[Any]:
    return [
        pytest.param(name, marks=[] if name in _ALWAYS_RUN else pytest.mark.slow) for name in names
    ]


def _finish_after_crash(start: Path, folder: Path, point: str) -> dict[str, Any]:
    shutil.copytree(start, folder / "site")
    return finish_federation(folder / "site", "steady", point)


@pytest.mark.parametrize("point", _points(*COORDINATOR_POINTS))
def test_a_coordinator_is_killed_and_nothing_is_lost_or_counted_twice(
    undisturbed: Callable[[str], tuple[Path, str]], tmp_path: Path, point: str
) -> None:
    start, digest = undisturbed("factored")
    finished = _finish_after_crash(start, tmp_path, point)
    assert finished["deaths"] == {"coordinator": 1, "worker": 0}
    assert _phases(finished) == _WHOLE
    assert finished["weights_digest"] == digest


@pytest.mark.slow
def test_a_coordinator_is_killed_in_the_middle_of_an_update(
    undisturbed: Callable[[str], tuple[Path, str]], tmp_path: Path
) -> None:
    start, digest = undisturbed("dense")
    finished = _finish_after_crash(start, tmp_path, "update-half-received")
    assert finished["deaths"] == {"coordinator": 1, "worker": 0}
    assert _phases(finished) == _WHOLE
    assert finished["weights_digest"] == digest


@pytest.mark.parametrize(
    ("encoding", "point"),
    [
        *(pytest.param("factored", *one.values, marks=one.marks) for one in _points(*WORKER_POINTS)),
        *(pytest.param("dense", *one.values, marks=one.marks) for one in _points(*DOWNLOAD_POINTS)),
    ],
)
def test_a_worker_is_killed_and_ends_where_it_would_have(
    undisturbed: Callable[[str], tuple[Path, str]], tmp_path: Path, encoding: str, point: str
) -> None:
    start, digest = undisturbed(encoding)
    finished = _finish_after_crash(start, tmp_path, point)
    assert finished["deaths"] == {"coordinator": 0, "worker": 1}
    assert _phases(finished) == _WHOLE
    assert finished["weights_digest"] == digest
