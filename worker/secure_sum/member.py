"""One member of a secure sum: after Bonawitz et al., CCS 2017, with a coordinator that may lie.

Every step gives a state to save before its message is sent, and the same message again when it is
asked again. Whoever saves and sends in this order never sends two joins, two masked updates, two
confirmations or both kinds of share for one round, whenever it is killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.federation.protection_plan import clients_needed
from shared.secure_sum.cards import Card, SiteKeys, to_bytes, to_text
from shared.secure_sum.masks import RingVector, pair_mask_key, self_mask_key
from shared.secure_sum.messages import (
    Confirmation,
    ExchangeView,
    JoinedMember,
    Terms,
    Unmasking,
    confirms,
    joined_digest,
    survivors_digest,
)
from worker.errors import SumRefused
from worker.secure_sum.drawing import draw_exchange, open_shares
from worker.secure_sum.member_state import MemberState, RoundExchange


@dataclass(frozen=True)
class Member:
    """A site's client in the sums of one federation.

    Attributes:
        keys: long-term.
        card: of these keys.
        specification_digest: of the federation as this site knows it.
        minimum_updates: fewest clients whose updates it lets be summed.
        trusted: names of other clients whose cards people compared.
        minimum_trusted: fewest of them without whom it takes no part.
    """

    keys: SiteKeys
    card: Card
    specification_digest: str
    minimum_updates: int
    trusted: frozenset[str] = frozenset()
    minimum_trusted: int = 0

    def join(self, state: MemberState, terms: Terms) -> MemberState:
        """The state with a join for a round: the one that it has, or a new one.

        Raises:
            SumRefused: the terms are not this federation's, or not those of the same round before.
        """
        self._check_terms(terms)
        newest = state.newest
        if newest is not None and newest.terms.round_number >= terms.round_number:
            joined = newest.terms.round_number
            if joined > terms.round_number:
                raise SumRefused(f"this client has joined round {joined} before", joined)
            if newest.terms != terms:
                raise SumRefused(f"round {joined} had other terms before", joined)
            return state
        generation = state.generation + 1
        exchange = draw_exchange(self.keys, self.card, terms, generation)
        return MemberState(generation=generation, newest=exchange)

    def check_joined(
        self, state: MemberState, round_number: int, joined: Sequence[JoinedMember]
    ) -> None:
        """Looks at who joined, before this member trains for them.

        Raises:
            SumRefused: they are too few, or one of them did not join.
        """
        own = self._own(state, round_number)
        terms = own.terms
        names = [member.client for member in joined]
        if names != sorted(set(names)):
            raise SumRefused("the members that joined are not in order of distinct names")
        self._check_enough("have joined", terms, names)
        for member in joined:
            if not member.is_signed_under(terms):
                raise SumRefused(f"client {member.client} did not sign its join for this round")
        if own.join.member not in joined:
            raise SumRefused("this client's join is not among those that joined")

    def check_task(
        self, state: MemberState, round_number: int, kind: str, base_digest: str
    ) -> None:
        """Holds a task against the terms that all members joined under, before it is begun.

        Weights of one member's own could silence all others in the sum (Pasquini et al., CCS 2022).

        Raises:
            SumRefused: its kind (``train`` or ``evaluate``) or its weights are others.
        """
        terms = self._own(state, round_number).terms
        if terms.kind != kind:
            raise SumRefused(f"the task is to {kind}, where the cohort agreed to {terms.kind}")
        if terms.base_digest != base_digest:
            raise SumRefused("the task's weights are not those that the cohort agreed on")

    def mask(
        self,
        state: MemberState,
        round_number: int,
        joined: Sequence[JoinedMember],
        vector: RingVector,
    ) -> MemberState:
        """Masks ``vector`` in place; the state says that this round has had its update.

        Raises:
            SumRefused: as :meth:`check_joined`, or an update was masked for this round before.
        """
        self.check_joined(state, round_number, joined)
        own = self._own(state, round_number)
        if own.joined_digest is not None:
            raise SumRefused("an update has been masked for this round before")
        digest, name, terms = joined_digest(joined), self.card.client, own.terms.digest
        seed = to_bytes(own.seed)
        vector.add(vector.stream_of(self_mask_key(seed, terms, digest)))
        private = X25519PrivateKey.from_private_bytes(to_bytes(own.mask_key))
        for member in joined:
            if member.client == name:
                continue
            pair = (name, member.client)
            try:
                key = pair_mask_key(private, to_bytes(member.mask_key), terms, digest, pair)
            except ValueError as error:
                raise SumRefused(f"client {member.client}'s mask key is none") from error
            mask = vector.stream_of(key)
            if name < member.client:
                vector.add(mask)
            else:
                vector.subtract(mask)
        names = tuple(member.client for member in joined)
        return _with(state, own.model_copy(update={"joined": names, "joined_digest": digest}))

    def confirm(
        self, state: MemberState, round_number: int, survivors: Sequence[str]
    ) -> MemberState:
        """The state with a confirmation of the survivors that are shown.

        Raises:
            SumRefused: they are too few, did not join, or are others than before.
        """
        own, digest = self._check_survivors(state, round_number, survivors)
        if own.confirmation is not None:
            return state
        said = Confirmation.said(own.terms.digest, own.joined_digest or "", digest)
        confirmation = Confirmation(signature=self.keys.sign("confirm", said))
        update = {"survivors": digest, "confirmation": confirmation}
        return _with(state, own.model_copy(update=update))

    def unmask(self, state: MemberState, round_number: int, view: ExchangeView) -> MemberState:
        """The state with shares: of the survivors' seeds, and of the others' mask keys.

        Raises:
            SumRefused: as :meth:`confirm`; too few survivors confirmed these; or a sealed share is
                not its sender's.
        """
        own, digest = self._check_survivors(state, round_number, view.survivors)
        if own.unmasking is not None:
            return state
        survivors = set(view.survivors)
        confirmed = [
            name
            for name, signature in view.confirmations.items()
            if name in survivors
            and confirms(own.terms, name, signature, own.joined_digest or "", digest)
        ]
        self._check_enough("have confirmed", own.terms, confirmed)
        shares = {}
        for name in own.joined:
            of_seed, of_mask_key = open_shares(self.keys, own.terms, self.card, name, view)
            shares[name] = to_text(of_seed if name in survivors else of_mask_key)
        unmasking = Unmasking(shares=shares)
        update = {"survivors": digest, "unmasking": unmasking}
        return _with(state, own.model_copy(update=update))

    def _check_terms(self, terms: Terms) -> None:
        if terms.federation != self.card.federation:
            raise SumRefused(f"the terms are of federation {terms.federation}")
        if terms.specification_digest != self.specification_digest:
            raise SumRefused("the terms are of another specification")
        if terms.card_of(self.card.client) != self.card:
            raise SumRefused("the terms do not have this client's card")
        self._check_enough("are in the cohort", terms, terms.names)

    def _check_enough(self, what: str, terms: Terms, names: Sequence[str]) -> None:
        needed = clients_needed(len(terms.cohort), self.minimum_updates)
        if len(names) < needed:
            raise SumRefused(f"{len(names)} clients {what}, {needed} are needed")
        trusted = len(self.trusted.intersection(names))
        if trusted < self.minimum_trusted:
            raise SumRefused(
                f"of the clients that {what} this site trusts {trusted}, and policy."
                f"minimum_trusted_peers is {self.minimum_trusted}: compare their fingerprints "
                "with hyperfl worker peers list, verify and trust"
            )

    def _own(self, state: MemberState, round_number: int) -> RoundExchange:
        own = state.newest
        if own is None or own.terms.round_number < round_number:
            raise SumRefused(f"this client did not join round {round_number}")
        if own.terms.round_number > round_number:
            raise SumRefused(f"this client has joined round {own.terms.round_number} meanwhile")
        return own

    def _check_survivors(
        self, state: MemberState, round_number: int, survivors: Sequence[str]
    ) -> tuple[RoundExchange, str]:
        own = self._own(state, round_number)
        if own.joined_digest is None:
            raise SumRefused(f"this client has masked no update for round {round_number}")
        names = list(survivors)
        if names != sorted(set(names)) or not set(own.joined).issuperset(names):
            raise SumRefused("a survivor did not join")
        if self.card.client not in names:
            raise SumRefused("this client is not among the survivors")
        self._check_enough("survive", own.terms, names)
        digest = survivors_digest(names)
        if own.survivors not in (None, digest):
            raise SumRefused("the survivors are others than this client has confirmed")
        return own, digest


def _with(state: MemberState, exchange: RoundExchange) -> MemberState:
    return state.model_copy(update={"newest": exchange})
