"""What a database may take: connections, time, bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatabaseLimits:
    """Bounds of what is waited for and of what is stored; see the settings of the same names."""

    connections: int = 15
    pool_seconds: float = 10.0
    connect_seconds: int = 5
    transaction_seconds: float = 60.0
    max_bytes: int | None = None
