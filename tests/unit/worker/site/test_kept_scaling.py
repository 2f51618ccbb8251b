"""A client's rows are prepared as they first were, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import RandomDatasets, client_config
from tests.support.rows import random_row_data
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from worker.data.client_data import ClientData
from worker.data.loading import DatasetCache
from worker.errors import PrivateStateError
from worker.remote.coordinator_api import CoordinatorApi
from worker.site import private_state
from worker.site.hosted_client import HostedClient, load_client
from worker.site.kept_scaling import FILE_NAME


class Rows(RandomDatasets):
    """Rows of a seed: another seed is as if the site's table had grown."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def client_data(self, *_: object) -> ClientData:
        return random_row_data(self._seed)


def load(folder: Path, seed: int, federation: str = "tiny") -> HostedClient:
    coordinator = FakeCoordinator(tiny_specification(federation))
    return load_client(
        client_config(folder, "alice"),
        CoordinatorApi(coordinator.address, None),
        coordinator.specification,
        coordinator.specification_digest,
        StubMethod(coordinator.specification.parameters),
        cast(DatasetCache, Rows(seed)),
    )


def kept_file(folder: Path) -> Path:
    return client_config(folder, "alice").state_dir / FILE_NAME


async def test_later_rows_are_prepared_by_the_first_ones_numbers(tmp_path: Path) -> None:
    first = load(tmp_path, 1).data.train.normalisation
    again = load(tmp_path, 2).data
    for examples in (again.train, again.test):
        for found, expected in zip(examples.normalisation, first, strict=True):
            assert torch.equal(found, expected), "the same bits"
    own = random_row_data(2).train.normalisation
    assert not torch.equal(own[0], first[0]), "the new rows' own are others"


async def test_without_a_private_state_the_numbers_are_measured_anew(tmp_path: Path) -> None:
    load(tmp_path, 1)
    (kept_file(tmp_path).parent / private_state.FILE_NAME).unlink()
    found = load(tmp_path, 2).data.train.normalisation[0]
    assert torch.equal(found, random_row_data(2).train.normalisation[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"preprocessing\.json, which the private state belongs to, cannot be read"),
        ("{}", "is damaged: federation: Field required"),
        ("no", "is damaged"),
        ("other client", "is of client bob of another federation"),
        ("fewer", "is damaged: it has another number of features"),
        ("zero", r"is damaged: std\.0: .* greater than 0"),
    ],
)
async def test_other_numbers_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    load(tmp_path, 1)
    file = kept_file(tmp_path)
    text = file.read_text()
    if content is None:
        file.unlink()
    elif content == "other client":
        file.write_text(text.replace('"alice"', '"bob"'))
    elif content == "fewer":
        file.write_text(text.replace(",\n  1.0", ""))
    elif content == "zero":
        start, _, std = text.partition('"std": [')
        file.write_text(f'{start}"std": [\n  0.0,{std.partition(",")[2]}')
    else:
        file.write_text(content)
    with pytest.raises(PrivateStateError, match=message):
        load(tmp_path, 1)
