"""The other clients' cards as this client first saw them, and which of them people compared.

A card that was not compared is trusted on first use: a coordinator that invents a client, or stands
between two, is not noticed. So only compared cards count towards what the site's policy asks for.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from shared.secure_sum.cards import Card
from worker.errors import PeerChanged
from worker.site import json_file

FILE_NAME = "peers.json"


class Peer(BaseModel):
    """Another client of the federation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: Card
    is_trusted: bool = False
    """Somebody compared its fingerprint, or brought its card."""


class Peers(BaseModel):
    """All other clients that this one has seen, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    known: dict[str, Peer] = Field(default={})

    @property
    def trusted(self) -> frozenset[str]:
        """Names of those whose cards people compared."""
        return frozenset(name for name, peer in self.known.items() if peer.is_trusted)

    def meet(self, cards: Iterable[Card]) -> Peers:
        """The same with those that are new.

        Raises:
            PeerChanged: one shows another card than before.
        """
        known = dict(self.known)
        for card in cards:
            peer = known.setdefault(card.client, Peer(card=card))
            if peer.card != card:
                raise PeerChanged(
                    f"client {card.client} of federation {card.federation} shows other keys than "
                    f"before: fingerprint {card.fingerprint}, before {peer.card.fingerprint}. Ask "
                    "its site; if it has renewed its keys: hyperfl worker peers verify --name "
                    f'{card.client} --fingerprint "{card.fingerprint}"'
                )
        return Peers(known=known)

    def trust(self, card: Card) -> Peers:
        """The same with a card that was compared, in place of any other of its client."""
        return Peers(known=self.known | {card.client: Peer(card=card, is_trusted=True)})


def load_peers(folder: Path) -> Peers:
    """What ``folder`` has of other clients.

    Raises:
        PrivateStateError: the file cannot be used; it is left as it is.
    """
    return json_file.load(folder / FILE_NAME, Peers) or Peers()


def save_peers(folder: Path, peers: Peers) -> None:
    """Replaces what ``folder`` has of other clients."""
    json_file.save(folder / FILE_NAME, peers)
