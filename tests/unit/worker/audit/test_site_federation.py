"""A site's client at its federation's newest weights."""

from __future__ import annotations

from pathlib import Path

import torch

from shared.arrays import digest_arrays
from tests.support.audited import small_subject
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import worker_config
from worker.audit.site_federation import online_subject
from worker.audit.subject import images_of
from worker.settings import WorkerSettings
from worker.site.parts import SiteParts


async def test_it_is_audited_at_the_newest_weights_and_sends_nothing_of_its_own(
    tmp_path: Path,
) -> None:
    coordinator = FakeCoordinator(small_subject(clients=1).specification)
    weights = coordinator.add_version(1)
    config = worker_config(tmp_path, "small", "alice", "bob").model_copy(
        update={"allowed_imports": ("tests",)}
    )
    parts = SiteParts(transport=coordinator.transport)
    subject = await online_subject(config, WorkerSettings(device="cpu"), config.clients[1], parts)
    assert subject.client.name == "bob"
    assert subject.others[0].name == "alice"
    assert {one.name.partition("-")[0] for one in subject.others[1:]} == {"stand"}
    assert digest_arrays(subject.weights) == digest_arrays(weights)
    assert subject.round_number == 1
    own = {one.numpy().tobytes() for one in images_of(subject.client.data.train)}
    for public in (subject.prior, subject.candidates):
        assert not own & {one.numpy().tobytes() for one in images_of(public)}
    stand_in = images_of(subject.others[-1].data.train)
    prior = images_of(subject.prior)
    assert all(bool((prior == one).flatten(1).all(1).any()) for one in stand_in[:5])
    assert isinstance(subject.client.private["embedding"], torch.Tensor)
    sent = [one for one in coordinator.requests if one.method in ("PUT", "POST")]
    assert {one.url.path.rsplit("/", 1)[-1] for one in sent} <= {"enrolments"}
