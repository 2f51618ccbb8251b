"""The messages of a secure sum, and what they bind: after Bonawitz et al., CCS 2017. Pure.

PROTOCOL.md, section "Secure sum", is normative.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.federation.protection_plan import LARGEST_COHORT, SMALLEST_COHORT, threshold_of
from shared.federation.specification import CLIENT_NAME, FEDERATION_NAME
from shared.secure_sum.cards import Card, Key, Signature, canonical, is_signed, to_bytes, to_text
from shared.secure_sum.shamir import PRIME, SHARE_BYTES
from shared.validation import MAX_COUNT

_DIGEST = r"^sha256:[0-9a-f]{64}$"
Digest = Annotated[str, Field(pattern=_DIGEST)]
Name = Annotated[str, Field(pattern=CLIENT_NAME)]
CHECK_BYTES = 12
Check = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{16}$")]
"""The first 12 bytes of a SHA-256 in base64: nobody finds another secret with the same."""
Share = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{44}$")]
"""A share of :data:`SHARE_BYTES` bytes, big-endian, in base64."""
SEALED_BYTES = 12 + 2 * SHARE_BYTES + 16
Sealed = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{126}==$")]
"""A nonce (12 bytes), two shares and a tag (16 bytes): ChaCha20-Poly1305 (RFC 8439)."""
_Names = Annotated[tuple[Name, ...], Field(max_length=LARGEST_COHORT)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Terms(_Message):
    """What every member of a round's cohort takes part in; whatever is sent is bound to its digest.

    ``cohort`` is in order of client names. A member's share is the polynomial's value at its place,
    counted from 1.
    """

    federation: str = Field(pattern=FEDERATION_NAME)
    specification_digest: Digest
    round_number: int = Field(ge=1, le=MAX_COUNT)
    kind: Literal["train", "evaluate"]
    base_version: int = Field(ge=0, le=MAX_COUNT)
    base_digest: Digest
    threshold: int = Field(ge=1, le=LARGEST_COHORT)
    cohort: tuple[Card, ...] = Field(min_length=SMALLEST_COHORT, max_length=LARGEST_COHORT)

    @model_validator(mode="after")
    def _check_cohort(self) -> Self:
        names = [card.client for card in self.cohort]
        if names != sorted(set(names)):
            raise ValueError("the cohort is not in order of distinct names")
        if len({card.identity for card in self.cohort}) != len(names):
            raise ValueError("two clients of the cohort have one identity")
        if any(card.federation != self.federation for card in self.cohort):
            raise ValueError("a card is of another federation")
        if self.threshold != threshold_of(len(names)):
            raise ValueError(
                f"the threshold is {self.threshold}, not {threshold_of(len(names))} "
                f"of {len(names)} clients"
            )
        return self

    @cached_property
    def digest(self) -> str:
        """``sha256:<hex>`` of the canonical JSON."""
        return _digest(self.model_dump(mode="json"))

    @property
    def names(self) -> tuple[str, ...]:
        """The cohort's names in order."""
        return tuple(card.client for card in self.cohort)

    def card_of(self, client: str) -> Card | None:
        """The card of one member; None if it is not in the cohort."""
        return self._by_name.get(client)

    @cached_property
    def _by_name(self) -> dict[str, Card]:
        return {card.client: card for card in self.cohort}


class JoinedMember(_Message):
    """What the cohort is shown of a member that joined."""

    client: Name
    mask_key: Key
    """Public, fresh for this round."""
    signature: Signature

    @staticmethod
    def said(terms: str, client: str, mask_key: str) -> dict[str, str]:
        """What the signature is of."""
        return {"terms": terms, "client": client, "mask_key": mask_key}

    def is_signed_under(self, terms: Terms) -> bool:
        """Whether a member of the cohort said this about this round."""
        card = terms.card_of(self.client)
        said = self.said(terms.digest, self.client, self.mask_key)
        return card is not None and is_signed(card.identity, self.signature, "join", said)


class SealedShares(NamedTuple):
    """One member's shares for another, and checks that tell whether they are given back whole.

    A list on the wire: there are many.
    """

    sealed: Sealed
    seed: Check
    """Of the share of the seed: see :func:`share_check`."""
    mask_key: Check


class Join(_Message):
    """Sent first: a fresh mask key, and shares of it and of a seed for every member."""

    generation: int = Field(ge=1, le=MAX_COUNT)
    """Joins that this client's private state has counted: less after it came from a backup."""
    member: JoinedMember
    seed: Check
    """Of the seed of the member's own mask: see :func:`seed_check`."""
    shares: dict[Name, SealedShares] = Field(max_length=LARGEST_COHORT)
    """By receiver; the sender has one for itself."""


class RecordedJoin(_Message):
    """What a coordinator keeps of a join beside the shares."""

    member: JoinedMember
    seed: Check


class Confirmation(_Message):
    """Sent third: this member has seen one set of survivors, and will unmask no other."""

    signature: Signature

    @staticmethod
    def said(terms: str, joined: str, survivors: str) -> dict[str, str]:
        """What the signature is of."""
        return {"terms": terms, "joined": joined, "survivors": survivors}


class Unmasking(_Message):
    """Sent last: for a survivor the share of its seed, for any other of its mask key."""

    shares: dict[Name, Share] = Field(max_length=LARGEST_COHORT)


class ExchangeView(_Message):
    """What a member is shown of its round's exchange: only what the present phase needs of it."""

    terms: Terms | None = None
    """While members join."""
    joined: tuple[JoinedMember, ...] = Field(default=(), max_length=LARGEST_COHORT)
    """While masked updates are sent: in order of name."""
    survivors: _Names = ()
    """While they are confirmed and unmasked: in order of name."""
    sealed: dict[Name, Sealed] = Field(default={}, max_length=LARGEST_COHORT)
    """While the sum is unmasked: for this member, by sender."""
    confirmations: dict[Name, Signature] = Field(default={}, max_length=LARGEST_COHORT)
    """While the sum is unmasked: the signatures, by who confirmed."""


def joined_digest(joined: Sequence[JoinedMember]) -> str:
    """``sha256:<hex>`` of the members that joined, in order of name; mask keys are bound to it."""
    ordered = sorted(joined, key=lambda member: member.client)
    return _digest([member.model_dump(mode="json") for member in ordered])


def survivors_digest(names: Sequence[str]) -> str:
    """``sha256:<hex>`` of the names of the members whose masked updates are summed, in order."""
    return _digest(sorted(names))


def seed_check(terms: str, client: str, seed: bytes) -> str:
    """What a member says of its seed before the coordinator has it."""
    return _check("seed", terms, client, seed)


def share_check(terms: str, sender: str, receiver: str, what: str, share: bytes) -> str:
    """What a sender says of a share: ``what`` is ``seed`` or ``mask-key``."""
    return _check(f"share of {what}", terms, f"{sender}\n{receiver}", share)


def confirms(terms: Terms, client: str, signature: str, joined: str, survivors: str) -> bool:
    """Whether a member of the cohort confirmed just this set of survivors."""
    card = terms.card_of(client)
    said = Confirmation.said(terms.digest, joined, survivors)
    return card is not None and is_signed(card.identity, signature, "confirm", said)


def share_to_number(share: str) -> int:
    """A share as an element of the field.

    Raises:
        ValueError: it is none.
    """
    number = int.from_bytes(to_bytes(share))
    if number >= PRIME:
        raise ValueError("a share is no element of the field")
    return number


def number_to_share(number: int) -> bytes:
    """An element of the field in :data:`SHARE_BYTES` bytes."""
    return number.to_bytes(SHARE_BYTES)


def _digest(document: object) -> str:
    return "sha256:" + hashlib.sha256(canonical(document)).hexdigest()


def _check(purpose: str, terms: str, names: str, secret: bytes) -> str:
    prefix = f"hyperfl {purpose} 1\n{terms}\n{names}\n".encode()
    return to_text(hashlib.sha256(prefix + secret).digest()[:CHECK_BYTES])
