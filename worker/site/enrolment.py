"""A client's credential: from disk, or by enrolment, which may be repeated until it has worked.

The coordinator takes an enrolment token until the credential that it was exchanged for is first
used. So the token is kept beside the credential until then, whatever becomes of the file that it
came in: an answer that is lost, or a kill at any point, is met by asking again.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from shared.rest.problems import ProblemType
from shared.terminal.text_files import UnreadableText, read_word
from worker.errors import ConfigError, Refused
from worker.files import write_atomically
from worker.remote.connection import CoordinatorAddress
from worker.remote.coordinator_api import CoordinatorApi
from worker.remote.patience import Patience
from worker.settings import ClientConfig

CREDENTIAL_NAME = "credential"
TOKEN_NAME = "enrolment-token"  # noqa: S105 - of a file

_log = structlog.get_logger()


async def obtain_credential(
    config: ClientConfig, address: CoordinatorAddress, federation: str, patience: Patience
) -> str:
    """The client's credential from disk, or by enrolment, kept on disk before it is used.

    Raises:
        ConfigError: there is neither a credential nor an enrolment token, or it is another's.
        Refused: the coordinator does not take the token.
    """
    file = config.state_dir / CREDENTIAL_NAME
    if file.exists():
        return read_credential(file)
    token = _enrolment_token(config)
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(config.state_dir / TOKEN_NAME, token.encode() + b"\n")
    http = CoordinatorApi(address, credential=None)
    try:
        reply = await patience.insist(
            "enrolling", lambda: http.enrol(token, federation, config.name)
        )
    except Refused as refusal:
        if refusal.is_a(ProblemType.FORBIDDEN):  # it is another's, and still good
            raise ConfigError(f"client {config.name}: {refusal.problem.detail}") from refusal
        raise
    finally:
        await http.close()
    if (reply.federation, reply.client) != (federation, config.name):
        raise ConfigError(
            f"the enrolment token of client {config.name} belongs to client {reply.client} "
            f"of federation {reply.federation}"
        )
    write_atomically(file, reply.credential.encode() + b"\n")
    _log.info("client enrolled", client=config.name)
    return reply.credential


def check_token(config: ClientConfig) -> bool:
    """Whether the client still has to enrol, for which it has a token.

    Raises:
        ConfigError: it has neither a credential nor a token that can be read.
    """
    if (config.state_dir / CREDENTIAL_NAME).exists():
        return False
    _enrolment_token(config)
    return True


def read_credential(file: Path) -> str:
    """A client's credential.

    Raises:
        ConfigError: the file cannot be read, or is no text.
    """
    return _read_word(file, "a credential")


def confirm(config: ClientConfig) -> None:
    """The credential has worked, so the token is worth nothing any more."""
    (config.state_dir / TOKEN_NAME).unlink(missing_ok=True)


def forget_unused(config: ClientConfig) -> bool:
    """Whether the credential had never worked, and was removed to be asked for again.

    Of several answers to repeated enrolments only the last counts, and that may be one that came to
    nobody: a try that was given up can still have been carried out after the one that succeeded.
    """
    if not (config.state_dir / TOKEN_NAME).exists():
        return False
    (config.state_dir / CREDENTIAL_NAME).unlink(missing_ok=True)
    return True


def _enrolment_token(config: ClientConfig) -> str:
    """As configured; else that of an enrolment that was not seen to its end."""
    if config.enrolment_token is not None:
        return config.enrolment_token
    kept = config.state_dir / TOKEN_NAME
    given = config.enrolment_token_file or kept
    if config.enrolment_token_file is None and not kept.exists():
        raise ConfigError(f"client {config.name} is not enrolled and has no enrolment token")
    file = kept if kept.exists() and not given.exists() else given
    return _read_word(file, "an enrolment token")


def _read_word(file: Path, what: str) -> str:
    try:
        return read_word(file, what)
    except UnreadableText as error:
        raise ConfigError(str(error)) from error
