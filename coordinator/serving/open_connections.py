"""Who is connected, from where, and who has waited longest without a request. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Connection = TypeVar("Connection", bound=Hashable)


class OpenConnections(Generic[Connection]):
    """The connections of one server."""

    def __init__(self) -> None:
        self._addresses: dict[Connection, str] = {}
        self._per_address: Counter[str] = Counter()
        self._waiting: OrderedDict[Connection, None] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._addresses)

    def add(self, connection: Connection, address: str) -> None:
        """A connection was made."""
        self._addresses[connection] = address
        self._per_address[address] += 1

    def remove(self, connection: Connection) -> None:
        """A connection is lost."""
        address = self._addresses.pop(connection)
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
        self.end_wait(connection)

    def count_from(self, address: str) -> int:
        """How many there are from one address."""
        return self._per_address[address]

    def begin_wait(self, connection: Connection) -> None:
        """The next move is the client's: a request's head is due."""
        self._waiting[connection] = None

    def end_wait(self, connection: Connection) -> None:
        """A whole head has arrived, or none is expected any longer."""
        self._waiting.pop(connection, None)

    def pop_longest_waiting(self) -> Connection | None:
        """Who has waited longest for a head, and waits no more; None if nobody does."""
        return self._waiting.popitem(last=False)[0] if self._waiting else None
