"""Other clients' cards: which of them people of this site have compared."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from shared.secure_sum.cards import FINGERPRINT_DIGITS, Card, in_groups
from shared.validation import first_fault
from worker.errors import ConfigError, PeerRefused, Refused, RequestFailed
from worker.remote.connection import Transport
from worker.remote.coordinator_api import CoordinatorApi
from worker.remote.patience import Patience
from worker.settings import ClientConfig, WorkerConfig, WorkerSettings
from worker.site import state_lock
from worker.site.coordinator_address import coordinator_address
from worker.site.enrolment import CREDENTIAL_NAME, read_credential
from worker.site.peers import Peers, load_peers, save_peers


class Standing(StrEnum):
    """What a hosted client has made of another's card."""

    TRUSTED = "trusted"
    """People compared it."""
    SEEN = "seen"
    """It was shown before, and nobody compared it."""
    NEW = "new"
    CHANGED = "CHANGED"
    """Another card was shown, or trusted, before."""


@dataclass(frozen=True)
class ListedPeer:
    """Another client as the coordinator shows it to a hosted one.

    Attributes:
        client: the hosted one.
        card: the other's.
        standing: what the first has made of it so far.
    """

    client: str
    card: Card
    standing: Standing


async def list_peers(
    config: WorkerConfig, settings: WorkerSettings, transport: Transport | None = None
) -> list[ListedPeer]:
    """The other clients of the federation, as each hosted client is shown them.

    Raises:
        ConfigError: a client is not enrolled.
        PrivateStateError: what a client has of others cannot be used.
        RequestFailed: the coordinator refuses, or is not reached.
    """
    listed = []
    for client in config.clients:
        peers = load_peers(client.state_dir)
        for card in await _fetch_cards(config, settings, client, transport):
            if card.client != client.name:
                listed.append(ListedPeer(client.name, card, _standing(peers, card)))
    return listed


def trust_card(config: WorkerConfig, file: Path) -> tuple[Card, list[str]]:
    """Pins the card in ``file`` for every hosted client that is another than the card's.

    Returns:
        The card, and the names of those clients.

    Raises:
        ConfigError: the file has no card, or one that is of no use here.
        PrivateStateError: a worker is using a client, or what it has of others cannot be used.
    """
    try:
        card = Card.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{file} is not a card: {first_fault(error)}") from error
    if card.federation != config.federation:
        raise ConfigError(
            f"{file} is a card of federation {card.federation}, and this worker takes part in "
            f"{config.federation}"
        )
    return card, _pin(config, card)


async def verify_peer(
    config: WorkerConfig,
    settings: WorkerSettings,
    name: str,
    fingerprint: str,
    transport: Transport | None = None,
) -> tuple[Card, list[str]]:
    """Pins the card that the coordinator shows of client ``name``, if it has this fingerprint.

    Returns:
        The card, and the names of the hosted clients that trust it now.

    Raises:
        ConfigError: it is no fingerprint, or the first hosted client is not enrolled.
        PeerRefused: there is no such card, or it has another fingerprint.
        PrivateStateError: a worker is using a client, or what it has of others cannot be used.
        RequestFailed: the coordinator refuses, or is not reached.
    """
    digits = "".join(fingerprint.split())
    if len(digits) != FINGERPRINT_DIGITS or not (digits.isascii() and digits.isdigit()):
        raise ConfigError(
            f"a fingerprint has {FINGERPRINT_DIGITS} digits, and this has {len(digits)} "
            f"characters: {fingerprint!r}"
        )
    cards = await _fetch_cards(config, settings, config.clients[0], transport)
    card = next((card for card in cards if card.client == name), None)
    if card is None:
        shown = ", ".join(card.client for card in cards) or "none"
        raise PeerRefused(f"the coordinator shows no card of client {name}; it shows {shown}")
    if card.fingerprint != in_groups(digits):
        raise PeerRefused(
            f"not trusted: the coordinator shows client {name} with fingerprint "
            f"{card.fingerprint}, and you gave {in_groups(digits)}"
        )
    return card, _pin(config, card)


def _pin(config: WorkerConfig, card: Card) -> list[str]:
    others = [client for client in config.clients if client.name != card.client]
    if not others:
        raise ConfigError(
            f"the card is of client {card.client}, this worker's own: nobody else here can trust it"
        )
    with ExitStack() as stack:
        for client in others:
            stack.enter_context(state_lock.locked(client.state_dir))
        before = [load_peers(client.state_dir) for client in others]
        for client, peers in zip(others, before, strict=True):
            save_peers(client.state_dir, peers.trust(card))
    return [client.name for client in others]


def _standing(peers: Peers, card: Card) -> Standing:
    known = peers.known.get(card.client)
    if known is None:
        return Standing.NEW
    if known.card != card:
        return Standing.CHANGED
    return Standing.TRUSTED if known.is_trusted else Standing.SEEN


async def _fetch_cards(
    config: WorkerConfig,
    settings: WorkerSettings,
    client: ClientConfig,
    transport: Transport | None,
) -> Iterable[Card]:
    file = client.state_dir / CREDENTIAL_NAME
    if not file.exists():
        raise ConfigError(f"client {client.name} is not enrolled, so it has no credential yet")
    address = coordinator_address(config, settings, transport)
    api = CoordinatorApi(address, read_credential(file))
    try:
        return await Patience(settings.give_up_after_seconds, is_found=False).insist(
            "fetching the federation's cards", lambda: api.fetch_cards(config.federation)
        )
    except Refused as refusal:
        raise RequestFailed(f"client {client.name}: {refusal.problem.detail}") from refusal
    finally:
        await api.close()
