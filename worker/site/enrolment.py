"""A client's credential: from disk, or by enrolment, which may be repeated until it has worked.

The coordinator takes an enrolment token until the credential that it was exchanged for is first
used. So the token is kept beside the credential until then, whatever becomes of the file that it
came in: an answer that is lost, or a kill at any point, is met by asking again.
"""

from __future__ import annotations

import structlog

from worker.errors import ConfigError
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
        return file.read_text().strip()
    token = _enrolment_token(config)
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(config.state_dir / TOKEN_NAME, token.encode() + b"\n")
    http = CoordinatorApi(address, credential=None)
    try:
        reply = await patience.insist("enrolling", lambda: http.enrol(token))
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
    try:
        return (kept if kept.exists() and not given.exists() else given).read_text().strip()
    except OSError as error:
        if config.enrolment_token_file is None:
            raise ConfigError(
                f"client {config.name} is not enrolled and has no enrolment token"
            ) from error
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
