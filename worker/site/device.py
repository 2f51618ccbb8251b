"""Where training runs: the one place that reads ``HYPERFL_DEVICE``."""

from __future__ import annotations

import re
from importlib.metadata import version

import torch

from shared.rest.worker_about import MAX_ABOUT, WorkerAbout
from shared.terminal.redaction import cut
from worker.errors import ConfigError

_NAMED = r"cpu|cuda(?::(\d{1,3}))?"


def find_devices(names: str) -> tuple[torch.device, ...]:
    """The devices of names with commas between: ``cpu``, ``cuda``, ``cuda:1``.

    ``auto``, by itself, takes CUDA where it is. The first does what is not training.

    Raises:
        ConfigError: one is none of these, or this machine has no such GPU.
    """
    if names == "auto":
        return (torch.device("cuda" if torch.cuda.is_available() else "cpu"),)
    return tuple(_find_device(name.strip()) for name in names.split(","))


def _find_device(name: str) -> torch.device:
    named = re.fullmatch(_NAMED, name)
    if named is None:
        raise ConfigError(
            "HYPERFL_DEVICE must be auto, or cpu, cuda or cuda:NUMBER with commas between, not "
            f"{name}"
        )
    if name == "cpu":
        return torch.device(name)
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(named.group(1) or 0) >= number:
        found = f"{number} GPUs" if number else "no GPU that PyTorch can use"
        raise ConfigError(f"HYPERFL_DEVICE is {name}, and this machine has {found}")
    return torch.device(name)


def about_worker(device: torch.device) -> WorkerAbout:
    """What a worker says of itself: its version, PyTorch's, and the kind of its device."""
    name = device.type
    if device.type == "cuda":
        name = f"cuda, {torch.cuda.get_device_name(device)}"
    return WorkerAbout(
        worker_version=cut(version("hyperfl"), MAX_ABOUT),
        torch_version=cut(torch.__version__, MAX_ABOUT),
        device=cut(name, MAX_ABOUT),
    )
