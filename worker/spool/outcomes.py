"""What a command of a spool says of each client."""

from __future__ import annotations

from dataclasses import dataclass

from shared.rest.schema import Task


@dataclass(frozen=True)
class Outcome:
    """Where a client's work stands.

    Attributes:
        client: its name.
        round_number: of the work; None where there is none.
        kind: ``train`` or ``evaluate``; None where there is none.
        state: one line for people.
    """

    client: str
    round_number: int | None
    kind: str | None
    state: str

    @classmethod
    def of(cls, task: Task, state: str) -> Outcome:
        """Of a task."""
        return cls(task.client, task.round_number, task.kind.value, state)

    def __str__(self) -> str:
        if self.round_number is None:
            return f"{self.client}: {self.state}"
        return f"{self.client}: round {self.round_number} ({self.kind}), {self.state}"
