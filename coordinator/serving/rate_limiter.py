"""Token buckets: how often each of many keys may do something. Pure; the time is passed in."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_KEYS_KEPT = 20_000


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class RateLimiter:
    """Gives every key ``burst`` tokens and ``per_second`` more each second, up to ``burst``.

    The keys used longest ago are forgotten when there are too many, which fills their buckets.
    """

    def __init__(self, per_second: float, burst: float, keys_kept: int = _KEYS_KEPT) -> None:
        self._per_second = per_second
        self._burst = burst
        self._keys_kept = keys_kept
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def spend(self, key: str, now_seconds: float) -> float:
        """Takes a token of ``key``: 0, or without one the seconds until there is one."""
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now_seconds))
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._keys_kept:
            self._buckets.popitem(last=False)
        elapsed = max(0.0, now_seconds - bucket.filled_at)
        bucket.tokens = min(self._burst, bucket.tokens + elapsed * self._per_second)
        bucket.filled_at = now_seconds
        if bucket.tokens < 1.0:
            return (1.0 - bucket.tokens) / self._per_second
        bucket.tokens -= 1.0
        return 0.0

    def knows(self, key: str) -> bool:
        """Whether ``key`` has spent something lately."""
        return key in self._buckets
