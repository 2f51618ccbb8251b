"""Token buckets: what a key may spend at once, and how fast it gets more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.serving.rate_limiter import RateLimiter


def test_a_burst_is_spent_and_then_one_waits_for_the_next_token() -> None:
    limiter = RateLimiter(per_second=2.0, burst=3.0)
    assert [limiter.spend("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_whoever_waits_as_long_as_told_is_served() -> None:
    limiter = RateLimiter(per_second=0.25, burst=1.0)
    assert limiter.spend("a", 10.0) == 0.0
    wait_seconds = limiter.spend("a", 11.0)
    assert wait_seconds == 3.0
    assert limiter.spend("a", 11.0 + wait_seconds) == 0.0


def test_a_refusal_costs_nothing() -> None:
    limiter = RateLimiter(per_second=1.0, burst=1.0)
    limiter.spend("a", 0.0)
    assert [limiter.spend("a", 0.5) for _ in range(100)] == [0.5] * 100
    assert limiter.spend("a", 1.0) == 0.0


def test_a_bucket_fills_no_further_than_the_burst() -> None:
    limiter = RateLimiter(per_second=10.0, burst=2.0)
    limiter.spend("a", 0.0)
    assert [limiter.spend("a", 1e6) for _ in range(3)] == [0.0, 0.0, 0.1]


def test_each_key_has_its_own_bucket() -> None:
    limiter = RateLimiter(per_second=1.0, burst=1.0)
    limiter.spend("a", 0.0)
    assert (limiter.spend("a", 0.0), limiter.spend("b", 0.0)) == (1.0, 0.0)


def test_a_clock_that_is_set_back_gives_nothing_and_takes_nothing() -> None:
    limiter = RateLimiter(per_second=1.0, burst=2.0)
    limiter.spend("a", 100.0)
    assert limiter.spend("a", 50.0) == 0.0
    assert limiter.spend("a", 50.0) == 1.0
    assert limiter.spend("a", 51.0) == 0.0


def test_a_key_is_known_once_it_has_spent() -> None:
    limiter = RateLimiter(per_second=1.0, burst=1.0)
    assert not limiter.knows("a")
    limiter.spend("a", 0.0)
    assert (limiter.knows("a"), limiter.knows("b")) == (True, False)


def test_the_keys_used_longest_ago_are_forgotten() -> None:
    limiter = RateLimiter(per_second=1.0, burst=1.0, keys_kept=2)
    for key in ("a", "b", "a", "c"):
        limiter.spend(key, 0.0)
    assert [limiter.knows(key) for key in "abc"] == [True, False, True]
    assert limiter.spend("b", 0.0) == 0.0, "who is forgotten begins anew"


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60), st.floats(0.1, 5.0))
def test_no_one_is_served_more_often_than_burst_and_rate_allow(
    pauses: list[float], per_second: float
) -> None:
    limiter = RateLimiter(per_second, burst=3.0)
    now, served = 0.0, 0
    for pause in pauses:
        now += pause
        served += limiter.spend("a", now) == 0.0
    assert served <= 3.0 + per_second * now + 1e-6
