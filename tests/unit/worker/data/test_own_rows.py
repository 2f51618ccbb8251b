"""Arrays of features: read for the federation's features, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.support.rows import CLASSES, FEATURES, WIDTH
from worker.data.client_data import ClientData
from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.errors import DataError

ROWS = np.array([[10, 0, 20], [30, 2, 24], [50, 1, 28], [np.nan, np.nan, 22]])
LABELS = np.array([0, 1, 1, 0])


def load(folder: Path, **fields: Any) -> ClientData:
    source = DataSource.model_validate({"dataset": "arrays", "data_dir": folder} | fields)
    return DatasetCache().client_data(source, (WIDTH,), 2, CLASSES, FEATURES)


def write(folder: Path, **arrays: Any) -> None:
    for split in ("train", "test"):
        np.savez(folder / split, **{"features": ROWS, "labels": LABELS} | arrays)


def stored(data: ClientData) -> np.ndarray:
    return data.train._data.images.numpy()


def test_a_vector_of_numbers_is_standardised_by_the_sites_own_mean(tmp_path: Path) -> None:
    write(tmp_path)
    batch, labels = load(tmp_path).train.batch(torch.arange(4), torch.device("cpu"))
    assert batch.shape == (4, WIDTH)
    torch.testing.assert_close(batch[:, 0].mean(), torch.tensor(0.0))
    assert batch[3, :4].tolist() == [0, 0, 0, 0], "missing"
    assert labels.tolist() == LABELS.tolist()


def test_columns_in_another_order_are_found_by_name(tmp_path: Path) -> None:
    write(tmp_path, features=ROWS[:, [2, 0, 1]], feature_names=np.array(["bmi", "Alter", "sex"]))
    np.testing.assert_array_equal(stored(load(tmp_path, features={"Alter": "age"})), ROWS)
    with pytest.raises(DataError, match=r"no column for 'age' \(closest: Alter\)"):
        load(tmp_path)


def test_safetensors_say_the_same(tmp_path: Path) -> None:
    tensors = {"features": torch.from_numpy(ROWS), "labels": torch.from_numpy(LABELS)}
    for split in ("train", "test"):
        safetensors.torch.save_file(tensors, tmp_path / f"{split}.safetensors")
    np.testing.assert_array_equal(stored(load(tmp_path)), ROWS)


def test_features_that_nobody_has_named_are_numbers(tmp_path: Path) -> None:
    write(tmp_path)
    source = DataSource(dataset="arrays", data_dir=tmp_path)
    data = DatasetCache().client_data(source, (3,), 2)
    assert data.train.batch(torch.arange(4), torch.device("cpu"))[0].shape == (4, 3)
    with pytest.raises(DataError, match="expected 4 features, as the federation has, found 3"):
        DatasetCache().client_data(source, (4,), 2)


def test_before_a_federation_is_known_both_kinds_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    tried = DatasetCache().try_out(DataSource(dataset="arrays", data_dir=tmp_path))
    assert len(tried.train) == 4


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": ROWS[:, :2]}, r"expected 3 features, as the federation has, found 2"),
        ({"features": ROWS[0]}, r"expected features of shape \(N, F\)"),
        ({"features": ROWS[:0]}, "expected rows, found none"),
        ({"features": np.where(ROWS == 2, 3, ROWS)}, "feature sex the places .* 0 to 2, found 3"),
        ({"features": np.where(ROWS == 2, 0.5, ROWS)}, "feature sex the places .* found 0.5"),
        ({"features": np.where(ROWS == 50, np.inf, ROWS)}, "feature age numbers .* found inf"),
        ({"features": ROWS.astype(str)}, r"expected features of shape \(N, F\), numbers, found <U"),
        ({"feature_names": np.array(["age", "sex"])}, "expected 3 feature_names, .* found 2"),
        ({"labels": LABELS[:3]}, "expected 4 labels, one for each example"),
        ({"images": ROWS}, "expected features, labels, and maybe feature_names, groups and class"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    write(tmp_path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_images_and_rows_are_not_taken_for_each_other(tmp_path: Path) -> None:
    write(tmp_path)
    source = DataSource(dataset="arrays", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"expected images, labels, .* found features, labels"):
        DatasetCache().client_data(source, (1, 4, 4), 2)
    folder = DataSource(dataset="image-folder", data_dir=tmp_path)
    with pytest.raises(DataError, match="has images, and the federation's model takes rows"):
        DatasetCache().client_data(folder, (WIDTH,), 2, CLASSES, FEATURES)
    with pytest.raises(DataError, match=r"\[clients.data.features\] is for a federation that has"):
        load_images_with_a_map(tmp_path)


def load_images_with_a_map(folder: Path) -> None:
    source = DataSource(dataset="arrays", data_dir=folder, features={"Alter": "age"})
    DatasetCache().client_data(source, (1, 4, 4), 2)
