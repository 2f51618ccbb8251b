"""Processes killed at the worst moments: the federation ends by itself, with the same weights."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.protection_plan import ProtectionPlan
from shared.federation.specification import EncodingName, EncodingPlan, RoundPolicy
from tests.support.crash_points import points_in_the_code
from tests.support.federation_folder import finish_federation, make_federation
from tests.support.tiny_images import tiny_data, write_tiny_images
from worker.operations.specification import build_specification

pytestmark = pytest.mark.e2e

_ROUNDS = 2


@dataclass(frozen=True)
class _Site:
    """A federation of one worker's clients, who divide the images."""

    encoding: EncodingName
    hidden_size: int
    clients: tuple[str, ...] = ("site-a",)
    protection: ProtectionPlan | None = None
    privacy: PrivacyPlan | None = None


_SITES = {
    "factored": _Site("factored", hidden_size=8),
    # An update is larger than a chunk of the database, so that it can be cut in the middle.
    "dense": _Site("dense", hidden_size=4096),
    "lock-step": _Site("dense", 8, ("site-a", "site-b", "site-c")),
    "secure-sum": _Site("dense", 8, ("site-a", "site-b", "site-c"), ProtectionPlan()),
    "noisy-sum": _Site(
        "dense",
        8,
        ("site-a", "site-b", "site-c"),
        ProtectionPlan(bits=28),
        PrivacyPlan(rounds=_ROUNDS, noise_multiplier=4.0),
    ),
}

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
UPLOAD_POINT = "chunk-written"
"""Of an update that is larger than a chunk."""

DOWNLOAD_POINTS = ("weights-piece-received", "weights-downloaded", "weights-obtained")
"""Of whole weights; the other encoding's are rebuilt from deltas."""

WORKER_POINTS = (
    "weights-downloaded",
    "weights-obtained",
    "step",
    "trained",
    "state-saved",
    "update-unconfirmed",
    "update-confirmed",
)
SUM_COORDINATOR_POINTS = (
    "exchange-recorded-uncommitted:2",
    "exchange-recorded:5",
    "exchange-recorded:8",
    "phase-begun-uncommitted:2",
    "phase-begun:1",
    "phase-begun:2",
    "phase-begun:3",
)
"""Of a secure sum of three clients: the first three messages are joins, then come three
confirmations and three members' shares."""

SUM_WORKER_POINTS = (
    "exchange-saved:2",
    "exchange-saved:5",
    "exchange-saved:8",
    "exchange-answered:5",
)
_ALWAYS_RUN = ("update-recorded", "weights-written", "update-unconfirmed")

Finished = dict[str, Any]
Undisturbed = Callable[[str], tuple[Path, Finished]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """By site: the folder of a federation at its start, and how it must end."""
    known: dict[str, tuple[Path, Finished]] = {}

    def run(site: str) -> tuple[Path, Finished]:
        if site not in known:
            start = tmp_path_factory.mktemp(site) / "start"
            asyncio.run(_make(start, _SITES[site]))
            whole = start.parent / "whole"
            shutil.copytree(start, whole)
            finished = finish_federation(whole, "steady")
            assert _phases(finished) == _WHOLE
            known[site] = (start, finished)
        return known[site]

    return run


_WHOLE = [("train", "committed")] * _ROUNDS + [("evaluate", "committed")]


def _phases(finished: Finished) -> list[tuple[str, str]]:
    return [(one["kind"], one["phase"]) for one in finished["rounds"]]


async def _make(folder: Path, site: _Site) -> None:
    specification = build_specification(
        "steady",
        method="hyperfl",
        model=f"tests.support.extractors:{'tiny' if site.privacy is None else 'one_layer_on_4x4'}",
        image_shape=(1, 4, 4),
        num_classes=10,
        hyperparameters={
            "hidden_size": site.hidden_size,
            "epochs": 1,
            "batch_size": 10,
            "shared_part": "hypernetwork" if site.protection is None else "output-bias",
        },
        round_policy=RoundPolicy(
            rounds=_ROUNDS,
            lease_seconds=5.0,
            minimum_updates=len(site.clients),
            cohort_size=len(site.clients),
            max_examples_weight=None if site.protection is None else 100,
        ),
        encoding=EncodingPlan(name=site.encoding),
        protection=site.protection,
        privacy=site.privacy,
        seed=1,
    )
    write_tiny_images(folder / "images")
    await make_federation(
        folder, specification, site.clients, tiny_data("images", len(site.clients))
    )


def _points(*names: str) -> list[Any]:
    return [
        pytest.param(name, marks=[] if name in _ALWAYS_RUN else pytest.mark.slow) for name in names
    ]


def _finish_after_crash(start: Path, folder: Path, point: str) -> Finished:
    shutil.copytree(start, folder / "site")
    return finish_federation(folder / "site", "steady", point)


def test_every_point_of_the_code_is_tried_and_every_point_tried_is_in_the_code() -> None:
    tried = {*COORDINATOR_POINTS, UPLOAD_POINT, *DOWNLOAD_POINTS, *WORKER_POINTS}
    tried |= {one.partition(":")[0] for one in (*SUM_COORDINATOR_POINTS, *SUM_WORKER_POINTS)}
    assert tried == points_in_the_code()


@pytest.mark.parametrize("point", _points(*COORDINATOR_POINTS))
def test_a_coordinator_is_killed_and_nothing_is_lost_or_counted_twice(
    undisturbed: Undisturbed, tmp_path: Path, point: str
) -> None:
    start, whole = undisturbed("factored")
    finished = _finish_after_crash(start, tmp_path, point)
    assert finished["deaths"] == {"coordinator": 1, "worker": 0}
    assert _phases(finished) == _WHOLE
    assert finished["weights_digest"] == whole["weights_digest"]


@pytest.mark.slow
def test_a_coordinator_is_killed_in_the_middle_of_an_update(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    start, whole = undisturbed("dense")
    finished = _finish_after_crash(start, tmp_path, UPLOAD_POINT)
    assert finished["deaths"] == {"coordinator": 1, "worker": 0}
    assert _phases(finished) == _WHOLE
    assert finished["weights_digest"] == whole["weights_digest"]


@pytest.mark.parametrize(
    ("site", "point"),
    [
        *(
            pytest.param("factored", *one.values, marks=one.marks)
            for one in _points(*WORKER_POINTS)
        ),
        *(pytest.param("dense", *one.values, marks=one.marks) for one in _points(*DOWNLOAD_POINTS)),
    ],
)
def test_a_worker_is_killed_and_ends_where_it_would_have(
    undisturbed: Undisturbed, tmp_path: Path, site: str, point: str
) -> None:
    start, whole = undisturbed(site)
    finished = _finish_after_crash(start, tmp_path, point)
    assert finished["deaths"] == {"coordinator": 0, "worker": 1}
    assert _phases(finished) == _WHOLE
    assert finished["weights_digest"] == whole["weights_digest"]


@pytest.mark.parametrize("point", _points(*SUM_COORDINATOR_POINTS, *SUM_WORKER_POINTS))
def test_whoever_is_killed_during_a_secure_sum_the_weights_are_the_same(
    undisturbed: Undisturbed, tmp_path: Path, point: str
) -> None:
    start, whole = undisturbed("secure-sum")
    finished = _finish_after_crash(start, tmp_path, point)
    assert sorted(finished["deaths"].values()) == [0, 1]
    assert _phases(finished) == _WHOLE
    assert finished["weights_digest"] == whole["weights_digest"]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["trained", "state-saved"])
def test_noise_is_drawn_again_as_it_was_before_a_kill(
    undisturbed: Undisturbed, tmp_path: Path, point: str
) -> None:
    start, whole = undisturbed("noisy-sum")
    finished = _finish_after_crash(start, tmp_path, point)
    assert finished["deaths"] == {"coordinator": 0, "worker": 1}
    assert _phases(finished) == _WHOLE
    assert finished["weights_digest"] == whole["weights_digest"]


_LOCK_STEP_TOLERANCE = 1e-6
"""The largest weights are about 1, of which float32 keeps 1e-7; each of some 15 steps rounds anew,
and passes on what those before it rounded. Training moves the weights a hundred thousand times as
far."""


@pytest.mark.slow
def test_a_worker_is_killed_between_clients_that_it_trains_in_lock_step(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """One client's state is saved, the others begin again without it: sums of other widths."""
    start, whole = undisturbed("lock-step")
    finished = _finish_after_crash(start, tmp_path, "state-saved")
    assert finished["deaths"] == {"coordinator": 0, "worker": 1}
    assert _phases(finished) == _WHOLE
    assert [one["clients"] for one in _events(tmp_path / "site", "worker-0", "work begins")] == [3]
    again = _events(tmp_path / "site", "worker-1", "work begins")
    assert [one["clients"] for one in again] == [2, 3, 3]
    for name, value in whole["weights"].items():
        np.testing.assert_allclose(
            finished["weights"][name], value, rtol=0, atol=_LOCK_STEP_TOLERANCE, err_msg=name
        )


def _events(folder: Path, process: str, event: str) -> list[dict[str, Any]]:
    lines = (folder / f"{process}.log").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry for entry in entries if entry["event"] == event]
