"""Connections by address, and which of them gives way first."""

from __future__ import annotations

from coordinator.serving.open_connections import OpenConnections


def test_connections_are_counted_by_address() -> None:
    connections: OpenConnections[str] = OpenConnections()
    for name, address in (("a", "192.0.2.1"), ("b", "192.0.2.1"), ("c", "192.0.2.2")):
        connections.add(name, address)
    assert len(connections) == 3
    assert [connections.count_from(f"192.0.2.{n}") for n in (1, 2, 3)] == [2, 1, 0]
    connections.remove("a")
    connections.remove("c")
    assert [connections.count_from(f"192.0.2.{n}") for n in (1, 2, 3)] == [1, 0, 0]
    assert len(connections) == 1


def test_who_waits_longest_gives_way_first() -> None:
    connections: OpenConnections[str] = OpenConnections()
    for name in "abcd":
        connections.add(name, "192.0.2.1")
        connections.begin_wait(name)
    connections.end_wait("a")
    connections.remove("b")
    connections.begin_wait("a")
    assert [connections.pop_longest_waiting() for _ in range(4)] == ["c", "d", "a", None]
    assert len(connections) == 3, "they count until they are lost"
