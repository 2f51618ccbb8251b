"""The worker's life: start, poll, work round after round, end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from shared.federation.initialisation import TensorSpecification
from shared.federation.specification import ParameterSpecification, document_digest
from shared.rest.problems import ProblemType
from shared.rest.schema import FederationState, TaskKind
from tests.support.fake_coordinator import FakeCoordinator, Request, problem, unavailable
from tests.support.hosted_clients import saved_state, stub_parts, worker_config
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from tests.support.waiting import RecordedSleep
from worker.errors import ConfigError, PrivateStateError, Refused, RequestFailed, Unreachable
from worker.methods.interface import DIVERGED, Participant
from worker.remote.patience import Sleep
from worker.rounds import loop
from worker.settings import WorkerSettings
from worker.site import private_state
from worker.site.private_state import FILE_NAME, PrivateState
from worker.site_policy import SitePolicy

LONGEST_STOP_SECONDS = 1.0


class Killed(Exception):
    """Ends a worker as a crash would, between two requests."""


async def wait_for_ever(seconds: float) -> None:
    await asyncio.Event().wait()


class Worker:
    """Runs the loop as often as a test starts it, always over the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coordinator = FakeCoordinator(tiny_specification())
        self.method = StubMethod(self.coordinator.specification.parameters)
        self.policy = SitePolicy()
        self.stop = threading.Event()
        self.settings = WorkerSettings(poll_wait_seconds=0.0, device="cpu")
        self.sleep: Sleep = RecordedSleep()

    async def run(self, *names: str, **seconds: float) -> None:
        config = worker_config(self.folder, "tiny", *names)
        config = config.model_copy(update={"policy": self.policy})
        parts = stub_parts(self.method, self.coordinator.transport, self.sleep)
        await loop.run(config, self.settings, self.stop, parts, **seconds)

    def kill_at(self, method: str, path: str) -> None:
        def kill(request: Request) -> None:
            if request.method == method and request.url.path.endswith(path):
                raise Killed

        self.coordinator.receive = kill

    def stop_at(self, method: str, path: str) -> None:
        def set_stop(request: Request) -> None:
            if request.method == method and request.url.path.endswith(path):
                self.stop.set()

        self.coordinator.receive = set_stop

    def on_disk(self, name: str) -> PrivateState:
        state = saved_state(self.coordinator, self.folder, name)
        assert state is not None
        return state

    def polls(self, name: str) -> int:
        """How often a client asked for work."""
        polls = self.coordinator.asked("GET", "/task")
        return sum(poll.headers["Authorization"].endswith(f"-{name}") for poll in polls)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


async def test_rounds_are_worked_until_the_federation_ends(worker: Worker) -> None:
    for name in ("alice", "bob"):
        worker.coordinator.add_task(name, 1)
        worker.coordinator.add_task(name, 2)
        worker.coordinator.add_task(name, 3, kind=TaskKind.EVALUATE)
    await worker.run("alice", "bob")
    assert sorted(worker.method.trained) == [("alice", 1), ("alice", 2), ("bob", 1), ("bob", 2)]
    for name in ("alice", "bob"):
        rounds = [
            int(request.url.path.split("/")[-3])
            for request in worker.coordinator.asked("PUT", f"/{name}")
        ]
        assert rounds == [1, 2, 3]
        state = worker.on_disk(name)
        assert (state.last_round, state.pending) == (2, None)
        assert state.tensors["embedding"].tolist() == [3.0, 3.0, 3.0]


async def test_clients_of_one_round_train_together(worker: Worker) -> None:
    groups: list[list[str]] = []
    train = worker.method.train

    def note(group: Any, *arguments: Any) -> Any:
        groups.append([participant.name for participant in group])
        return train(group, *arguments)

    worker.method.train = note  # type: ignore[method-assign]
    for name in ("bob", "alice", "carol"):
        worker.coordinator.add_task(name, 1)
    await worker.run("bob", "alice", "carol")
    assert groups == [["alice", "bob", "carol"]]


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


async def test_the_newest_round_goes_first(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("bob", 2)
    await worker.run("alice", "bob")
    assert worker.method.trained == [("bob", 2), ("alice", 1)]


async def test_a_federation_that_has_ended_leaves_nothing_to_do(worker: Worker) -> None:
    await worker.run("alice", "bob")
    assert worker.coordinator.updates() == []
    assert worker.polls("alice") == worker.polls("bob") == 1


async def test_clients_wait_for_work(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.answer("GET", "/task", httpx.Response(204), httpx.Response(204))
    await worker.run("alice")
    assert worker.method.trained == [("alice", 1)]
    assert worker.polls("alice") == 4


async def test_a_federation_that_is_paused_is_said(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.state = FederationState.PAUSED
    worker.coordinator.reason = "9 rounds failed in a row"
    worker.coordinator.answer("GET", "/task", httpx.Response(204), httpx.Response(204))
    await worker.run("alice")
    said = capsys.readouterr()
    assert (said.out + said.err).count("9 rounds failed in a row") == 1


async def test_a_poll_that_is_lost_while_a_round_opens_is_said_and_sent_again(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = worker.coordinator.reply_to
    lost: list[Request] = []

    async def lose_a_poll(request: Request) -> httpx.Response:
        is_bobs = request.headers.get("Authorization", "").endswith("-bob")
        if request.url.path.endswith("/task") and is_bobs and not lost:
            lost.append(request)
            await asyncio.Event().wait()
        return handle(request)

    worker.coordinator.reply_to = lose_a_poll  # type: ignore[assignment, method-assign]
    for name in ("alice", "bob"):
        worker.coordinator.add_task(name, 1)
    await worker.run("alice", "bob", gather_seconds=0.0)
    assert worker.method.trained == [("alice", 1), ("bob", 1)]
    said = capsys.readouterr()
    assert (said.out + said.err).count("polls without an answer are asked again") == 1


async def test_clients_enrol_at_the_first_start_alone(worker: Worker) -> None:
    await worker.run("alice", "bob")
    await worker.run("alice", "bob")
    assert len(worker.coordinator.asked("POST", "/enrolments")) == 2


async def test_a_killed_worker_sends_the_same_bytes_at_its_next_start(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.kill_at("PUT", "/alice")
    with pytest.raises(Killed):
        await worker.run("alice")
    pending = worker.on_disk("alice").pending
    assert pending is not None
    worker.coordinator.receive = lambda _: None
    await worker.run("alice")
    assert worker.coordinator.updates() == [pending.content] * 2
    assert worker.method.trained == [("alice", 1)]
    assert worker.on_disk("alice").pending is None


async def test_a_full_disk_ends_the_worker_and_costs_a_round_of_training_alone(
    worker: Worker,
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("alice", 2)
    state_dir = worker_config(worker.folder, "tiny", "alice").clients[0].state_dir

    def fill_disk(_: Participant) -> None:
        if worker.method.trained:
            (state_dir / f".{FILE_NAME}.new").symlink_to("/dev/full")

    worker.method.before_step = fill_disk
    with pytest.raises(OSError, match=f"No space left on device: '.*/{FILE_NAME}'"):
        await worker.run("alice")
    kept = worker.on_disk("alice")
    assert (kept.last_round, kept.pending) == (1, None)
    assert len(worker.coordinator.asked("PUT", "/updates/alice")) == 1, "nothing unsaved is sent"

    worker.method.before_step = lambda _: None
    await worker.run("alice")
    assert worker.method.trained == [("alice", 1), ("alice", 2), ("alice", 2)]
    kept = worker.on_disk("alice")
    assert (kept.last_round, kept.pending) == (2, None)
    assert kept.tensors["embedding"].tolist() == [3.0] * 3, "each round counts once"


async def test_a_worker_killed_while_training_trains_the_round_again(worker: Worker) -> None:
    def crash(participant: object) -> None:
        raise Killed

    worker.coordinator.add_task("alice", 1)
    worker.method.before_step = crash
    with pytest.raises(Killed):
        await worker.run("alice")
    worker.method.before_step = lambda _: None
    await worker.run("alice")
    assert worker.on_disk("alice").tensors["embedding"].tolist() == [1.0, 1.0, 1.0]
    assert len(worker.coordinator.updates()) == 1


@pytest.mark.parametrize("kind", [ProblemType.ROUND_CLOSED, ProblemType.STALE_BASE_VERSION])
async def test_a_late_update_is_dropped_and_the_next_round_worked(
    worker: Worker, kind: ProblemType
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("alice", 2)
    worker.coordinator.answer("PUT", "/alice", problem(kind))
    await worker.run("alice")
    assert worker.method.trained == [("alice", 1), ("alice", 2)]
    first, second = worker.coordinator.updates()
    assert first != second
    assert worker.on_disk("alice").pending is None


async def test_a_lost_lease_is_followed_by_the_same_bytes_under_the_next(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.answer("PUT", "/alice", problem(ProblemType.LEASE_LOST))
    await worker.run("alice")
    requests = worker.coordinator.asked("PUT", "/alice")
    assert [request.url.params["attempt"] for request in requests] == ["1", "2"]
    assert requests[0].content == requests[1].content
    assert worker.method.trained == [("alice", 1)]


async def test_the_end_of_the_federation_drops_the_pending_update(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.kill_at("PUT", "/alice")
    with pytest.raises(Killed):
        await worker.run("alice")
    worker.coordinator.receive = lambda _: None
    worker.coordinator.tasks.clear()
    await worker.run("alice")
    assert worker.on_disk("alice").pending is None
    assert len(worker.coordinator.updates()) == 1


@pytest.mark.parametrize("kind", [ProblemType.UNAUTHENTICATED, ProblemType.FORBIDDEN])
async def test_a_revoked_client_is_shut_out_and_the_others_go_on(
    worker: Worker, kind: ProblemType
) -> None:
    worker.coordinator.answer("GET", "/task", problem(kind))
    for name in ("alice", "bob"):
        worker.coordinator.add_task(name, 1)
        worker.coordinator.add_task(name, 2)
    await worker.run("alice", "bob")
    assert worker.method.trained == [("bob", 1), ("bob", 2)]
    assert worker.polls("alice") == 1


async def test_a_client_that_is_shut_out_keeps_its_pending_update(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.kill_at("PUT", "/alice")
    with pytest.raises(Killed):
        await worker.run("alice")
    worker.coordinator.receive = lambda _: None
    before = (worker.folder / "alice" / FILE_NAME).read_bytes()
    worker.coordinator.answer("GET", "/task", problem(ProblemType.UNAUTHENTICATED, "revoked"))
    with pytest.raises(RequestFailed, match="accepts none of this worker"):
        await worker.run("alice")
    assert (worker.folder / "alice" / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_proxys_page_does_not_end_the_worker(worker: Worker, status: int) -> None:
    page = httpx.Response(status, html="<h1>It works!</h1>")
    worker.coordinator.add_version(1)
    for method, path in [
        ("POST", "/enrolments"),
        ("GET", "/tiny"),
        ("GET", "/task"),
        ("GET", "/weights/1"),
        ("PUT", "/alice"),
    ]:
        worker.coordinator.answer(method, path, page, page)
    worker.coordinator.add_task("alice", 1, base_version=1)
    await worker.run("alice")
    assert worker.method.trained == [("alice", 1)]
    assert worker.on_disk("alice").pending is None


async def test_a_worker_without_any_client_left_is_an_error(worker: Worker) -> None:
    revoked = [problem(ProblemType.UNAUTHENTICATED, "revoked") for _ in range(2)]
    worker.coordinator.answer("GET", "/task", *revoked)
    with pytest.raises(RequestFailed, match="accepts none of this worker's clients"):
        await worker.run("alice", "bob")


async def test_a_client_revoked_between_two_starts_does_not_hold_up_the_others(
    worker: Worker,
) -> None:
    await worker.run("alice", "bob")
    worker.coordinator.add_task("bob", 1)
    worker.coordinator.revoked.add("alice")
    await worker.run("alice", "bob")
    assert worker.method.trained == [("bob", 1)]


async def test_a_client_revoked_while_it_trains_does_not_hold_up_the_others(
    worker: Worker,
) -> None:
    for name in ("alice", "bob"):
        worker.coordinator.add_task(name, 1)
        worker.coordinator.add_task(name, 2)
    worker.method.before_step = lambda _: worker.coordinator.revoked.add("alice")
    await worker.run("alice", "bob")
    assert worker.method.trained == [("alice", 1), ("bob", 1), ("bob", 2)]
    assert len(worker.coordinator.updates("bob")) == 2


async def test_a_refusal_of_a_poll_that_is_a_fault_ends_the_worker(worker: Worker) -> None:
    worker.coordinator.answer("GET", "/task", problem(ProblemType.NOT_FOUND, "no federation"))
    with pytest.raises(Refused, match="no federation"):
        await worker.run("alice")


async def test_a_client_that_declines_is_not_asked_again_and_the_others_go_on(
    worker: Worker,
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("bob", 1)
    worker.method.diverging = {"alice"}
    await worker.run("alice", "bob")
    assert worker.coordinator.declined() == [("alice", 1, DIVERGED)]
    assert worker.method.trained == [("bob", 1)]


async def test_a_diverged_client_sits_the_round_out_where_its_decline_is_not_taken(
    worker: Worker,
) -> None:
    worker.coordinator.answer("PUT", "/decline", problem(ProblemType.NOT_FOUND))
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("alice", 2)
    worker.coordinator.add_task("bob", 1)
    worker.method.diverging = {"alice"}
    begun: list[str] = []
    worker.method.before_step = lambda participant: begun.append(participant.name)

    def close_round_at_fifth_poll(request: Request) -> None:
        if request.url.path.endswith("/task") and worker.polls("alice") == 5:
            worker.coordinator.tasks["alice"] = worker.coordinator.tasks["alice"][-1:]
            worker.method.diverging = set()

    worker.coordinator.receive = close_round_at_fifth_poll
    await worker.run("alice", "bob")
    assert begun == ["alice", "bob", "alice"]
    assert worker.method.trained == [("bob", 1), ("alice", 2)]
    assert len(worker.coordinator.updates("alice")) == 1
    assert worker.on_disk("alice").tensors["embedding"].tolist() == [2.0, 2.0, 2.0]


async def test_a_method_that_leaks_is_stopped_before_anything_is_sent(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.method.extra_deltas = {"embedding": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match="not shared by this federation: embedding"):
        await worker.run("alice")
    assert worker.coordinator.updates() == []


async def test_a_stop_ends_training_with_the_state_unchanged(worker: Worker) -> None:
    await worker.run("alice")
    before = (worker.folder / "alice" / FILE_NAME).read_bytes()
    worker.coordinator.add_task("alice", 1)
    worker.method.before_step = lambda _: worker.stop.set()
    await worker.run("alice")
    assert (worker.folder / "alice" / FILE_NAME).read_bytes() == before
    assert worker.coordinator.updates() == []
    worker.stop.clear()
    worker.method.before_step = lambda _: None
    await worker.run("alice")
    assert worker.method.trained == [("alice", 1)]


async def test_a_stop_ends_the_polling(worker: Worker) -> None:
    worker.coordinator.answer("GET", "/task", *(httpx.Response(204) for _ in range(100)))
    worker.stop_at("GET", "/task")
    async with asyncio.timeout(LONGEST_STOP_SECONDS):
        await worker.run("alice")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/enrolments"),
        ("GET", "/federations/tiny"),
        ("GET", "/task"),
        ("GET", "/weights/1"),
        ("PUT", "/alice"),
    ],
)
async def test_a_stop_ends_the_wait_for_a_coordinator_that_is_away(
    worker: Worker, method: str, path: str
) -> None:
    worker.coordinator.add_version(1)
    worker.coordinator.add_task("alice", 1, base_version=1)
    worker.coordinator.answer(method, path, unavailable("3600"))
    worker.sleep = wait_for_ever
    worker.stop_at(method, path)
    async with asyncio.timeout(LONGEST_STOP_SECONDS):
        await worker.run("alice")


async def test_an_update_that_a_stop_left_unanswered_is_sent_at_the_next_start(
    worker: Worker,
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.answer("PUT", "/alice", unavailable("3600"))
    worker.sleep = wait_for_ever
    worker.stop_at("PUT", "/alice")
    async with asyncio.timeout(LONGEST_STOP_SECONDS):
        await worker.run("alice")
    worker.stop.clear()
    worker.coordinator.receive = lambda _: None
    worker.sleep = RecordedSleep()
    await worker.run("alice")
    first, second = worker.coordinator.updates()
    assert first == second
    assert worker.method.trained == [("alice", 1)]


async def test_a_coordinator_that_stays_away_is_given_up(worker: Worker) -> None:
    worker.settings = WorkerSettings(poll_wait_seconds=0.0, give_up_after_seconds=1e-9)
    worker.coordinator.answer("GET", "/task", httpx.ConnectError("connection refused"))
    with pytest.raises(Unreachable, match="connection refused"):
        await worker.run("alice")


async def test_a_state_that_another_worker_has_is_left_alone(worker: Worker) -> None:
    with (
        private_state.locked(worker.folder / "alice"),
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


@pytest.mark.parametrize("kind", [ProblemType.MALFORMED_UPDATE, ProblemType.BODY_TOO_LARGE])
async def test_a_client_whose_update_is_refused_sits_the_round_out(
    worker: Worker, kind: ProblemType, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("alice", 2)
    worker.coordinator.add_task("bob", 1)
    refused = problem(kind, "the update's norm is 7, over max_update_norm 5")
    worker.coordinator.answer("PUT", "/rounds/1/updates/alice", refused)

    def close_round_at_fifth_poll(request: Request) -> None:
        if request.url.path.endswith("/task") and worker.polls("alice") == 5:
            worker.coordinator.tasks["alice"] = worker.coordinator.tasks["alice"][-1:]

    worker.coordinator.receive = close_round_at_fifth_poll
    await worker.run("alice", "bob")
    assert sorted(worker.method.trained) == [("alice", 1), ("alice", 2), ("bob", 1)]
    sent = [
        request.url.path.partition("/rounds/")[2] for request in worker.coordinator.asked("PUT")
    ]
    assert sorted(sent) == ["1/updates/alice", "1/updates/bob", "2/updates/alice"]
    assert worker.on_disk("alice").pending is None
    said = capsys.readouterr()
    assert "over max_update_norm 5" in said.out + said.err


async def test_an_unknown_device_is_refused(worker: Worker) -> None:
    worker.settings = WorkerSettings(device="abacus")
    with pytest.raises(ConfigError, match="device abacus: "):
        await worker.run("alice")
