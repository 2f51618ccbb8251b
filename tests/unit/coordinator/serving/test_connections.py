"""How many connections there may be: what the settings say, and what the system allows."""

from __future__ import annotations

import resource

import pytest
from structlog.testing import capture_logs

from coordinator.serving.connections import connection_limits
from coordinator.settings import CoordinatorSettings


def test_no_more_connections_are_taken_than_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    with capture_logs() as logs:
        limits = connection_limits(CoordinatorSettings())
    assert raised == [(4096, 4096)], "as many as the system lets it"
    assert limits.max_connections == 4096 - 15 - 64
    assert limits.max_connections_per_address == limits.max_connections // 2
    assert (logs[0]["max_connections"], logs[0]["open_files"]) == (10_000, 4096)
    with capture_logs() as logs:
        assert connection_limits(CoordinatorSettings(max_connections=10)).max_connections == 10
    assert logs == []


def test_where_no_more_files_may_be_open_those_that_may_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_kind: int, _limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert connection_limits(CoordinatorSettings()).max_connections == 1024 - 15 - 64


@pytest.mark.parametrize(("given", "expected"), [(None, 5), (1, 1), (10, 10)])
def test_an_address_has_half_of_the_connections_unless_the_settings_say_other(
    given: int | None, expected: int
) -> None:
    settings = CoordinatorSettings(max_connections=10, max_connections_per_address=given)
    assert connection_limits(settings).max_connections_per_address == expected
    least = CoordinatorSettings(max_connections=1)
    assert connection_limits(least).max_connections_per_address == 1
