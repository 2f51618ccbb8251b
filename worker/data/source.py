"""Where one client's examples come from."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

PartitionName = Literal["none", "paper", "dirichlet", "iid"]

DatasetName = Literal["digits", "fashion-mnist", "emnist", "cifar10", "cinic10", "image-folder"]
"""Data sets that a name and a folder are enough for."""
OTHER_KINDS = ("table", "arrays", "features")
"""Of a site's own data."""

TABLE_KINDS = ("table", "features")
"""Those of them that a table is read for."""
ROW_KINDS = ("features", "arrays")
"""Those of them that may have rows of features."""

_NAME = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_FUNCTION = re.compile(rf"{_NAME}:{_NAME}")


def is_function(dataset: str) -> bool:
    """Whether a data set is named by the import path of a function that gives it."""
    return _FUNCTION.fullmatch(dataset) is not None


def has_files(dataset: str) -> bool:
    """Whether its images lie in files of their own, or are public; else the site makes arrays."""
    return dataset not in ROW_KINDS and not is_function(dataset)


def has_rows(dataset: str) -> bool:
    """Whether its examples may be rows of features."""
    return dataset in ROW_KINDS or is_function(dataset)


def _check_dataset(name: str) -> str:
    known = (*get_args(DatasetName), *OTHER_KINDS)
    if name not in known and not is_function(name):
        close = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.0))
        raise ValueError(
            f"unknown data set {name!r}; the closest are {close}; "
            "data of your own code are named 'package.module:function'"
        )
    return name


DicomWidth = Annotated[float, Field(gt=1, allow_inf_nan=False)]


class DataSource(BaseModel):
    """Where one client's examples come from (a ``[client.data]`` table of the worker's TOML file).

    Attributes:
        dataset: name of the data set; ``image-folder`` is a site's own images, and
            ``package.module:function`` what the site's own code gives.
        data_dir: folder that holds the data set's files; required for all but ``digits`` and
            functions. A function is called with it where it is given, else with nothing.
        table_file: of ``table``: a CSV or Parquet file that says what the files in ``data_dir``
            are; of ``features``: one that has the rows.
        ignored_columns: of ``features``: columns that are no features, by this site's own names.
        test_fraction: of these two without a column ``split``: how many of the examples are for the
            test, drawn by ``seed``, and by group where there are groups.
        dicom_window: of DICOM files, in place of their own: centre and width of the values that are
            shown, after rescaling.
        partition: ``none`` gives the client the whole data set (a site's own data); the others
            divide a public data set among ``num_clients`` (see ``worker.data.partitions``).
        num_clients: how many clients the partition is cut for.
        client_index: which of them this is, from 0.
        seed: decides what ``dirichlet`` and ``iid`` draw, and which examples ``train_examples``
            and ``test_examples`` keep. Clients of one federation must use the same seed.
        dirichlet_alpha: concentration of ``dirichlet`` over all classes together; smaller is more
            uneven.
        train_examples: training examples of this client; None means the paper's number when the
            partition is ``paper``, otherwise all it gets.
        test_examples: the same for the test split.
        classes: the federation's name of a class by this site's own name of it, such as a folder's,
            where the two differ.
        features: the federation's name of a feature by this site's own name of its column, where
            the two differ.
        validation_fraction: how many of the training examples are kept apart as a validation split,
            drawn by ``seed``, and by group where there are groups. None: the client has that of its
            data set, where it has one.
        augment: random crop and horizontal flip in training; None means as in the paper: for
            CIFAR-10 and CINIC-10 at their own size of 32x32, for nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Annotated[str, AfterValidator(_check_dataset)]
    data_dir: Path | None = None
    table_file: Path | None = None
    ignored_columns: tuple[str, ...] = ()
    test_fraction: float | None = Field(default=None, gt=0, lt=1)
    dicom_window: tuple[float, DicomWidth] | None = None
    partition: PartitionName = "none"
    num_clients: int = Field(default=1, ge=1)
    client_index: int = Field(default=0, ge=0)
    seed: int = Field(default=2022, ge=0)
    dirichlet_alpha: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    train_examples: int | None = Field(default=None, ge=1)
    test_examples: int | None = Field(default=None, ge=1)
    validation_fraction: float | None = Field(default=None, gt=0, lt=1)
    classes: dict[str, str] = Field(default_factory=dict)
    features: dict[str, str] = Field(default_factory=dict)
    augment: bool | None = None

    @model_validator(mode="after")
    def _check_fields_agree(self) -> Self:
        is_table = self.dataset in TABLE_KINDS
        needs_folder = self.dataset not in ("digits", "features") and not is_function(self.dataset)
        if self.data_dir is None and needs_folder:
            raise ValueError(f"data_dir is required for dataset {self.dataset!r}")
        if (self.table_file is None) == is_table:
            raise ValueError("table_file belongs to datasets 'table' and 'features', which need it")
        if self.test_fraction is not None and not is_table:
            raise ValueError("test_fraction belongs to datasets 'table' and 'features'")
        if self.ignored_columns and self.dataset != "features":
            raise ValueError("ignored_columns belongs to dataset 'features'")
        if self.dicom_window is not None and self.dataset not in ("image-folder", "table"):
            raise ValueError("dicom_window belongs to datasets 'image-folder' and 'table'")
        if self.client_index >= self.num_clients:
            raise ValueError(
                f"client_index {self.client_index} is out of range: "
                f"num_clients is {self.num_clients}, so it must be below that"
            )
        if self.partition == "none" and self.num_clients > 1:
            raise ValueError(
                f"partition 'none' would give all {self.num_clients} clients the same examples: "
                "choose 'paper', 'dirichlet' or 'iid', or leave num_clients at 1"
            )
        return self

    def of_whole(self) -> Self:
        """The same without what cuts one client's part: equal for clients that share a data set."""
        return self.model_copy(
            update={
                "data_dir": None if self.data_dir is None else self.data_dir.resolve(),
                "partition": "none",
                "num_clients": 1,
                "client_index": 0,
                "dirichlet_alpha": 0.5,
                "train_examples": None,
                "test_examples": None,
                "validation_fraction": None,
                "augment": None,
            }
        )
