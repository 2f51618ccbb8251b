"""What a worker does not start with: another specification, another's state, no device."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from shared.federation.initialisation import TensorSpecification
from shared.federation.specification import ParameterSpecification, document_digest
from shared.rest.problems import ProblemType
from tests.support.fake_coordinator import problem
from tests.support.looping_worker import Worker
from tests.support.specifications import tiny_specification
from worker.errors import ConfigError, NoCoordinator, PrivateStateError, Refused, RequestFailed
from worker.settings import WorkerSettings
from worker.site import state_lock
from worker.site.private_state import FILE_NAME
from worker.site_policy import SitePolicy


async def test_a_credential_that_a_lost_answer_replaced_is_asked_for_again(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.answer("GET", "/tiny", problem(ProblemType.UNAUTHENTICATED))
    await worker.run("alice")
    assert len(worker.coordinator.asked("POST", "/enrolments")) == 2
    assert worker.method.trained == [("alice", 1)]
    assert not (worker.folder / "alice" / "enrolment-token").exists()


async def test_enrolment_is_repeated_once_and_no_more(worker: Worker) -> None:
    worker.coordinator.revoked.add("alice")
    with pytest.raises(RequestFailed, match="accepts none of this worker's clients"):
        await worker.run("alice")
    assert len(worker.coordinator.asked("POST", "/enrolments")) == 2


async def test_an_address_that_is_no_coordinators_ends_the_worker_at_once(worker: Worker) -> None:
    page = httpx.Response(404, html="<h1>It works!</h1>")
    worker.coordinator.answer("POST", "/enrolments", page)
    words = "^http://coordinator.test/v1/enrolments answered 404, but not as a coordinator does$"
    with pytest.raises(NoCoordinator, match=words):
        await worker.run("alice")
    assert len(worker.coordinator.requests) == 1


async def test_clients_enrol_at_the_first_start_alone(worker: Worker) -> None:
    await worker.run("alice", "bob")
    await worker.run("alice", "bob")
    assert len(worker.coordinator.asked("POST", "/enrolments")) == 2


async def test_a_state_that_another_worker_has_is_left_alone(worker: Worker) -> None:
    with (
        state_lock.locked(worker.folder / "alice"),
        pytest.raises(PrivateStateError, match="in use by another worker"),
    ):
        await worker.run("alice")
    assert worker.coordinator.requests == []


async def test_a_damaged_state_ends_the_worker_and_stays(worker: Worker) -> None:
    await worker.run("alice")
    file = worker.folder / "alice" / FILE_NAME
    file.write_bytes(b"damaged")
    with pytest.raises(PrivateStateError, match="is damaged"):
        await worker.run("alice")
    assert file.read_bytes() == b"damaged"


async def test_locks_end_with_the_worker(worker: Worker) -> None:
    worker.coordinator.answer("GET", "/tiny", problem(ProblemType.NOT_FOUND))
    with pytest.raises(Refused):
        await worker.run("alice")
    await worker.run("alice")


def without_bias(tensors: tuple[TensorSpecification, ...]) -> tuple[TensorSpecification, ...]:
    return tensors[:-1]


def with_another_shape(tensors: tuple[TensorSpecification, ...]) -> tuple[TensorSpecification, ...]:
    wider = TensorSpecification(
        name=tensors[0].name, shape=(2, 9), initialisation=tensors[0].initialisation
    )
    return (wider, *tensors[1:])


def with_a_head(tensors: tuple[TensorSpecification, ...]) -> tuple[TensorSpecification, ...]:
    head = TensorSpecification(
        name="head.weight", shape=(2,), initialisation=tensors[0].initialisation
    )
    return (*tensors, head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_bias, "does not share hypernetwork.output.bias, which its method needs"),
        (
            with_another_shape,
            r"hypernetwork.trunk.weight has shape \[2, 9\], but this site's model has \[2, 3\]",
        ),
        (with_a_head, "shares head.weight, which its method does not"),
    ],
)
async def test_a_federation_that_shares_something_else_is_refused(
    worker: Worker,
    change: Callable[[tuple[TensorSpecification, ...]], tuple[TensorSpecification, ...]],
    message: str,
) -> None:
    given = worker.coordinator.specification
    tensors = change(given.parameters.tensors)
    parameters = ParameterSpecification(seed=given.parameters.seed, tensors=tensors)
    worker.coordinator.record(given.model_copy(update={"parameters": parameters}).document)
    with pytest.raises(ConfigError, match=message):
        await worker.run("alice")
    assert not (worker.folder / "alice" / FILE_NAME).exists()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            SitePolicy(require_protection="secure-sum"),
            "policy.require_protection is secure-sum, and federation tiny asks for updates that "
            "its coordinator sees",
        ),
        (
            SitePolicy(minimum_examples=6),
            "policy.minimum_examples is 6, and client alice has 5 training examples",
        ),
    ],
)
async def test_a_federation_that_the_sites_policy_refuses_gets_nothing(
    worker: Worker, policy: SitePolicy, message: str
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.policy = policy
    with pytest.raises(ConfigError) as refused:
        await worker.run("alice")
    assert str(refused.value) == message
    assert worker.coordinator.asked("GET", "/task") == []
    assert worker.coordinator.asked("PUT") == []


async def test_a_specification_of_an_earlier_version_keeps_its_digest(worker: Worker) -> None:
    older = tiny_specification().document
    del older["round_policy"]["on_excess"]
    older["encoding"] = "dense"
    worker.coordinator.record(older)
    assert worker.coordinator.specification_digest != document_digest(tiny_specification().document)
    worker.coordinator.add_task("alice", 1)
    for _ in range(2):  # the second start finds its private state
        await worker.run("alice")
    assert worker.on_disk("alice").specification_digest == worker.coordinator.specification_digest
    assert len(worker.coordinator.updates()) == 1


async def test_a_specification_with_another_digest_is_refused(worker: Worker) -> None:
    worker.coordinator.document["round_policy"]["max_update_norm"] = 5.0
    with pytest.raises(ConfigError, match="federation tiny: the specification has digest sha256:"):
        await worker.run("alice")
    assert not (worker.folder / "alice" / FILE_NAME).exists()


async def test_a_specification_of_a_later_version_is_refused_by_name(worker: Worker) -> None:
    later = tiny_specification().document
    later["round_policy"]["secure"] = True
    worker.coordinator.record(later)
    with pytest.raises(ConfigError, match=r"not understand .* tiny: .*policy\.secure: unknown key"):
        await worker.run("alice")
    assert not (worker.folder / "alice" / FILE_NAME).exists()


async def test_an_unknown_device_is_refused(worker: Worker) -> None:
    worker.settings = WorkerSettings(device="abacus")
    with pytest.raises(ConfigError, match=r"^HYPERFL_DEVICE must be auto, .* not abacus$"):
        await worker.run("alice")
