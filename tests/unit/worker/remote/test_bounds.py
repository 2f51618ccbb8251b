"""What a coordinator asks for is granted within the site's own bounds."""

from __future__ import annotations

import pytest

from shared.tensors import codec
from tests.support.specifications import tiny_specification
from worker.remote.bounds import heartbeat_seconds, retry_after_seconds, weights_bytes


@pytest.mark.parametrize(
    ("header", "granted"),
    [("0", 0.0), ("17", 17.0), ("300", 300.0), ("301", 300.0), ("9" * 400, 300.0)],
)
def test_a_retry_after_is_granted_up_to_five_minutes(header: str, granted: float) -> None:
    assert retry_after_seconds(header) == granted


@pytest.mark.parametrize("header", ["", "-3", "soon", "nan", "²", "1e9", "1.5"])
def test_a_retry_after_that_is_no_number_of_seconds_asks_nothing(header: str) -> None:
    assert retry_after_seconds(header) is None


@pytest.mark.parametrize(
    ("lease", "between"),
    [(1e-9, 1.0), (3.0, 1.0), (120.0, 40.0), (1800.0, 600.0), (86400.0, 600.0)],
)
def test_heartbeats_come_at_a_third_of_the_lease_and_no_faster_than_the_site_likes(
    lease: float, between: float
) -> None:
    assert heartbeat_seconds(lease) == between


def test_weights_fit_with_a_header_of_any_length() -> None:
    parameters = tiny_specification().parameters
    whole = codec.encode(parameters.initial_values())
    assert len(whole) < weights_bytes(parameters) == parameters.size_bytes + (1 << 20) + 8
