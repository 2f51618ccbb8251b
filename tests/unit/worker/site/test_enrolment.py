"""Enrolment: once, repeatable until its credential has worked, and never another's."""

from __future__ import annotations

import stat
from pathlib import Path

import httpx
import pytest

from shared.rest.problems import ProblemType
from tests.support.fake_coordinator import FakeCoordinator, Request, problem, unavailable
from tests.support.hosted_clients import client_config
from tests.support.specifications import tiny_specification
from tests.support.waiting import RecordedSleep
from worker.errors import ConfigError, Refused
from worker.remote.patience import Patience
from worker.settings import ClientConfig
from worker.site import enrolment
from worker.site.enrolment import TOKEN_NAME, obtain_credential

FEDERATION = "tiny"
ASKED = b'{"enrolment_token":"token-of-alice","federation":"tiny","client":"alice"}'


class Killed(BaseException):
    """Ends the worker as a crash would."""


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator(tiny_specification(FEDERATION))


@pytest.fixture
def config(tmp_path: Path) -> ClientConfig:
    return client_config(tmp_path, "alice")


async def obtain(
    coordinator: FakeCoordinator, config: ClientConfig, federation: str = FEDERATION
) -> str:
    patience = Patience(60.0, RecordedSleep())
    return await obtain_credential(config, coordinator.address, federation, patience)


async def test_a_client_enrols_once(coordinator: FakeCoordinator, config: ClientConfig) -> None:
    assert await obtain(coordinator, config) == "credential-of-alice"
    assert await obtain(coordinator, config) == "credential-of-alice"
    assert len(coordinator.requests) == 1


async def test_the_credential_is_its_owners_alone(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    await obtain(coordinator, config)
    file = config.state_dir / "credential"
    assert file.read_text() == "credential-of-alice\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.state_dir.stat().st_mode) == 0o700


async def test_an_enrolled_client_needs_no_token(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    await obtain(coordinator, config)
    without = config.model_copy(update={"enrolment_token": None})
    assert await obtain(coordinator, without) == "credential-of-alice"


async def test_the_token_may_be_in_a_file(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    (tmp_path / "alice.token").write_text("token-of-alice\n")
    config = client_config(
        tmp_path, "alice", enrolment_token=None, enrolment_token_file=tmp_path / "alice.token"
    )
    assert await obtain(coordinator, config) == "credential-of-alice"
    assert coordinator.requests[0].content == ASKED


async def test_a_missing_token_file_is_one_line(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    missing = tmp_path / "alice.token"
    config = client_config(tmp_path, "alice", enrolment_token=None, enrolment_token_file=missing)
    with pytest.raises(ConfigError, match=f"^{missing} cannot be read: No such file or directory$"):
        await obtain(coordinator, config)
    assert coordinator.requests == []


async def test_a_client_without_credential_and_token_is_refused(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    config = client_config(tmp_path, "alice", enrolment_token=None)
    with pytest.raises(ConfigError, match="client alice is not enrolled and has no enrolment tok"):
        await obtain(coordinator, config)
    assert not config.state_dir.exists()


@pytest.mark.parametrize(("token", "federation"), [("bob", FEDERATION), ("alice", "banks")])
async def test_the_token_of_another_client_is_refused(
    coordinator: FakeCoordinator, tmp_path: Path, token: str, federation: str
) -> None:
    config = client_config(tmp_path, "alice", enrolment_token=f"token-of-{token}")
    with pytest.raises(ConfigError) as raised:
        await obtain(coordinator, config, federation)
    assert str(raised.value) == (
        f"the enrolment token of client alice belongs to client {token} of federation tiny"
    )
    assert not (config.state_dir / "credential").exists()


async def test_a_token_that_the_coordinator_refuses_leaves_nothing(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    coordinator.answer("POST", "/enrolments", problem(ProblemType.UNAUTHENTICATED, "expired"))
    with pytest.raises(Refused, match="expired"):
        await obtain(coordinator, config)
    assert not (config.state_dir / "credential").exists()


async def test_enrolment_waits_for_the_coordinator(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    coordinator.answer("POST", "/enrolments", httpx.ConnectError("refused"), unavailable())
    assert await obtain(coordinator, config) == "credential-of-alice"
    assert len(coordinator.requests) == 3


def kept_token(config: ClientConfig) -> str | None:
    file = config.state_dir / TOKEN_NAME
    return file.read_text() if file.exists() else None


async def test_the_token_is_kept_before_it_is_sent_until_the_credential_has_worked(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    seen: list[str | None] = []

    def look(request: Request) -> None:
        seen.append(kept_token(config))

    coordinator.receive = look
    await obtain(coordinator, config)
    assert seen == ["token-of-alice\n"]
    assert stat.S_IMODE((config.state_dir / TOKEN_NAME).stat().st_mode) == 0o600
    enrolment.confirm(config)
    assert kept_token(config) is None
    enrolment.confirm(config)


@pytest.mark.parametrize("token_is_left", [True, False])
async def test_an_answer_that_was_not_saved_is_asked_for_again_with_the_same_token(
    coordinator: FakeCoordinator, tmp_path: Path, token_is_left: bool
) -> None:
    file = tmp_path / "alice.token"
    file.write_text("token-of-alice\n")
    config = client_config(tmp_path, "alice", enrolment_token=None, enrolment_token_file=file)

    config.state_dir.mkdir()
    (config.state_dir / ".credential.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        await obtain(coordinator, config)
    if not token_is_left:
        file.unlink()
    assert await obtain(coordinator, config) == "credential-of-alice"
    assert [request.content for request in coordinator.requests] == [ASKED] * 2


async def test_a_credential_that_has_never_worked_is_asked_for_again(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    await obtain(coordinator, config)
    assert enrolment.forget_unused(config)
    assert await obtain(coordinator, config) == "credential-of-alice"
    assert len(coordinator.requests) == 2


async def test_a_credential_that_has_worked_is_never_forgotten(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    await obtain(coordinator, config)
    enrolment.confirm(config)
    assert not enrolment.forget_unused(config)
    assert (config.state_dir / "credential").exists()


async def test_a_new_invitation_goes_before_the_token_that_was_kept(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    coordinator.answer("POST", "/enrolments", problem(ProblemType.UNAUTHENTICATED, "expired"))
    with pytest.raises(Refused, match="expired"):
        await obtain(coordinator, config)
    newer = config.model_copy(update={"enrolment_token": "token-of-alice-2"})
    with pytest.raises(ConfigError, match="belongs to client alice-2"):
        await obtain(coordinator, newer)


async def test_the_coordinator_hears_whose_token_it_should_be_and_spends_no_other(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    detail = "the enrolment token belongs to client bob of federation tiny"
    coordinator.answer("POST", "/enrolments", problem(ProblemType.FORBIDDEN, detail))
    with pytest.raises(ConfigError, match=f"^client alice: {detail}$"):
        await obtain(coordinator, config)
    assert [request.content for request in coordinator.requests] == [ASKED]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbftoken-of-alice\r\n", b"token-of-alice"])
async def test_a_token_that_an_editor_saved_is_read(
    coordinator: FakeCoordinator, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "alice.token"
    file.write_bytes(content)
    config = client_config(tmp_path, "alice", enrolment_token=None, enrolment_token_file=file)
    assert await obtain(coordinator, config) == "credential-of-alice"
    assert coordinator.requests[0].content == ASKED


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("token-of-alice".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (b"", "must have an enrolment token and nothing else, not 0 words"),
        (b"\x89PNG\0", "is not text in UTF-8: it has zero bytes"),
    ],
)
async def test_a_token_file_that_holds_no_token_is_named_and_nothing_is_sent(
    coordinator: FakeCoordinator, tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "alice.token"
    file.write_bytes(content)
    config = client_config(tmp_path, "alice", enrolment_token=None, enrolment_token_file=file)
    with pytest.raises(ConfigError, match=f"^{file} {words}$"):
        await obtain(coordinator, config)
    assert coordinator.requests == []
