"""What a worker says of its clients: with a coordinator, and without."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.federation.specification import FederationSpecification
from tests.support.fake_coordinator import FakeCoordinator, credential
from tests.support.hosted_clients import worker_config
from tests.support.private_sums import private_specification
from tests.support.specifications import tiny_specification
from worker.errors import PrivateStateError
from worker.files import write_atomically
from worker.operations.status import ClientStatus, client_statuses
from worker.settings import WorkerSettings
from worker.site import private_state
from worker.site.enrolment import CREDENTIAL_NAME
from worker.site.private_state import PrivateState
from worker.site.round_ledger import RoundLedger, save_ledger


class Site:
    """Client ``alice``, who has trained rounds 1 to 3; ``bob`` is not enrolled."""

    def __init__(self, folder: Path, specification: FederationSpecification) -> None:
        self.folder = folder
        self.coordinator = FakeCoordinator(specification)
        self.config = worker_config(folder, specification.name, "alice", "bob")
        for name in ("alice", "bob"):
            (folder / name).mkdir()
        write_atomically(folder / "alice" / CREDENTIAL_NAME, credential("alice").encode())
        digest = self.coordinator.specification_digest
        state = PrivateState(specification.name, digest, "alice", 1, {}, last_round=3)
        private_state.save(folder / "alice", state)
        ledger = RoundLedger()
        for number in (1, 2, 3, 3):
            task = self.coordinator.add_task("alice", number)
            ledger = ledger.with_round(task, datetime.now(UTC))
        save_ledger(folder / "alice", ledger)

    async def ask(self) -> list[ClientStatus]:
        return await client_statuses(self.config, WorkerSettings(), self.coordinator.transport)


async def test_rounds_budget_and_federation_are_said(tmp_path: Path) -> None:
    specification = private_specification({"rounds": 60, "noise_multiplier": 4.7})
    alice, bob = await Site(tmp_path, specification).ask()
    assert (alice.client, alice.federation, alice.rounds, alice.last_round) == (
        "alice",
        "running",
        4,
        3,
    )
    privacy = specification.training.privacy
    assert privacy is not None
    assert (alice.epsilon_spent, alice.epsilon) == (privacy.epsilon_after(3), 8.0)
    assert bob == ClientStatus("bob", "not enrolled", 0, 0, 0)


async def test_without_noise_there_is_no_budget(tmp_path: Path) -> None:
    alice, _ = await Site(tmp_path, tiny_specification()).ask()
    assert (alice.epsilon_spent, alice.epsilon) == (None, None)


async def test_what_a_site_knows_by_itself_is_said_without_a_coordinator(tmp_path: Path) -> None:
    site = Site(tmp_path, tiny_specification())
    site.coordinator.revoked.add("alice")
    alice, _ = await site.ask()
    assert alice == ClientStatus("alice", "the token is revoked", 4, 3, 0)


async def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    site = Site(tmp_path, tiny_specification())
    (tmp_path / "alice" / private_state.FILE_NAME).write_bytes(b"nothing")
    with pytest.raises(PrivateStateError, match="alice"):
        await site.ask()
