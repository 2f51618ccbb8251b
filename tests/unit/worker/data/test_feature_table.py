"""A site's own table of features: read for what is agreed, and all that is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from tests.support.rows import CLASSES, FEATURES, WIDTH
from worker.data.agreed_features import AgreedFeatures
from worker.data.classes import AgreedClasses
from worker.data.client_data import ClientData
from worker.data.feature_survey import row_oddities
from worker.data.feature_table import look_at_feature_table, read_unlabelled
from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError

NAN = float("nan")
HEADER = "bmi,label,sex,age,split"
LINES = ["20,ill,f,30,train", "NA,well,m,50,train", "24,ill,,,train", "22.5,well,x,1e1,test"]
STORED = [[30, 0, 20], [50, 1, NAN], [NAN, NAN, 24]]


def write(folder: Path, *lines: str, header: str = HEADER, **fields: Any) -> DataSource:
    (folder / "rows.csv").write_text("\n".join([header, *(lines or LINES)]) + "\n", "utf-8-sig")
    return source(folder / "rows.csv", **fields)


def source(table: Path, **fields: Any) -> DataSource:
    return DataSource.model_validate({"dataset": "features", "table_file": table} | fields)


def load(of: DataSource) -> ClientData:
    return DatasetCache().client_data(of, (WIDTH,), 2, CLASSES, FEATURES)


def wanted(of: DataSource) -> Wanted:
    return Wanted((WIDTH,), AgreedClasses(CLASSES), features=AgreedFeatures(FEATURES, of.features))


def stored(data: ClientData) -> np.ndarray:
    return data.train._data.images.numpy()


def test_rows_are_read_in_the_federations_order(tmp_path: Path) -> None:
    data = load(write(tmp_path))
    np.testing.assert_array_equal(stored(data), np.array(STORED, np.float32))
    assert data.train.labels.tolist() == [0, 1, 0]
    inputs, _ = data.test.batch(torch.arange(1), torch.device("cpu"))
    assert inputs.tolist() == [[-3, 0, 0, 1, pytest.approx(0.25)]], "by train's mean 40, 22"


def test_other_names_are_mapped_and_other_columns_ignored_by_name(tmp_path: Path) -> None:
    header = "BMI,diagnosis,sex,Alter,split,patient_id"
    lines = [f"{line},p{number}" for number, line in enumerate(LINES)]
    names = {"BMI": "bmi", "Alter": "age", "diagnosis": "label"}
    of = write(tmp_path, *lines, header=header, features=names, ignored_columns=["patient_id"])
    np.testing.assert_array_equal(stored(load(of)), np.array(STORED, np.float32))
    tried = DatasetCache().try_out(of)
    assert len(tried.train) == 3, "before the features are known"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("bmi,label,sex,Age,split", r"no column for 'age' \(closest: Age\); no feature .* 'Age'"),
        ("bmi,label,sex,age,splitt", r"no feature of the federation: 'splitt' \(closest: split"),
        ("bmi,label,age,age,split", r"more than one column is 'age'"),
        ("bmi,Label,sex,age,split", r"no feature of the federation: 'Label' \(closest: label"),
        ("bmi,label,sex,age", r"line 2: expected 4 values, found more"),
    ],
)
def test_a_missing_or_unknown_column_is_named_with_the_closest(
    tmp_path: Path, header: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path, header=header))
    assert "\n" not in str(caught.value)


def test_a_map_to_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"names what is no feature .*'aeg' \(closest: age"):
        load(write(tmp_path, features={"Alter": "aeg"}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("thin,ill,f,30,train", "row 2: column bmi: expected a number, found 'thin'"),
        ("22_5,ill,f,30,train", "row 2: column bmi: expected a number, found '22_5'"),
        ('"22,5",ill,f,30,train', "row 2: column bmi: expected a number, found '22,5'"),
        ("inf,ill,f,30,train", "row 2: column bmi: expected a number, found 'inf'"),
        ("1e40,ill,f,30,train", "row 2: column bmi: expected a number of at most 1e.30"),
        ("20,ill,F,30,train", "row 2: column sex: expected one of its .* f, m, x, found 'F'"),
        ("20,ill,NA,30,train", "row 2: column sex: expected one of its categories"),
        ("20,,f,30,train", "row 2: expected a label, found none"),
        ("20,ill,f,30,trian", "row 2: expected a split of train, test, .* found 'trian'"),
        ("20,il,f,30,train", r"no class of the federation: 'il' \(closest: ill"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_row_and_column(
    tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path, line, *LINES[1:]))
    assert "\n" not in str(caught.value)


def test_many_such_values_are_counted_after_the_first(tmp_path: Path) -> None:
    of = write(tmp_path, *["thin,ill,f,old,train"] * 14)
    faults = look_at_feature_table(of, wanted(of)).faults
    assert len(faults) == 2 * 11
    assert faults[10].endswith("column age: and 4 more such values")
    with pytest.raises(DataError, match="22 values, rows or columns cannot be used"):
        load(of)


def test_groups_stay_whole_in_a_drawn_split(tmp_path: Path) -> None:
    lines = [f"{20 + n},{CLASSES[n % 2]},f,{n},patient-{n // 3}" for n in range(30)]
    of = write(tmp_path, *lines, header="bmi,label,sex,age,group", test_fraction=0.2, seed=3)
    data, again = load(of), load(of)
    assert stored(data).tolist() == stored(again).tolist()
    ages = [set(one._data.images[:, 0].int().tolist()) for one in (data.train, data.test)]
    assert len(ages[1]) == 6
    assert not {age // 3 for age in ages[0]} & {age // 3 for age in ages[1]}
    held = of.model_copy(update={"validation_fraction": 0.25})
    validation = load(held).validation
    assert validation is not None
    assert len(validation) == 6
    straddling = write(tmp_path, "1,ill,f,1,train,p", "1,well,f,2,test,p", header=f"{HEADER},group")
    with pytest.raises(DataError, match="group p lies in more than one split"):
        load(straddling)


def test_a_validation_split_is_not_measured_for_the_mean(tmp_path: Path) -> None:
    lines = [*LINES, "1000,ill,f,1000,validation"]
    data = load(write(tmp_path, *lines))
    assert data.validation is not None
    assert data.train.normalisation[0].tolist() == [40, 0, 22]


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    of = write(tmp_path, "20,ill,f,,train", "20,well,m,,train", "20,ill,f,,test", ",ill,x,,test")
    found = look_at_feature_table(of, wanted(of))
    assert not found.faults
    assert [*row_oddities(found, FEATURES)] == [
        "age: no value in train: it will say nothing",
        "bmi: 1 of 4 values are missing",
        "bmi: one value alone in train: it will say nothing",
        "classes with one row: well",
        "1 rows of test equal one of train: row 4",
    ]
    data = load(of)
    assert torch.isfinite(data.test.batch(torch.arange(2), torch.device("cpu"))[0]).all()


def test_rows_to_classify_need_no_label(tmp_path: Path) -> None:
    of = write(tmp_path, "30,20,f", header="age,bmi,sex")
    rows, numbers = read_unlabelled(tmp_path / "rows.csv", wanted(of), of)
    assert rows.tolist() == [[30, 0, 20]]
    assert numbers == [2]
    write(tmp_path)
    assert len(read_unlabelled(tmp_path / "rows.csv", wanted(of), of)[0]) == 4


def test_a_federation_must_name_its_features(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the federation names no features"):
        DatasetCache().client_data(write(tmp_path), (3,), 2, CLASSES)
    with pytest.raises(DataError, match="the federation's model takes images"):
        DatasetCache().client_data(write(tmp_path), (1, 4, 4), 2, CLASSES)


def test_parquet_says_the_same_whatever_its_types(tmp_path: Path) -> None:
    features = (*FEATURES[::2], FEATURES[1].model_copy(update={"categories": ("1", "2")}))
    columns = {
        "age": [30, None, 50],
        "sex": [1.0, None, 2.0],
        "bmi": [True, False, None],
        "label": ["ill", "well", "well"],
        "split": ["train", "train", "test"],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    of = source(tmp_path / "rows.parquet")
    data = DatasetCache().client_data(of, (4,), 2, CLASSES, features)
    np.testing.assert_array_equal(stored(data), np.array([[30, 1, 0], [NAN, 0, NAN]], np.float32))
