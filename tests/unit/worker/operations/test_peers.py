"""Which cards of other clients a site trusts, and how it comes to."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from shared.secure_sum.cards import Card, SiteKeys
from tests.support.fake_coordinator import FakeCoordinator, credential
from tests.support.hosted_clients import worker_config
from tests.support.specifications import tiny_specification
from worker.errors import ConfigError, PeerRefused, PrivateStateError, RequestFailed
from worker.files import write_atomically
from worker.operations.peers import Standing, list_peers, trust_card, verify_peer
from worker.settings import WorkerConfig, WorkerSettings
from worker.site import state_lock
from worker.site.enrolment import CREDENTIAL_NAME
from worker.site.peers import Peers, load_peers, save_peers


def card_of(client: str, federation: str = "tiny") -> Card:
    return SiteKeys.generate().card(federation, client)


class Site:
    """A worker whose clients are enrolled, and a coordinator that shows some cards."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.coordinator = FakeCoordinator(tiny_specification())
        self.config: WorkerConfig = worker_config(folder, "tiny", *names)
        for name in names:
            (folder / name).mkdir()
            write_atomically(folder / name / CREDENTIAL_NAME, credential(name).encode())

    def show(self, *cards: Card) -> None:
        """To each hosted client, once."""
        content = json.dumps([card.model_dump(mode="json") for card in cards])
        answers = [httpx.Response(200, content=content) for _ in self.config.clients]
        self.coordinator.answer("GET", "/cards", *answers)

    async def list(self) -> list[tuple[str, str, Standing]]:
        found = await list_peers(self.config, WorkerSettings(), self.coordinator.transport)
        return [(one.client, one.card.client, one.standing) for one in found]

    async def verify(self, name: str, fingerprint: str) -> tuple[Card, list[str]]:
        return await verify_peer(
            self.config, WorkerSettings(), name, fingerprint, self.coordinator.transport
        )

    def trusted(self, name: str) -> frozenset[str]:
        return load_peers(self.folder / name).trusted

    def file(self, card: Card) -> Path:
        file = self.folder / "card.json"
        file.write_text(card.model_dump_json())
        return file


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, "alice", "bob")


async def test_each_card_has_the_standing_that_it_has_with_the_hosted_client(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, "alice")
    trusted, seen, new, before = (card_of(name) for name in ("carol", "dave", "erin", "frank"))
    save_peers(tmp_path / "alice", Peers().trust(trusted).meet([seen, before]))
    changed = card_of("frank")
    site.show(card_of("alice"), trusted, seen, new, changed)
    assert await site.list() == [
        ("alice", "carol", Standing.TRUSTED),
        ("alice", "dave", Standing.SEEN),
        ("alice", "erin", Standing.NEW),
        ("alice", "frank", Standing.CHANGED),
    ]


async def test_another_client_of_the_same_worker_is_a_peer_as_any_other(site: Site) -> None:
    site.show(card_of("alice"), card_of("bob"))
    assert await site.list() == [
        ("alice", "bob", Standing.NEW),
        ("bob", "alice", Standing.NEW),
    ]


async def test_peers_are_listed_while_a_worker_runs(site: Site) -> None:
    site.show(card_of("carol"))
    with state_lock.locked(site.folder / "alice"):
        assert len(await site.list()) == 2


async def test_a_client_that_is_not_enrolled_is_shown_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, "alice")
    (tmp_path / "alice" / CREDENTIAL_NAME).unlink()
    with pytest.raises(ConfigError, match="client alice is not enrolled"):
        await site.list()


async def test_a_refusal_names_the_client(site: Site) -> None:
    site.coordinator.revoked.add("alice")
    with pytest.raises(RequestFailed, match="client alice: the token is revoked"):
        await site.list()


def test_a_card_that_people_brought_is_trusted_by_every_hosted_client(site: Site) -> None:
    card = card_of("carol")
    assert trust_card(site.config, site.file(card)) == (card, ["alice", "bob"])
    assert site.trusted("alice") == site.trusted("bob") == {"carol"}


def test_a_card_that_people_brought_replaces_an_older_one(site: Site) -> None:
    save_peers(site.folder / "alice", Peers().trust(card_of("carol")))
    card = card_of("carol")
    trust_card(site.config, site.file(card))
    assert load_peers(site.folder / "alice").known["carol"].card == card


def test_a_card_of_a_hosted_client_is_trusted_by_the_others(site: Site) -> None:
    assert trust_card(site.config, site.file(card_of("alice")))[1] == ["bob"]
    with pytest.raises(ConfigError, match="of client alice, this worker's own"):
        trust_card(site.config.only("alice"), site.file(card_of("alice")))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not a card: Invalid JSON"),
        ("{}", "is not a card: federation: Field required"),
        (card_of("carol", "other").model_dump_json(), "of federation other, and this worker"),
        (
            card_of("carol").model_dump_json().replace('"carol"', '"dave"'),
            "is not a card: the card of client dave is not signed by its identity",
        ),
    ],
)
def test_what_is_no_card_of_the_federation_is_refused(site: Site, content: str, words: str) -> None:
    file = site.folder / "card.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=words):
        trust_card(site.config, file)
    with pytest.raises(ConfigError, match=r"none\.json cannot be read: No such file"):
        trust_card(site.config, site.folder / "none.json")
    assert site.trusted("alice") == frozenset()


def test_no_hosted_client_trusts_a_card_while_a_worker_has_one_of_them(site: Site) -> None:
    with (
        state_lock.locked(site.folder / "bob"),
        pytest.raises(PrivateStateError, match="bob is in use by another worker"),
    ):
        trust_card(site.config, site.file(card_of("carol")))
    assert site.trusted("alice") == frozenset()


@pytest.mark.parametrize("spaces", [" ", "", "  ", "\n"])
async def test_a_fingerprint_that_people_read_out_is_compared_without_its_spaces(
    site: Site, spaces: str
) -> None:
    card = card_of("carol")
    site.show(card_of("alice"), card)
    spoken = spaces.join(card.fingerprint.split())
    assert await site.verify("carol", spoken) == (card, ["alice", "bob"])
    assert site.trusted("alice") == site.trusted("bob") == {"carol"}


async def test_another_fingerprint_is_refused_with_both(site: Site) -> None:
    shown, spoken = card_of("carol"), card_of("carol")
    site.show(shown)
    with pytest.raises(PeerRefused) as refused:
        await site.verify("carol", spoken.fingerprint)
    assert str(refused.value) == (
        f"not trusted: the coordinator shows client carol with fingerprint {shown.fingerprint}, "
        f"and you gave {spoken.fingerprint}"
    )
    assert site.trusted("alice") == frozenset()


async def test_a_client_without_a_card_cannot_be_verified(site: Site) -> None:
    site.show(card_of("alice"), card_of("bob"))
    with pytest.raises(PeerRefused, match="no card of client carol; it shows alice, bob"):
        await site.verify("carol", card_of("carol").fingerprint)


@pytest.mark.parametrize("given", ["", "12345", "x" * 60, "٣" * 60])
async def test_what_is_no_fingerprint_is_refused_before_anybody_is_asked(
    site: Site, given: str
) -> None:
    with pytest.raises(ConfigError, match="a fingerprint has 60 digits"):
        await site.verify("carol", given)
    assert site.coordinator.requests == []
