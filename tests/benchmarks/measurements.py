"""What a benchmark found, and the page that keeps it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil


@dataclass(frozen=True)
class Measurement:
    """One figure; ``target`` is the most, or with ``at_least`` the least, that it should be."""

    what: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        met = self.value >= self.target if self.at_least else self.value <= self.target
        return "met" if met else "**missed**"

    def row(self) -> str:
        sign = "≥" if self.at_least else "≤"
        target = "" if self.target is None else f"{sign} {self.target:g} {self.unit}".strip()
        return f"| {self.what} | {self.value:.3g} {self.unit} | {target} | {self.verdict} |"


def table(measurements: Sequence[Measurement]) -> str:
    """A markdown table."""
    return "\n".join(
        ["| what | measured | target | |", "|---|---|---|---|", *(m.row() for m in measurements)]
    )


def machine() -> str:
    """The machine in a line."""
    memory = psutil.virtual_memory().total / 2**30
    processor = f"{os.cpu_count()} cores ({platform.machine()})"
    return f"{processor}, {memory:.0f} GiB, Python {platform.python_version()}"


def record(page: Path, group: str, measurements: Sequence[Measurement]) -> None:
    """Replaces the group's part of the page, which stands between two markers."""
    begin, end = f"<!-- measured: {group} -->", "<!-- end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    text = page.read_text()
    day = datetime.now(UTC).date().isoformat()
    part = f"{begin}\n{table(measurements)}\n\nMeasured {day}: {machine()}.\n{end}"
    if not pattern.search(text):
        raise ValueError(f"{page} has no part {begin}")
    page.write_text(pattern.sub(lambda _: part, text))


def medians(repeats: int, **alternatives: Callable[[], float]) -> dict[str, float]:
    """Median of each alternative's figure; they take turns, so that a busy moment hits all."""
    found: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(repeats):
        for name, measure in alternatives.items():
            found[name].append(measure())
    return {name: median(values) for name, values in found.items()}


def peak_memory_mb(pid: int) -> float:
    """The most resident memory that a process ever had, in MB of 10⁶ bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kibibytes) * 1024 / 1e6


def bytes_written(pid: int) -> int:
    """Bytes that a process caused to be written to disk."""
    counters: Any = psutil.Process(pid).io_counters()
    return int(counters.write_bytes)
