"""A worker and a coordinator that lies, over a real socket: each lie is refused by its name."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.rest.problems import ProblemType
from tests.support.fake_coordinator import FakeCoordinator, Request, problem
from tests.support.hosted_clients import first_state, read_update, stub_parts, worker_config
from tests.support.malicious_coordinator import MaliciousCoordinator, malicious_coordinator
from tests.support.processes import Finished, hyperfl_here
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from worker.errors import (
    ConfigError,
    ImportNotAllowed,
    PrivateStateError,
    RequestFailed,
    Unreachable,
)
from worker.operations.rotation import rotate_credentials
from worker.remote.bounds import FEDERATION_BYTES, JSON_BYTES
from worker.rounds import loop
from worker.settings import WorkerConfig, WorkerSettings
from worker.site import private_state
from worker.site.parts import STANDARD_PARTS, SiteParts


class Site:
    """Runs a worker of one client against the malicious coordinator."""

    def __init__(
        self,
        folder: Path,
        coordinator: MaliciousCoordinator,
        parts: SiteParts = STANDARD_PARTS,
    ) -> None:
        self.folder = folder
        self.coordinator = coordinator
        self.parts = parts

    async def run(self, **settings: Any) -> None:
        """Until the worker ends or gives up, which it does soon."""
        given = {"poll_wait_seconds": 0.0, "device": "cpu", "give_up_after_seconds": 0.01}
        asked = WorkerSettings.model_validate(given | settings)
        await loop.run(self.config(), asked, threading.Event(), self.parts)

    def config(self) -> WorkerConfig:
        config = worker_config(self.folder, "tiny", "alice")
        return config.model_copy(update={"coordinator_url": self.coordinator.url})


@pytest.fixture
def coordinator() -> Iterator[MaliciousCoordinator]:
    with malicious_coordinator(FakeCoordinator(tiny_specification())) as coordinator:
        yield coordinator


@pytest.fixture
def site(tmp_path: Path, coordinator: MaliciousCoordinator) -> Site:
    return Site(tmp_path, coordinator)


@pytest.fixture
def training_site(tmp_path: Path, coordinator: MaliciousCoordinator) -> Site:
    """One whose method and data are stubs, so that it comes to the rounds."""
    method = StubMethod(coordinator.honest.specification.parameters)
    return Site(tmp_path, coordinator, stub_parts(method, None))


async def test_with_the_truth_the_worker_works(training_site: Site) -> None:
    training_site.coordinator.honest.add_task("alice")
    await training_site.run()
    assert len(training_site.coordinator.honest.updates("alice")) == 1


FEDERATION, TASK, ENROLMENT = "/federations/tiny", "/task", "/enrolments"
UPDATE, HEARTBEAT = "/updates/alice", "/heartbeat"
CALLS = [("GET", FEDERATION), ("GET", TASK), ("POST", ENROLMENT), ("PUT", UPDATE)]
IN_FLIGHT_BYTES = 16 << 20
"""What the system's buffers hold of an answer that nobody reads."""


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_an_answer_that_is_packed_is_not_unpacked(
    training_site: Site, method: str, path: str
) -> None:
    training_site.coordinator.honest.add_task("alice")
    training_site.coordinator.bomb(method, path, unpacked_bytes=64 << 20)
    with pytest.raises(Unreachable, match="answered with Content-Encoding gzip"):
        await training_site.run()


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize("status", [200, 422, 503])
async def test_an_answer_without_an_end_is_cut_off(
    training_site: Site, method: str, path: str, status: int
) -> None:
    training_site.coordinator.honest.add_task("alice")
    training_site.coordinator.answer_without_end(method, path, status)
    with pytest.raises(Unreachable, match=r"answered more than \d+ bytes"):
        await training_site.run()
    limit = FEDERATION_BYTES if (path, status) == (FEDERATION, 200) else JSON_BYTES
    assert training_site.coordinator.sent_bytes < 2 * limit + 2 * IN_FLIGHT_BYTES


@pytest.mark.parametrize("encoding", ["dense", "factored"])
async def test_weights_without_an_end_are_cut_off_at_what_the_specification_has(
    training_site: Site, encoding: str
) -> None:
    honest = training_site.coordinator.honest
    honest.record(honest.document | {"encoding": honest.document["encoding"] | {"name": encoding}})
    honest.add_version(1)
    honest.add_task("alice", base_version=1)
    training_site.coordinator.send_weights_without_end()
    with pytest.raises(Unreachable, match=r"answered more than \d+ bytes"):
        await training_site.run()
    assert training_site.coordinator.sent_bytes < 2 * IN_FLIGHT_BYTES
    assert sum(file.stat().st_size for file in training_site.folder.rglob("*")) < 1 << 20


@pytest.mark.parametrize(("method", "path"), [*CALLS, ("GET", "/weights/1")])
async def test_a_byte_at_a_time_is_too_slow(training_site: Site, method: str, path: str) -> None:
    honest = training_site.coordinator.honest
    honest.add_version(1)
    honest.add_task("alice", base_version=1)
    training_site.coordinator.trickle(method, path)
    with pytest.raises(Unreachable, match="slower than 8192 bytes a second"):
        await training_site.run(request_timeout_seconds=0.1)


ANOTHER = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("lease_seconds", value) for value in (0.0, -1.0, 1e9, float("nan"), float("inf"))),
        *((count, value) for count in ("round_number", "attempt") for value in (0, -1, 1 << 31)),
        *(("base_version", value) for value in (-1, 1 << 31, 10**30)),
        *(
            ("base_digest", value)
            for value in ("", "sha256:0", "sha256:" + "../" * 20, ANOTHER[1:])
        ),
    ],
)
async def test_a_task_with_numbers_that_cannot_be_is_refused_by_its_member(
    training_site: Site, member: str, value: Any
) -> None:
    training_site.coordinator.honest.add_task("alice")
    training_site.coordinator.change_task(**{member: value})
    with pytest.raises(Unreachable, match=f"not as a coordinator does: {member}: "):
        await training_site.run()


@pytest.mark.parametrize(
    ("members", "whose"),
    [
        ({"client": "bob"}, "client bob of federation tiny"),
        ({"federation": "../.."}, r"client alice of federation \.\./\.\."),
    ],
)
async def test_the_task_of_another_is_not_done(
    training_site: Site, members: dict[str, str], whose: str
) -> None:
    training_site.coordinator.honest.add_task("alice")
    training_site.coordinator.change_task(**members)
    with pytest.raises(Unreachable, match=f"gave client alice .* the task of {whose}"):
        await training_site.run()


@pytest.mark.parametrize(
    ("member", "value"),
    [("weights_version", -1), ("weights_digest", "sha256:../x"), ("specification_digest", "x")],
)
async def test_a_federation_with_values_that_cannot_be_is_refused_by_its_member(
    training_site: Site, member: str, value: Any
) -> None:
    training_site.coordinator.change_federation(**{member: value})
    with pytest.raises(Unreachable, match=f"not as a coordinator does: {member}: "):
        await training_site.run()


@pytest.mark.parametrize("credential", ["", "a\r\nX-Evil: 1", "é", "x" * 201])
async def test_a_credential_that_fits_no_header_is_not_kept(site: Site, credential: str) -> None:
    reply = {"federation": "tiny", "client": "alice", "credential": credential}
    site.coordinator.answer_with("POST", ENROLMENT, reply)
    with pytest.raises(Unreachable, match="not as a coordinator does: credential: "):
        await site.run()
    assert not (site.folder / "alice" / "credential").exists()


async def test_a_rotation_that_answers_anothers_credential_replaces_nothing(
    site: Site, coordinator: MaliciousCoordinator
) -> None:
    (site.folder / "alice").mkdir()
    credential = site.folder / "alice" / "credential"
    credential.write_text("credential-of-alice\n")
    reply = {"federation": "tiny", "client": "bob", "credential": "credential-of-bob"}
    coordinator.answer_with("POST", "/rotate", reply)
    with pytest.raises(RequestFailed, match="sent client alice a credential of client bob"):
        await rotate_credentials(site.config(), WorkerSettings())
    assert credential.read_text() == "credential-of-alice\n"


async def test_a_receipt_for_another_update_is_none(training_site: Site) -> None:
    honest = training_site.coordinator.honest
    honest.add_task("alice")
    receipt = {"federation": "tiny", "client": "alice", "round_number": 1, "digest": ANOTHER}
    receipt |= {"size_bytes": 1, "received_at": "2026-01-01T00:00:00Z"}
    training_site.coordinator.answer_with("PUT", UPDATE, receipt)
    with pytest.raises(Unreachable, match="the receipt is for another update"):
        await training_site.run()


async def test_images_that_no_memory_holds_are_refused_before_they_are_made(site: Site) -> None:
    site.coordinator.ask_for_images_of(3, 60_000, 60_000)
    asked = r"asks for 2,011\.657 GiB of memory for 50 images of 3×60000×60000"
    with pytest.raises(ConfigError, match=asked):
        await site.run()


async def test_weights_that_no_memory_holds_are_refused_before_they_are_made(site: Site) -> None:
    site.coordinator.ask_for_weights_of(1 << 20, 1 << 11)
    with pytest.raises(ConfigError, match=r"asks for 24\.000 GiB of memory for its weights"):
        await site.run(max_memory_bytes=8 << 30)


async def test_an_update_from_weights_that_are_gone_is_not_taken_for_the_new_ones(
    training_site: Site,
) -> None:
    coordinator = training_site.coordinator
    honest = coordinator.honest
    honest.add_version(1)
    gone = honest.add_task("alice", round_number=2, base_version=1)
    coordinator.answer_with("PUT", UPDATE, {}, status=503)
    with pytest.raises(Unreachable, match="answered 503"):
        await training_site.run()
    coordinator.tell_the_truth()
    coordinator.go_back(version=1)
    honest.answer("PUT", UPDATE, problem(ProblemType.STALE_BASE_VERSION))
    await training_site.run()
    refused, taken = map(read_update, honest.updates("alice"))
    assert refused[1].base_digest == gone.base_digest
    assert taken[1].base_digest == honest.digest(1) != gone.base_digest


CLEAR_AND_REVERSE = "\x1b[2J\x1b]0;all is well\x07\u202e\r\n"


def run_command(coordinator: MaliciousCoordinator, folder: Path, *words: str) -> Finished:
    token = folder / "admin-token"
    token.write_text("secret")
    return hyperfl_here(
        *words,
        folder=folder,
        HYPERFL_COORDINATOR_URL=coordinator.url,
        HYPERFL_ADMIN_TOKEN_FILE=str(token),
    )


ADMIN_COMMANDS = [("federation", "list"), ("federation", "show", "tiny"), ("round", "list", "tiny")]


@pytest.mark.parametrize("words", ADMIN_COMMANDS, ids=" ".join)
def test_a_refusal_reaches_an_administrators_terminal_as_text(
    coordinator: MaliciousCoordinator, tmp_path: Path, words: tuple[str, ...]
) -> None:
    coordinator.speak_to_the_terminal(CLEAR_AND_REVERSE)
    done = run_command(coordinator, tmp_path, *words)
    shown = r"\x1b[2J\x1b]0;all is well\x07\u202e\r\n"
    assert (done.exit_code, done.output) == (1, "")
    assert done.errors == f"error: {shown}: {shown}\n"


def test_a_reply_reaches_an_administrators_terminal_as_text(
    coordinator: MaliciousCoordinator, tmp_path: Path
) -> None:
    view = coordinator.honest.reply_to(Request("GET", f"{coordinator.url}/v1/federations/tiny"))
    shown = view.json() | {"name": "[bold]x", "reason": CLEAR_AND_REVERSE}
    coordinator.answer_with("GET", "/federations", [shown])
    done = run_command(coordinator, tmp_path, "federation", "list")
    assert done.exit_code == 0, done.errors
    assert r"\x1b[2J\x1b]0;all is well\x07\u202e\r\n" in done.output
    assert "[bold]x" in done.output
    assert done.output.replace("\n", "").isprintable()


@pytest.mark.parametrize("words", ADMIN_COMMANDS, ids=" ".join)
@pytest.mark.parametrize("document", [5, None, "x", [5], {"name": 1}, [{"name": "x"}]], ids=str)
def test_a_reply_of_another_shape_is_one_line(
    coordinator: MaliciousCoordinator, tmp_path: Path, words: tuple[str, ...], document: Any
) -> None:
    coordinator.answer_with("GET", "", document)
    done = run_command(coordinator, tmp_path, *words)
    assert (done.exit_code, done.output) == (1, "")
    assert re.fullmatch(r"error: http\S+ answered 200, but not as .+: .+\n", done.errors)


@pytest.mark.parametrize("words", ADMIN_COMMANDS, ids=" ".join)
def test_an_administrators_answer_has_an_end_and_is_not_packed(
    coordinator: MaliciousCoordinator, tmp_path: Path, words: tuple[str, ...]
) -> None:
    coordinator.answer_without_end("GET", "")
    done = run_command(coordinator, tmp_path, *words)
    assert (done.exit_code, done.output) == (1, "")
    assert "answered more than 67108864 bytes" in done.errors
    coordinator.bomb("GET", "", unpacked_bytes=64 << 20)
    done = run_command(coordinator, tmp_path, *words)
    assert (done.exit_code, done.output) == (1, "")
    assert "in a coding that was not asked for" in done.errors


def test_an_admin_token_is_not_sent_in_the_clear(tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text("secret")
    words = ("federation", "list", "--admin-token-file", "admin-token")
    done = hyperfl_here(*words, "--url", "http://federation.example.org", folder=tmp_path)
    assert (done.exit_code, done.output) == (2, "")
    assert done.errors == (
        "error: no TLS to federation.example.org: use an https address, or set "
        "HYPERFL_ALLOW_PLAINTEXT=true if nobody can read the network between\n"
    )


@pytest.mark.parametrize(
    "names",
    [
        {"method": "huggingface_hub:logout"},
        {"model": "os:abort"},
        {"model": "sys:exit"},
        {"method": "subprocess:Popen", "model": "shutil:rmtree"},
    ],
    ids=str,
)
async def test_code_that_the_coordinator_names_is_not_imported(
    site: Site, names: dict[str, str]
) -> None:
    site.coordinator.name_code(**names)
    with pytest.raises(ImportNotAllowed, match=r"worker\.toml: allowed_imports =") as refused:
        await site.run()
    assert all(name in str(refused.value) for name in names.values())


async def test_a_state_of_another_specification_is_refused_before_any_code_is_looked_at(
    site: Site,
) -> None:
    private_state.save(site.folder / "alice", first_state(site.coordinator.honest, "alice"))
    site.coordinator.name_code(model="os:abort")
    with pytest.raises(PrivateStateError, match="belongs to specification sha256:"):
        await site.run()
