"""Who a site is to other sites: an identity that signs, a key that others encrypt to, one card."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import lru_cache
from typing import Annotated, Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.federation.specification import CLIENT_NAME, FEDERATION_NAME

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
"""32 bytes in base64."""
Signature = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]
"""64 bytes in base64."""

_GROUPS, _GROUP_DIGITS = 12, 5
FINGERPRINT_DIGITS = _GROUPS * _GROUP_DIGITS


def to_text(content: bytes) -> str:
    """Bytes in base64, as every message has them."""
    return base64.b64encode(content).decode()


def to_bytes(text: str) -> bytes:
    """Bytes of base64.

    Raises:
        ValueError: it is none.
    """
    return base64.b64decode(text, validate=True)


def canonical(document: Any) -> bytes:
    """JSON with sorted keys and no spaces: what is hashed and signed."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def statement(purpose: str, document: Any) -> bytes:
    """What is signed: a purpose, so that no signature serves for another, and a document."""
    return f"hyperfl {purpose} 1\n".encode() + canonical(document)


def is_signed(identity: str, signature: str, purpose: str, document: Any) -> bool:
    """Whether an identity (base64) signed a document for a purpose (Ed25519, RFC 8032)."""
    return _verifies(identity, signature, statement(purpose, document))


@lru_cache(maxsize=4096)
def _verifies(identity: str, signature: str, content: bytes) -> bool:
    """Kept: a worker's clients are shown the same cards and joins, round after round."""
    try:
        key = Ed25519PublicKey.from_public_bytes(to_bytes(identity))
        key.verify(to_bytes(signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True


def in_groups(digits: str) -> str:
    """A fingerprint's digits as people read them."""
    return " ".join(
        digits[start : start + _GROUP_DIGITS] for start in range(0, len(digits), _GROUP_DIGITS)
    )


class Card(BaseModel):
    """What a site shows of itself: its public keys, the second signed by the first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    federation: str = Field(pattern=FEDERATION_NAME)
    client: str = Field(pattern=CLIENT_NAME)
    identity: Key
    share_key: Key
    signature: Signature

    @model_validator(mode="after")
    def _check_signature(self) -> Self:
        said = self.model_dump(exclude={"signature"})
        if not is_signed(self.identity, self.signature, "card", said):
            raise ValueError(f"the card of client {self.client} is not signed by its identity")
        return self

    @property
    def fingerprint(self) -> str:
        """Twelve groups of five digits that two people can compare: SHA-256 of both keys."""
        keys = to_bytes(self.identity) + to_bytes(self.share_key)
        digest = hashlib.sha256(b"hyperfl fingerprint 1\n" + keys).digest()
        number = int.from_bytes(digest) % 10**FINGERPRINT_DIGITS
        return in_groups(f"{number:0{FINGERPRINT_DIGITS}d}")


class SiteKeys:
    """A client's long-term private keys."""

    def __init__(self, identity: Ed25519PrivateKey, share_key: X25519PrivateKey) -> None:
        self._identity = identity
        self.share_key = share_key

    @classmethod
    def generate(cls) -> Self:
        """New keys from the system's entropy."""
        return cls(Ed25519PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def from_text(cls, identity: str, share_key: str) -> Self:
        """Keys of 32 bytes in base64.

        Raises:
            ValueError: they are none.
        """
        return cls(
            Ed25519PrivateKey.from_private_bytes(to_bytes(identity)),
            X25519PrivateKey.from_private_bytes(to_bytes(share_key)),
        )

    def to_text(self) -> tuple[str, str]:
        """Identity and share key in base64: secrets."""
        return (
            to_text(self._identity.private_bytes_raw()),
            to_text(self.share_key.private_bytes_raw()),
        )

    def sign(self, purpose: str, document: Any) -> str:
        """A signature in base64; see :func:`statement`."""
        return to_text(self._identity.sign(statement(purpose, document)))

    def card(self, federation: str, client: str) -> Card:
        """The card of this client in this federation."""
        said = {
            "federation": federation,
            "client": client,
            "identity": to_text(self._identity.public_key().public_bytes_raw()),
            "share_key": to_text(self.share_key.public_key().public_bytes_raw()),
        }
        return Card(**said, signature=self.sign("card", said))
