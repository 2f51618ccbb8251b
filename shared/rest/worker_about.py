"""What a worker says of itself with a poll: for people to see, and nothing is decided by it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.validation import require_printable

MAX_ABOUT = 64
"""Characters of one text."""

AboutText = Annotated[
    str, Field(min_length=1, max_length=MAX_ABOUT), AfterValidator(require_printable)
]


class WorkerAbout(BaseModel):
    """All of it is left out by workers of before, and may be by others."""

    model_config = ConfigDict(frozen=True)

    worker_version: AboutText | None = None
    torch_version: AboutText | None = None
    device: AboutText | None = None
