"""Test vectors of secure sums, for whoever writes another member or coordinator.

``python -m tests.support.sum_vectors`` writes them to docs/secure-sum-vectors.json.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shared.federation.protection_plan import threshold_of
from shared.secure_sum.cards import SiteKeys, canonical, to_bytes, to_text
from shared.secure_sum.fixed_point import FixedPoint, pack
from shared.secure_sum.masks import RingVector, agree, pair_mask_key, self_mask_key
from shared.secure_sum.messages import (
    Confirmation,
    JoinedMember,
    Terms,
    joined_digest,
    number_to_share,
    seed_check,
    share_check,
    survivors_digest,
)
from shared.secure_sum.shamir import split
from tests.support.processes import PROJECT

FILE = PROJECT / "docs" / "secure-sum-vectors.json"
_NAMES = ("site-a", "site-b", "site-c", "site-d")
_DROPPED = "site-d"
_BITS, _BOUND = 20, 1.0
_VALUES = ((0.5, -0.25, 0.125), (-1.0, 0.0, 1.0), (0.1, 0.2, 0.3))


def _bytes(seed: int, count: int = 32) -> bytes:
    return bytes((seed + index) % 256 for index in range(count))


def make_vectors() -> dict[str, Any]:
    """One round of four members, one of which joins and sends no update."""
    keys = {
        name: SiteKeys.from_text(to_text(_bytes(16 * i)), to_text(_bytes(16 * i + 100)))
        for i, name in enumerate(_NAMES)
    }
    cards = {name: one.card("hospitals", name) for name, one in keys.items()}
    terms = Terms(
        federation="hospitals",
        specification_digest="sha256:" + "1" * 64,
        round_number=7,
        kind="train",
        base_version=6,
        base_digest="sha256:" + "2" * 64,
        threshold=threshold_of(len(_NAMES)),
        cohort=tuple(cards.values()),
    )
    mask_keys = {
        name: X25519PrivateKey.from_private_bytes(_bytes(16 * i + 50))
        for i, name in enumerate(_NAMES)
    }
    seeds = {name: _bytes(16 * i + 150) for i, name in enumerate(_NAMES)}
    public = {name: to_text(one.public_key().public_bytes_raw()) for name, one in mask_keys.items()}
    joined = [
        JoinedMember(
            client=name,
            mask_key=public[name],
            signature=keys[name].sign("join", JoinedMember.said(terms.digest, name, public[name])),
        )
        for name in _NAMES
    ]
    together = joined_digest(joined)
    survivors = [name for name in _NAMES if name != _DROPPED]
    point = FixedPoint.for_clients(_BITS, _BOUND, len(_NAMES))
    masked, total = {}, RingVector.zeros(1, 3, _BITS)
    for index, name in enumerate(survivors):
        values, _ = point.encode(np.array(_VALUES[index]), np.full(3, 0.5))
        vector = RingVector(np.array([10 * (index + 1)], np.uint64), values, _BITS)
        total.add(vector)
        key = self_mask_key(seeds[name], terms.digest, together)
        vector.add(vector.stream_of(key))
        for other in _NAMES:
            if other == name:
                continue
            pair = pair_mask_key(
                mask_keys[name], to_bytes(public[other]), terms.digest, together, (name, other)
            )
            mask = vector.stream_of(pair)
            (vector.add if name < other else vector.subtract)(mask)
        masked[name] = _written(vector)
    shares = _shares(terms, keys, cards, seeds, mask_keys)
    said = Confirmation.said(terms.digest, together, survivors_digest(survivors))
    return {
        "about": "PROTOCOL.md, section Secure sum. Bytes are in base64, keys are 32 bytes.",
        "site_keys": {
            name: dict(zip(("identity", "share_key"), one.to_text(), strict=True))
            for name, one in keys.items()
        },
        "fingerprints": {name: card.fingerprint for name, card in cards.items()},
        "terms": terms.model_dump(mode="json"),
        "terms_canonical": canonical(terms.model_dump(mode="json")).decode(),
        "terms_digest": terms.digest,
        "mask_keys": {name: to_text(one.private_bytes_raw()) for name, one in mask_keys.items()},
        "seeds": {name: to_text(seed) for name, seed in seeds.items()},
        "seed_checks": {name: seed_check(terms.digest, name, seeds[name]) for name in _NAMES},
        "joined": [one.model_dump(mode="json") for one in joined],
        "joined_digest": together,
        "sharing": shares,
        "self_mask_keys": {
            name: to_text(self_mask_key(seeds[name], terms.digest, together)) for name in survivors
        },
        "pair_mask_key_of_site_a_and_site_b": to_text(
            pair_mask_key(
                mask_keys["site-a"],
                to_bytes(public["site-b"]),
                terms.digest,
                together,
                ("site-a", "site-b"),
            )
        ),
        "fixed_point": {"bits": _BITS, "bound": _BOUND, "uniform": 0.5, "values": _VALUES},
        "masked": masked,
        "survivors": survivors,
        "survivors_digest": survivors_digest(survivors),
        "confirmations": {name: keys[name].sign("confirm", said) for name in survivors},
        "sum": _written(total),
    }


def _written(vector: RingVector) -> dict[str, Any]:
    return {
        "counts": vector.counts.tolist(),
        "values": vector.values.tolist(),
        "packed": to_text(pack(vector.values, vector.bits).tobytes()),
    }


def _shares(terms: Terms, keys: Any, cards: Any, seeds: Any, mask_keys: Any) -> dict[str, Any]:
    """What site-a shares out, with the coefficients and the nonce that it drew."""
    coefficients = [int.from_bytes(_bytes(200)), int.from_bytes(_bytes(220))]
    points = range(1, len(_NAMES) + 1)
    mask_key = mask_keys["site-a"].private_bytes_raw()
    of_seed, of_key = (
        split(int.from_bytes(secret), terms.threshold, points, coefficients=coefficients)
        for secret in (seeds["site-a"], mask_key)
    )
    nonce = _bytes(9, 12)
    key = agree(
        keys["site-a"].share_key,
        to_bytes(cards["site-b"].share_key),
        *("share", terms.digest, "site-a", "site-b"),
    )
    seed_share, key_share = (number_to_share(shares[1]) for shares in (of_seed, of_key))
    sealed = nonce + ChaCha20Poly1305(key).encrypt(nonce, seed_share + key_share, None)
    return {
        "sender": "site-a",
        "receiver": "site-b",
        "coefficients": [str(one) for one in coefficients],
        "seed_shares": [to_text(number_to_share(one)) for one in of_seed],
        "mask_key_shares": [to_text(number_to_share(one)) for one in of_key],
        "sealing_key": to_text(key),
        "sealed": to_text(sealed),
        "seed_check": share_check(terms.digest, "site-a", "site-b", "seed", seed_share),
        "mask_key_check": share_check(terms.digest, "site-a", "site-b", "mask-key", key_share),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(make_vectors(), indent=1) + "\n")
