"""The site's own keys for secure sums: what others are shown of them, and new ones."""

from __future__ import annotations

from shared.secure_sum.cards import Card
from worker.settings import WorkerConfig
from worker.site import private_state, state_lock
from worker.site.site_keys import make_keys, obtain_keys


def own_cards(config: WorkerConfig) -> list[Card]:
    """The card of each hosted client; makes keys where there are none.

    Raises:
        PrivateStateError: a client's keys cannot be used.
    """
    return [
        obtain_keys(client.state_dir).card(config.federation, client.name)
        for client in config.clients
    ]


def renew_keys(config: WorkerConfig, client: str) -> Card:
    """New keys for one client; returns the card that other sites have to trust.

    What the client has drawn and sent for secure sums is forgotten with the old keys, which alone
    it was bound to. Killed at any point, the command may be repeated.

    Raises:
        ConfigError: this worker hosts no such client.
        PrivateStateError: a worker is using the client, or its state is damaged.
    """
    (found,) = config.only(client).clients
    with state_lock.locked(found.state_dir):
        keys = make_keys(found.state_dir)
        private_state.forget_sums(found.state_dir)
    return keys.card(config.federation, found.name)
