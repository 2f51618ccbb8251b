"""The default size of the feature cache: a share of what is free, within a container's limit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worker.site.free_memory import default_feature_cache_bytes, free_main_memory_bytes

MEMINFO = "MemTotal:       32000000 kB\nMemFree:  10 kB\nMemAvailable:   16000000 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4 << 30),
        ({"proc/meminfo": MEMINFO}, 16_000_000 * 1024),
        (
            {
                "proc/meminfo": MEMINFO,
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/memory.current": "5\n",
            },
            16_000_000 * 1024,
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "sys/fs/cgroup/memory.max": "2000\n",
                "sys/fs/cgroup/memory.current": "500\n",
            },
            1500,
        ),
        ({"sys/fs/cgroup/memory.max": "2000", "sys/fs/cgroup/memory.current": "2500"}, 0),
    ],
)
def test_what_is_free_in_main_memory(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert free_main_memory_bytes(tmp_path) == expected


def test_a_share_of_the_training_devices_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40_000, 80_000))
    assert default_feature_cache_bytes(torch.device("cpu"), tmp_path) == 4_000_000 * 1024
    assert default_feature_cache_bytes(torch.device("cuda"), tmp_path) == 10_000
