"""A cohort of members, as far as a test takes a secure sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared.federation.protection_plan import threshold_of
from shared.secure_sum.cards import SiteKeys
from shared.secure_sum.masks import RingVector
from shared.secure_sum.messages import ExchangeView, JoinedMember, Terms
from worker.secure_sum.member import Member
from worker.secure_sum.member_state import MemberState

DIGEST = "sha256:" + "0" * 64
BITS, NUM_COUNTS, NUM_VALUES = 20, 2, 11


def vector_of(seed: int) -> RingVector:
    generator = np.random.default_rng(seed)
    return RingVector(
        generator.integers(0, 2**63, NUM_COUNTS, dtype=np.uint64),
        generator.integers(0, 2**BITS, NUM_VALUES, dtype=np.uint32),
        BITS,
    )


def changed(terms: Terms, changes: Mapping[str, object]) -> Terms:
    """Terms that say something else, whether they can be or not."""
    said = {name: getattr(terms, name) for name in Terms.model_fields}
    return Terms.model_construct(**said | dict(changes))


@dataclass
class Cohort:
    """Members whose messages an honest coordinator carries about; a test makes it lie."""

    members: dict[str, Member]
    states: dict[str, MemberState]
    terms: Terms

    @classmethod
    def of(cls, size: int) -> Cohort:
        keys = {f"site-{index:02d}": SiteKeys.generate() for index in range(size)}
        cards = {name: one.card("hospitals", name) for name, one in keys.items()}
        terms = Terms(
            federation="hospitals",
            specification_digest=DIGEST,
            round_number=1,
            kind="train",
            base_version=0,
            base_digest=DIGEST,
            threshold=threshold_of(size),
            cohort=tuple(cards.values()),
        )
        members = {name: Member(one, cards[name], DIGEST, 3) for name, one in keys.items()}
        return cls(members, dict.fromkeys(members, MemberState()), terms)

    def join(self, names: Sequence[str]) -> list[JoinedMember]:
        for name in names:
            self.states[name] = self.members[name].join(self.states[name], self.terms)
        return [self.exchange(name).join.member for name in names]

    def mask(self, name: str, joined: Sequence[JoinedMember], seed: int) -> RingVector:
        vector = vector_of(seed)
        self.states[name] = self.members[name].mask(self.states[name], 1, joined, vector)
        return vector

    def confirm(self, name: str, survivors: Sequence[str]) -> str:
        self.states[name] = self.members[name].confirm(self.states[name], 1, survivors)
        confirmation = self.exchange(name).confirmation
        assert confirmation is not None
        return confirmation.signature

    def view(
        self,
        name: str,
        joined: Sequence[JoinedMember],
        survivors: Sequence[str],
        confirmations: dict[str, str],
    ) -> ExchangeView:
        sealed = {one.client: self.exchange(one.client).join.shares[name].sealed for one in joined}
        return ExchangeView(survivors=tuple(survivors), confirmations=confirmations, sealed=sealed)

    def unmask(self, name: str, view: ExchangeView) -> dict[str, str]:
        self.states[name] = self.members[name].unmask(self.states[name], 1, view)
        unmasking = self.exchange(name).unmasking
        assert unmasking is not None
        return unmasking.shares

    def exchange(self, name: str):  # type: ignore[no-untyped-def]
        newest = self.states[name].newest
        assert newest is not None
        return newest


@dataclass
class Confirmed:
    """A cohort of five up to its confirmations: all joined, one dropped out before masking."""

    cohort: Cohort
    joined: list[JoinedMember]
    survivors: list[str]
    confirmations: dict[str, str]

    def view(self, name: str = "site-00") -> ExchangeView:
        return self.cohort.view(name, self.joined, self.survivors, self.confirmations)
