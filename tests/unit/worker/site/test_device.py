"""Which device trains: named, found, or refused in one line."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch

from worker.errors import ConfigError
from worker.site.device import about_worker, find_devices


def has_gpus(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)


@pytest.mark.parametrize(
    ("name", "gpus", "found"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda"),
        ("cpu", 1, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
        ("cuda:1,cuda:0", 2, "cuda:1 cuda:0"),
        ("cpu, cuda", 1, "cpu cuda"),
    ],
)
def test_a_device_that_is_there_is_taken(
    monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, found: str
) -> None:
    has_gpus(monkeypatch, gpus)
    assert [str(device) for device in find_devices(name)] == found.split()


@pytest.mark.parametrize(
    ("name", "gpus", "words"),
    [
        ("cuda", 0, "HYPERFL_DEVICE is cuda, and this machine has no GPU that PyTorch can use"),
        ("cuda:2", 2, "HYPERFL_DEVICE is cuda:2, and this machine has 2 GPUs"),
        ("cuda:0,cuda:2", 2, "HYPERFL_DEVICE is cuda:2, and this machine has 2 GPUs"),
    ],
)
def test_a_gpu_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, words: str
) -> None:
    has_gpus(monkeypatch, gpus)
    with pytest.raises(ConfigError, match=f"^{words}$"):
        find_devices(name)


@pytest.mark.parametrize(
    "name", ["meta", "CPU", "gpu", "cuda:", "cuda:-1", "mps", "", "cpu,meta", "cpu,", "cpu,auto"]
)
def test_no_other_kind_is_taken(name: str) -> None:
    wrong = name.rpartition(",")[2]
    with pytest.raises(ConfigError, match=f"must be auto, or cpu, cuda or .*, not {wrong}$"):
        find_devices(name)


def test_a_worker_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    about = about_worker(torch.device("cpu"))
    assert about.device == "cpu"
    assert (about.worker_version, about.torch_version) == (version("hyperfl"), torch.__version__)
    long_name = "NVIDIA " + "H" * 80 + "\n"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: long_name)
    named = about_worker(torch.device("cuda:0")).device
    assert named is not None
    assert (len(named), named.startswith("cuda, NVIDIA H"), named.isprintable()) == (64, True, True)
