"""What a member draws for a round, and the shares of it that only their receivers can read."""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shared.secure_sum.cards import Card, SiteKeys, to_bytes, to_text
from shared.secure_sum.masks import KEY_BYTES, agree
from shared.secure_sum.messages import (
    ExchangeView,
    Join,
    JoinedMember,
    SealedShares,
    Terms,
    number_to_share,
    seed_check,
    share_check,
)
from shared.secure_sum.shamir import SHARE_BYTES, split
from worker.errors import SumRefused
from worker.secure_sum.member_state import RoundExchange

_NONCE_BYTES = 12


def draw_exchange(keys: SiteKeys, own: Card, terms: Terms, generation: int) -> RoundExchange:
    """Fresh secrets from the system's entropy, and the join that shares them out.

    Raises:
        SumRefused: a member's key is none.
    """
    digest, name = terms.digest, own.client
    private, seed = X25519PrivateKey.generate(), secrets.token_bytes(KEY_BYTES)
    mask_key = private.private_bytes_raw()
    public = to_text(private.public_key().public_bytes_raw())
    points = range(1, len(terms.cohort) + 1)
    seed_shares, key_shares = (
        [number_to_share(share) for share in split(int.from_bytes(s), terms.threshold, points)]
        for s in (seed, mask_key)
    )
    said = JoinedMember.said(digest, name, public)
    member = JoinedMember(client=name, mask_key=public, signature=keys.sign("join", said))
    shares = {
        card.client: SealedShares(
            sealed=to_text(_seal(keys, own, card, digest, seed_share + key_share)),
            seed=share_check(digest, name, card.client, "seed", seed_share),
            mask_key=share_check(digest, name, card.client, "mask-key", key_share),
        )
        for card, seed_share, key_share in zip(terms.cohort, seed_shares, key_shares, strict=True)
    }
    return RoundExchange(
        terms=terms,
        mask_key=to_text(mask_key),
        seed=to_text(seed),
        join=Join(
            generation=generation,
            member=member,
            seed=seed_check(digest, name, seed),
            shares=shares,
        ),
    )


def open_shares(
    keys: SiteKeys, terms: Terms, own: Card, sender: str, view: ExchangeView
) -> tuple[bytes, bytes]:
    """A sender's shares for this member: of its seed, and of its mask key.

    Raises:
        SumRefused: they are missing, or are not the sender's for this round.
    """
    card = terms.card_of(sender)
    if card is None or sender not in view.sealed:
        raise SumRefused(f"client {sender}'s shares are missing")
    content = to_bytes(view.sealed[sender])
    try:
        key = agree(
            keys.share_key,
            to_bytes(card.share_key),
            *("share", terms.digest, sender, own.client),
        )
        nonce, sealed = content[:_NONCE_BYTES], content[_NONCE_BYTES:]
        shares = ChaCha20Poly1305(key).decrypt(nonce, sealed, None)
    except (InvalidTag, ValueError) as error:
        raise SumRefused(f"client {sender}'s shares are not its own") from error
    return shares[:SHARE_BYTES], shares[SHARE_BYTES:]


def _seal(keys: SiteKeys, own: Card, receiver: Card, terms: str, shares: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    try:
        key = agree(
            keys.share_key,
            to_bytes(receiver.share_key),
            *("share", terms, own.client, receiver.client),
        )
    except ValueError as error:
        raise SumRefused(f"client {receiver.client}'s share key is none") from error
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, shares, None)
