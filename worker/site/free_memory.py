"""How much memory a machine or a GPU has left, and a share of it for what may be dropped."""

from __future__ import annotations

from pathlib import Path

import torch

FEATURE_CACHE_SHARE = 0.25
"""Of free memory, for frozen features: clients' steps and other processes need the rest."""
_UNKNOWN_BYTES = 4 << 30


def default_feature_cache_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """A share of what is free now where training runs: on the GPU, or in main memory.

    Args:
        device: that trains.
        root: see :func:`free_main_memory_bytes`.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = free_main_memory_bytes(root)
    return int(FEATURE_CACHE_SHARE * free)


def free_main_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes that the kernel can give, within a container's limit; 4 GiB where nothing says.

    Args:
        root: of the file system that has ``proc`` and ``sys``.
    """
    known = [_available(root / "proc/meminfo"), _left_of_limit(root / "sys/fs/cgroup")]
    return min((free for free in known if free is not None), default=_UNKNOWN_BYTES)


def _available(file: Path) -> int | None:
    for line in _read(file).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return 1024 * int(value.split()[0])
    return None


def _left_of_limit(folder: Path) -> int | None:
    limit, used = _read(folder / "memory.max").strip(), _read(folder / "memory.current").strip()
    if not limit.isdigit() or not used.isdigit():  # "max" is no limit
        return None
    return max(0, int(limit) - int(used))


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
