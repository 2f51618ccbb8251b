"""How far a client's private state has come, said with polls and updates: a backup has less."""

from __future__ import annotations

import secrets
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from shared.validation import MAX_COUNT

_MARK_BYTES = 16
MARK = r"^[0-9a-f]{0,32}$"


class StateGeneration(BaseModel):
    """Two states with the same number and another mark went on from copies of one.

    Workers of before leave both out, and members of secure sums, which count their joins.
    """

    model_config = ConfigDict(frozen=True)

    generation: Annotated[int, Field(ge=0, le=MAX_COUNT)]
    """Updates that the state was saved with."""
    mark: Annotated[str, Field(pattern=MARK)] = ""
    """Drawn anew for each of them; empty before the first."""

    @classmethod
    def after(cls, generation: int) -> Self:
        """The one after this number, with a mark of its own."""
        return cls(generation=generation + 1, mark=secrets.token_hex(_MARK_BYTES))

    def may_follow(self, known: StateGeneration) -> bool:
        """Whether it is the state that was known before, or has gone on from there."""
        return self.generation > known.generation or self == known


FIRST_GENERATION = StateGeneration(generation=0)
"""Of a state that no update was saved with."""
