"""Takes the masks off a round's sum: after Bonawitz et al., CCS 2017.

Masked updates are added one at a time, and of the shares some members' are in memory at once, so
memory hardly grows with the cohort. Any members' shares that reach the threshold give the same
secrets, and each secret is compared with what its owner had said of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from coordinator.aggregation.round_updates import RoundUpdates, blob_of, damaged
from coordinator.aggregation.weighted_mean import refuse_overflow
from coordinator.context import Context
from coordinator.errors import AggregationFailed, DamagedBlobError
from coordinator.store import exchange as store
from coordinator.store.tables import RoundRow
from shared.arrays import Array, digest_bytes
from shared.federation.specification import ParameterSpecification
from shared.rest.schema import TaskKind
from shared.secure_sum.cards import to_bytes, to_text
from shared.secure_sum.layout import SumLayout
from shared.secure_sum.masks import RingVector, pair_mask_key, self_mask_key
from shared.secure_sum.messages import (
    RecordedJoin,
    Terms,
    Unmasking,
    joined_digest,
    seed_check,
    share_to_number,
)
from shared.secure_sum.shamir import PRIME, weights_at_zero
from shared.tensors import codec
from shared.tensors.low_rank import Float64

_MESSAGES_AT_A_TIME = 16
"""Of members' shares, of which the largest have 120 kB."""


@dataclass(frozen=True, eq=False)
class CohortSum:
    """What a round's updates sum to.

    Attributes:
        values: (m,) float64: Σ shareᵢ·changeᵢ over all shared tensors, shareᵢ = nᵢ / the cap.
        total_share: Σ shareᵢ.
        metrics: means over those that reported, and ``values_cut``, how many values were over the
            bound.
    """

    values: Float64
    total_share: float
    metrics: dict[str, float]

    def apply_to(self, weights: dict[str, Array], parameters: ParameterSpecification) -> None:
        """Adds the mean change to the float32 weights, in place.

        Raises:
            NonFiniteError: a value exceeds float32.
        """
        start = 0
        for tensor in parameters.tensors:
            change = self.values[start : start + tensor.num_elements] / self.total_share
            start += tensor.num_elements
            base = weights[tensor.name].astype(np.float64)
            with np.errstate(over="ignore"):
                value = (base + change.reshape(tensor.shape)).astype(np.float32)
            refuse_overflow(tensor.name, value)
            weights[tensor.name] = value


async def unmask_sum(context: Context, round_: RoundRow, updates: RoundUpdates) -> CohortSum:
    """The sum of a round's masked updates, which are all of its survivors'.

    Raises:
        AggregationFailed: stored bytes are damaged, or a secret is not what its owner said.
    """
    terms = await context.exchange_views.terms(context.database, round_)
    layout = SumLayout.of(updates.specification, terms.kind, len(terms.cohort), round_.number)
    joined = await _read_joined(context, round_)
    total = layout.zeros()
    for one in updates.contributions:
        try:
            content = await context.blobs.read_whole(blob_of(one))
        except DamagedBlobError as error:
            raise damaged(one) from error
        if not await asyncio.to_thread(_add, total, layout, content, one.digest):
            raise damaged(one)
    survivors = frozenset(one.client_name for one in updates.contributions)
    secrets = await _rebuild_secrets(context, round_, terms, joined)
    masks = Masks(terms, joined, survivors, secrets)
    await asyncio.to_thread(masks.take_off, total)
    return await asyncio.to_thread(_read_sum, updates, layout, total, len(survivors))


def _add(total: RingVector, layout: SumLayout, content: bytearray, digest: str) -> bool:
    """Adds an update; false, and nothing is added, if its bytes are not those recorded."""
    if digest_bytes(content) != digest:
        return False
    wire, _ = codec.decode(content)
    total.add(layout.from_wire(wire))
    return True


async def _read_joined(context: Context, round_: RoundRow) -> list[RecordedJoin]:
    async with context.database.reading() as session:
        messages = await store.list_messages(session, round_.id, TaskKind.JOIN)
    return [RecordedJoin.model_validate_json(content) for _, content in messages]


async def _rebuild_secrets(
    context: Context, round_: RoundRow, terms: Terms, joined: Sequence[RecordedJoin]
) -> dict[str, int]:
    """Of every member that joined its seed if it survived, else its mask key, from the shares."""
    async with context.database.reading() as session:
        senders = await store.list_senders(session, round_.id, TaskKind.UNMASK)
    chosen = senders[: terms.threshold]
    if len(chosen) < terms.threshold:
        raise AggregationFailed(
            f"{len(chosen)} members have given shares; {terms.threshold} are needed"
        )
    points = [terms.names.index(name) + 1 for name in chosen]
    weights = await asyncio.to_thread(weights_at_zero, points)
    secrets = {join.member.client: 0 for join in joined}
    by_sender = dict(zip(chosen, weights, strict=True))
    for start in range(0, len(chosen), _MESSAGES_AT_A_TIME):
        some = chosen[start : start + _MESSAGES_AT_A_TIME]
        async with context.database.reading() as session:
            messages = await store.find_messages(session, round_.id, TaskKind.UNMASK, some)
        for sender, content in messages.items():
            await asyncio.to_thread(_add_shares, secrets, by_sender[sender], content)
    return secrets


def _add_shares(secrets: dict[str, int], weight: int, content: str) -> None:
    shares = Unmasking.model_validate_json(content).shares
    for name, secret in secrets.items():
        secrets[name] = (secret + weight * share_to_number(shares[name])) % PRIME


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks that are left in a sum of the survivors' updates.

    A survivor's own mask is, and the masks that it shared with members that are no survivors.
    """

    terms: Terms
    joined: Sequence[RecordedJoin]
    survivors: frozenset[str]
    secrets: dict[str, int]

    @cached_property
    def _terms_digest(self) -> str:
        return self.terms.digest

    @cached_property
    def _joined_digest(self) -> str:
        return joined_digest([join.member for join in self.joined])

    def take_off(self, total: RingVector) -> None:
        """Takes them off ``total``, in place.

        Raises:
            AggregationFailed: a secret is not what its owner said.
        """
        for join in self.joined:
            client = join.member.client
            secret = self.secrets[client]
            if secret >= 1 << 256:
                raise _unfit(client)
            if client in self.survivors:
                self._take_off_own(total, join, secret.to_bytes(32))
            else:
                self._take_off_shared(total, join, secret.to_bytes(32))

    def _take_off_own(self, total: RingVector, join: RecordedJoin, seed: bytes) -> None:
        client = join.member.client
        if seed_check(self._terms_digest, client, seed) != join.seed:
            raise _unfit(client)
        key = self_mask_key(seed, self._terms_digest, self._joined_digest)
        total.subtract(total.stream_of(key))

    def _take_off_shared(self, total: RingVector, join: RecordedJoin, key: bytes) -> None:
        client, private = join.member.client, X25519PrivateKey.from_private_bytes(key)
        if to_text(private.public_key().public_bytes_raw()) != join.member.mask_key:
            raise _unfit(client)
        for other in (one.member for one in self.joined):
            if other.client not in self.survivors:
                continue
            public, pair = to_bytes(other.mask_key), (client, other.client)
            mask = total.stream_of(
                pair_mask_key(private, public, self._terms_digest, self._joined_digest, pair)
            )
            # The first of a pair adds its mask, the other takes it off; undone the other way.
            if other.client < client:
                total.subtract(mask)
            else:
                total.add(mask)


def _unfit(client: str) -> AggregationFailed:
    return AggregationFailed(
        f"the shares that client {client} made do not give the secret that it said: "
        "revoke the client if that happens again"
    )


def _read_sum(
    updates: RoundUpdates, layout: SumLayout, total: RingVector, num_clients: int
) -> CohortSum:
    num_examples, num_cut, metrics = layout.read_counts(total.counts)
    cap = updates.specification.round_policy.max_examples_weight or 1
    if layout.kind == "evaluate":
        cap = 1
    if not num_clients <= num_examples <= num_clients * cap:
        raise AggregationFailed(
            f"the sum says {num_examples} examples of {num_clients} clients, of which none counts "
            f"more than {cap}: a masked update is not what it should be"
        )
    values = layout.fixed_point.decode(total.values)
    return CohortSum(values, num_examples / cap, metrics | {"values_cut": float(num_cut)})
