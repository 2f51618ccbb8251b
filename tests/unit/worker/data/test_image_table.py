"""Images that a table names: read as those in folders are; all that is wrong is named at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from worker.data.client_data import ClientData
from worker.data.loading import DatasetCache, look_at_files
from worker.data.source import DataSource
from worker.data.survey import oddities, survey
from worker.errors import DataError

NAMES = ("bird", "cat", "dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        file = tmp_path / "scans" / f"{number // 4}" / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 5), number).save(file)
    return tmp_path


def table(folder: Path, *lines: str) -> DataSource:
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return source(folder)


def source(folder: Path, file: str = "labels.csv", **fields: Any) -> DataSource:
    base = {"dataset": "table", "data_dir": folder / "scans", "table_file": folder / file}
    return DataSource.model_validate(base | fields)


def load(of: DataSource, names: tuple[str, ...] | None = NAMES) -> ClientData:
    return DatasetCache().client_data(of, (1, 5, 5), len(names or "ab"), names)


def rows(*, label: str = "cat", group: str = "") -> list[str]:
    """Twelve, of two classes in turn; without a split."""
    return [
        f"{number // 4}/{number:02}.png,{(label, 'dog')[number % 2]}{group.format(number)}"
        for number in range(12)
    ]


def first_pixels(examples: Any) -> list[int]:
    """Each image is of one value, its number."""
    images = examples._data.images[examples._positions]
    return [int(one) for one in images[:, 0, 0, 0]]


def test_each_split_has_its_rows(folder: Path) -> None:
    data = load(
        table(
            folder,
            "label,ignored,split,file",
            'cat,"with, comma",train,0/00.png',
            " dog ,,train, 0/01.png",
            "cat,,train,0/02.png",
            "dog,,test,1/04.png",
        )
    )
    assert data.train.labels.tolist() == [1, 1, 2], "in order of labels, then of rows"
    assert first_pixels(data.train) == [0, 2, 1]
    assert (data.test.labels.tolist(), first_pixels(data.test)) == ([2], [4])
    assert data.train.class_names == NAMES


def test_labels_are_mapped_as_folders_are(folder: Path) -> None:
    lines = ["file,label,split", "0/00.png,C,train", "0/01.png,dog,test"]
    mapped = table(folder, *lines).model_copy(update={"classes": {"C": "cat"}})
    assert load(mapped).train.labels.tolist() == [1]
    with pytest.raises(DataError, match=r"labels.csv: no class of the federation: 'C' \(closest"):
        load(table(folder, *lines))


def test_without_agreed_names_there_must_be_as_many(folder: Path) -> None:
    lines = ["file,label,split", "0/00.png,b,train", "0/01.png,a,test"]
    assert load(table(folder, *lines), None).train.class_names == ("a", "b")
    with pytest.raises(DataError, match=r"labels.csv: expected 2 classes, found 1: b"):
        load(table(folder, *lines[:2], "0/01.png,b,test"), None)


def test_a_split_is_drawn_by_the_seed(folder: Path) -> None:
    drawn = table(folder, "file,label", *rows()).model_copy(update={"test_fraction": 0.34})
    data = load(drawn)
    assert (len(data.train), len(data.test)) == (8, 4)
    assert sorted(first_pixels(data.train) + first_pixels(data.test)) == [*range(12)]
    assert data.test.labels.tolist() == [1, 1, 2, 2], "of each class"
    assert first_pixels(load(drawn).test) == first_pixels(data.test)
    other = load(drawn.model_copy(update={"seed": 1}))
    assert first_pixels(other.test) != first_pixels(data.test)


def test_a_drawn_split_keeps_groups_together(folder: Path) -> None:
    groups = [f"{line},patient-{place // 3}" for place, line in enumerate(rows())]
    drawn = table(folder, "file,label,group", *groups)
    data = load(drawn.model_copy(update={"test_fraction": 0.3}))
    assert not {one // 3 for one in first_pixels(data.train)} & {
        one // 3 for one in first_pixels(data.test)
    }
    assert (len(data.train), len(data.test)) == (6, 6)


def test_all_that_is_wrong_with_rows_is_named_at_once(folder: Path) -> None:
    (folder / "scans" / "again.png").hardlink_to(folder / "scans" / "0" / "03.png")
    (folder / "outside.png").touch()
    of = table(
        folder,
        "file,label,split,group",
        "/etc/passwd,cat,train,p1",
        "../outside.png,cat,train,p1",
        "0/gone.png,cat,train,p1",
        "0/00.png,,train,p1",
        "0/03.png,cat,train,p1",
        "again.png,cat,train,p1",
        "0/01.png,cat,test,p1",
        "0/02.png,cat,tset,",
    )
    with pytest.raises(DataError) as caught:
        load(of)
    scans = folder / "scans"
    assert str(caught.value) == f"{folder}/labels.csv: 8 rows cannot be used: " + "; ".join(
        (
            f"row 2: expected a path that begins at {scans}, found /etc/passwd",
            f"row 3: ../outside.png is outside of {scans}",
            f"row 4: there is no file 0/gone.png in {scans}",
            "row 5: expected a file and a label, found '0/00.png' and ''",
            "row 7: again.png is the file of row 6: it would count twice",
            "row 9: expected a split of train, test, validation, found 'tset'",
            "row 9: expected a group, found none",
            "group p1 lies in more than one split: 6 in train, 1 in test",
        )
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["file,label"], "expected rows, found none"),
        ([""], r"expected columns file and label, found \[\]"),
        (["file;label", "a;b"], r"expected columns file and label, found \['file;label'\]"),
        (["file,label,Split", "0/00.png,a,b"], "expected a column 'split' once, found"),
        (["file,label,label", "0/00.png,a,b"], "expected a column 'label' once, found"),
        (["file,label", "0/00.png,a,b"], "line 2: expected 2 values, found more"),
        (["file,label", '0/00.png,"a"b'], "line 2: "),
        (["file,label", "0/00.png,a"], "expected a column split, or test_fraction in"),
        (["file,label,split", "0/00.png,a,train"], "expected rows of split test, found none"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(folder: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DataError, match=rf"labels\.csv: {said}"):
        load(table(folder, *lines))


def test_a_fraction_beside_a_split_is_refused(folder: Path) -> None:
    of = table(folder, "file,label,split", "0/00.png,cat,train", "0/01.png,dog,test")
    with pytest.raises(DataError, match="has a column split, so that test_fraction would"):
        load(of.model_copy(update={"test_fraction": 0.5}))


def test_a_missing_table_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: expected a CSV or Parquet file, found none"):
        load(source(folder, "gone.csv"))


def test_parquet_says_the_same(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "file": ["0/00.png", "0/01.png", "0/02.png"],
        "label": [3, 3, 4],
        "split": ["train", "train", "test"],
        "group": [1.5, float("nan"), None],
    }
    parquet.write_table(pyarrow.table(columns), folder / "labels.parquet")
    with pytest.raises(DataError) as caught:
        load(source(folder, "labels.parquet"))
    assert str(caught.value).endswith(
        "row 2: expected a group, found none; row 3: expected a group, found none"
    )
    del columns["group"]
    parquet.write_table(pyarrow.table(columns), folder / "labels.parquet")
    assert load(source(folder, "labels.parquet"), ("3", "4")).train.labels.tolist() == [0, 0]
    (folder / "labels.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"labels\.parquet: expected Parquet, cannot read it: "):
        load(source(folder, "labels.parquet"))


def test_without_the_extra_parquet_is_refused_with_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (folder / "labels.parquet").touch()
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'hyperfl\[worker,parquet\]'"):
        load(source(folder, "labels.parquet"))


def test_a_survey_reads_the_images_of_a_table(folder: Path) -> None:
    (folder / "scans" / "0" / "01.png").write_bytes(b"no image")
    of = table(
        folder, "file,label,split", *(f"{line},train" for line in rows()[:3]), "1/04.png,dog,test"
    )
    files = look_at_files(of)
    assert files is not None
    found = survey(files, None)
    assert [line for split in found.values() for line in split.faults] == [
        f"{folder}/scans/0/01.png: expected an image, cannot read it: no known format"
    ]
    assert found["train"].counts == {"cat": 2, "dog": 0}
    assert any("one colour" in line for line in oddities(found))
    files = look_at_files(table(folder, "file,label"))
    assert files is not None
    assert [split.faults for split in survey(files, None).values()] == [
        [f"{folder}/labels.csv: expected rows, found none"]
    ]
