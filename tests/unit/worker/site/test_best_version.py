"""The best version on disk: whole whatever happens, and named where it is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.arrays import digest_arrays
from worker.errors import PrivateStateError
from worker.site import best_version
from worker.site.best_version import (
    FILE_NAME,
    BestVersion,
    KeptVersion,
    is_better,
    load_best,
    read_best,
    save_best,
)


def kept(version: int, accuracy: float = 0.5, **fields: Any) -> KeptVersion:
    weights = {"w": np.full((2, 3), version, np.float32)}
    about = BestVersion(
        federation="tiny",
        specification_digest="sha256:00",
        client="alice",
        weights_version=version,
        weights_digest=digest_arrays(weights),
        round_number=version + 1,
        accuracy=accuracy,
        loss=1.0,
        num_examples=9,
        examples_digest="sha256:" + 64 * "0",
    ).model_copy(update=fields)
    private = {"head": np.full(3, version, np.float64), "count": np.array(version)}
    return KeptVersion(about, private, weights)


def weights_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("best-weights-*"))


def check(folder: Path, expected: KeptVersion) -> None:
    found = load_best(folder)
    assert found is not None
    assert found.about == expected.about == read_best(folder)
    for ours, theirs in ((found.private, expected.private), (found.weights, expected.weights)):
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            assert array.dtype == theirs[name].dtype
            assert np.array_equal(array, theirs[name])


def test_a_better_one_takes_its_place_and_leaves_no_old_weights(tmp_path: Path) -> None:
    assert (read_best(tmp_path), load_best(tmp_path)) == (None, None)
    for version in (0, 1, 1, 2):
        save_best(tmp_path, kept(version))
        check(tmp_path, kept(version))
        assert len(weights_files(tmp_path)) == 1
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_a_crash_between_the_two_files_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_best(tmp_path, kept(1))
    write = best_version.write_atomically

    def write_weights_alone(file: Path, content: bytes) -> None:
        if file.name == FILE_NAME:
            raise OSError("no space left on device")
        write(file, content)

    monkeypatch.setattr(best_version, "write_atomically", write_weights_alone)
    with pytest.raises(OSError, match="no space left"):
        save_best(tmp_path, kept(2))
    check(tmp_path, kept(1))
    assert len(weights_files(tmp_path)) == 2
    monkeypatch.undo()
    save_best(tmp_path, kept(3))
    check(tmp_path, kept(3))
    assert len(weights_files(tmp_path)) == 1


@pytest.mark.parametrize(
    ("new", "is_taken"), [(0.4, False), (0.5, True), (0.6, True)], ids=["worse", "tie", "better"]
)
def test_a_tie_goes_to_the_newer(new: float, is_taken: bool) -> None:
    assert is_better(kept(2, new).about, kept(1, 0.5).about) is is_taken


def test_what_diverged_is_never_best() -> None:
    assert not is_better(kept(1, 1.0, loss=float("nan")).about, None)
    assert is_better(kept(1, 0.0).about, None)


@pytest.mark.parametrize("file", [FILE_NAME, "weights"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damage_is_named(tmp_path: Path, file: str, damage: str) -> None:
    save_best(tmp_path, kept(1))
    damaged = tmp_path / (file if file == FILE_NAME else weights_files(tmp_path)[0])
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes({"cut": content[:-3], "flipped": content, "empty": b""}[damage])
    with pytest.raises(PrivateStateError, match=rf"{damaged} (is damaged|cannot be used)"):
        load_best(tmp_path)


def test_lost_weights_are_named(tmp_path: Path) -> None:
    save_best(tmp_path, kept(1))
    (tmp_path / weights_files(tmp_path)[0]).unlink()
    with pytest.raises(PrivateStateError, match=r"best-weights-.* cannot be used"):
        load_best(tmp_path)
