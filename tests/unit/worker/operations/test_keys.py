"""The site's own keys: made once, shown, renewed with all that hangs on them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.secure_sum.cards import Card, SiteKeys
from shared.secure_sum.messages import Terms
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import first_state, saved_state, worker_config
from tests.support.specifications import tiny_specification
from worker.errors import ConfigError, PrivateStateError
from worker.operations.keys import own_cards, renew_keys
from worker.secure_sum.drawing import draw_exchange
from worker.secure_sum.member_state import MemberState
from worker.site import private_state, state_lock
from worker.site.site_keys import FILE_NAME, load_keys, make_keys, obtain_keys


def a_sum(keys: SiteKeys, card: Card) -> MemberState:
    """What a client keeps after its third join."""
    others = [SiteKeys.generate().card("tiny", name) for name in ("bob", "carol")]
    terms = Terms(
        federation="tiny",
        specification_digest="sha256:" + 64 * "0",
        round_number=3,
        kind="train",
        base_version=0,
        base_digest="sha256:" + 64 * "0",
        threshold=3,
        cohort=(card, *others),
    )
    return MemberState(generation=3, newest=draw_exchange(keys, card, terms, 3))


def test_keys_are_made_once_for_each_client(tmp_path: Path) -> None:
    config = worker_config(tmp_path, "tiny", "alice", "bob")
    cards = own_cards(config)
    assert [(card.client, card.federation) for card in cards] == [
        ("alice", "tiny"),
        ("bob", "tiny"),
    ]
    assert cards[0].identity != cards[1].identity
    assert own_cards(config) == cards


def test_keys_are_shown_while_a_worker_runs(tmp_path: Path) -> None:
    config = worker_config(tmp_path, "tiny", "alice")
    with state_lock.locked(config.clients[0].state_dir):
        assert own_cards(config) == own_cards(config)


def test_whoever_asks_first_makes_the_keys_of_all(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(obtain_keys, [tmp_path / "alice"] * 8))
    assert len({keys.to_text() for keys in found}) == 1


def test_damaged_keys_are_named_and_left_alone(tmp_path: Path) -> None:
    config = worker_config(tmp_path, "tiny", "alice")
    own_cards(config)
    file = tmp_path / "alice" / FILE_NAME
    file.write_text("{}")
    with pytest.raises(PrivateStateError, match=rf"{file} is damaged: identity"):
        own_cards(config)
    assert file.read_text() == "{}"


def test_renewed_keys_are_others_and_the_old_sums_are_forgotten(tmp_path: Path) -> None:
    coordinator = FakeCoordinator(tiny_specification())
    config = worker_config(tmp_path, "tiny", "alice", "bob")
    alice, bob = own_cards(config)
    folder = tmp_path / "alice"
    keys = load_keys(folder)
    assert keys is not None
    before = replace(first_state(coordinator, "alice"), last_round=3, sums=a_sum(keys, alice))
    private_state.save(folder, before)

    card = renew_keys(config, "alice")

    assert card.fingerprint != alice.fingerprint
    assert own_cards(config) == [card, bob]
    after = saved_state(coordinator, tmp_path, "alice")
    assert after is not None
    assert after.sums == MemberState()
    assert (after.seed, after.last_round) == (before.seed, 3)
    np.testing.assert_array_equal(after.tensors["embedding"], before.tensors["embedding"])


def test_a_client_without_a_state_gets_new_keys(tmp_path: Path) -> None:
    config = worker_config(tmp_path, "tiny", "alice")
    (before,) = own_cards(config)
    assert renew_keys(config, "alice") != before


def test_keys_are_not_renewed_under_a_running_worker(tmp_path: Path) -> None:
    config = worker_config(tmp_path, "tiny", "alice")
    before = own_cards(config)
    with (
        state_lock.locked(tmp_path / "alice"),
        pytest.raises(PrivateStateError, match="alice is in use by another worker"),
    ):
        renew_keys(config, "alice")
    assert own_cards(config) == before


def test_a_client_of_another_worker_is_not_renewed(tmp_path: Path) -> None:
    config = worker_config(tmp_path, "tiny", "alice", "bob")
    with pytest.raises(ConfigError, match="hosts no client 'alic'; the closest are alice"):
        renew_keys(config, "alic")


def test_only_their_owner_can_read_the_keys(tmp_path: Path) -> None:
    make_keys(tmp_path)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0
