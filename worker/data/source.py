"""Where one client's examples come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DatasetName = Literal["digits", "fashion-mnist", "emnist", "cifar10", "cinic10", "image-folder"]
PartitionName = Literal["none", "paper", "dirichlet", "iid"]


class DataSource(BaseModel):
    """Where one client's examples come from (a ``[client.data]`` table of the worker's TOML file).

    Attributes:
        dataset: name of the data set; ``image-folder`` is a site's own images.
        data_dir: folder that holds the data set's files; required for all but ``digits``.
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
        augment: random crop and horizontal flip in training; None means as in the paper: for
            CIFAR-10 and CINIC-10 at their own size of 32x32, for nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetName
    data_dir: Path | None = None
    partition: PartitionName = "none"
    num_clients: int = Field(default=1, ge=1)
    client_index: int = Field(default=0, ge=0)
    seed: int = Field(default=2022, ge=0)
    dirichlet_alpha: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    train_examples: int | None = Field(default=None, ge=1)
    test_examples: int | None = Field(default=None, ge=1)
    classes: dict[str, str] = Field(default_factory=dict)
    augment: bool | None = None

    @model_validator(mode="after")
    def _check_fields_agree(self) -> Self:
        if self.data_dir is None and self.dataset != "digits":
            raise ValueError(f"data_dir is required for dataset {self.dataset!r}")
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
