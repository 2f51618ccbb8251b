"""What a member keeps of secure sums: saved before anything is sent. It has secrets."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from shared.secure_sum.messages import Confirmation, Join, Terms, Unmasking


class RoundExchange(BaseModel):
    """What a member has drawn and sent for one round. Its keys are secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    terms: Terms
    mask_key: str
    seed: str
    join: Join
    joined: tuple[str, ...] = ()
    """The members that the masks of this member's one update are shared with."""
    joined_digest: str | None = None
    survivors: str | None = None
    """Digest of the one set of survivors that this member confirmed."""
    confirmation: Confirmation | None = None
    unmasking: Unmasking | None = None


class MemberState(BaseModel):
    """All that a member keeps of secure sums; saved before anything is sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: int = 0
    """Joins so far. A state from a backup has fewer, by which it is known."""
    newest: RoundExchange | None = None
