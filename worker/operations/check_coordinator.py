"""Looks at the coordinator from the site: the way to it, TLS, clock, credential. Spends nothing."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from pydantic import ValidationError

from shared.federation.specification import FederationSpecification
from shared.rest.schema import PROTOCOL_VERSION, Health
from shared.validation import first_fault
from worker.errors import ConfigError, Refused, RequestFailed
from worker.operations.check_rows import Row, fault, ok, warning
from worker.remote.connection import Connection, CoordinatorAddress, Look
from worker.remote.coordinator_api import CoordinatorApi
from worker.settings import ClientConfig
from worker.site.enrolment import CREDENTIAL_NAME, TOKEN_NAME, check_token, read_credential
from worker.site.opening import read_specification

_CREDENTIAL = "credential"
_CLOCK_WARNING = timedelta(seconds=60)
_CERTIFICATE_WARNING = timedelta(days=14)


@dataclass(frozen=True)
class FoundFederation:
    """The federation as a client that is enrolled is shown it."""

    specification: FederationSpecification
    digest: str


async def check_reach(address: CoordinatorAddress, now: datetime) -> list[Row]:
    """Rows about the way to the coordinator; ``now`` is this machine's time."""
    try:
        connection = Connection(address, credential=None)
    except ConfigError as error:
        return [fault("coordinator", error)]
    try:
        look = await connection.look()
    except RequestFailed as error:
        return [fault("coordinator", error)]
    finally:
        await connection.close()
    return [*_protocol(look), *_clock(look, now), *_certificate(look, now)]


async def check_credential(
    client: ClientConfig, address: CoordinatorAddress, federation: str, *, is_reached: bool
) -> tuple[Row, FoundFederation | None]:
    """A row about a client's credential or token, and the federation if the first one works.

    Nothing is sent to a coordinator that was not reached, or is none.
    """
    try:
        if check_token(client) or (client.state_dir / TOKEN_NAME).exists():
            said = "enrols at the first start; the token was not sent"
            return ok(_CREDENTIAL, said, client.name), None
        credential = read_credential(client.state_dir / CREDENTIAL_NAME)
    except ConfigError as error:
        return fault(_CREDENTIAL, error, client.name), None
    if not is_reached:
        return warning(_CREDENTIAL, "there is one; it was not tried", client.name), None
    return await _try(client.name, CoordinatorApi(address, credential), federation)


async def _try(
    client: str, http: CoordinatorApi, federation: str
) -> tuple[Row, FoundFederation | None]:
    try:
        view = await http.fetch_federation(federation)
        specification = read_specification(view, federation)
    except Refused as refusal:
        return fault(_CREDENTIAL, refusal, client), None
    except RequestFailed as error:
        return warning(_CREDENTIAL, f"not tried: {error}", client), None
    except ConfigError as error:
        return fault("specification", error), None
    finally:
        await http.close()
    row = ok(_CREDENTIAL, f"accepted; the federation is {view.state}", client)
    return row, FoundFederation(specification, view.specification_digest)


def _protocol(look: Look) -> Iterator[Row]:
    try:
        health = Health.model_validate_json(look.answer.content)
    except ValidationError as error:
        yield fault("coordinator", look.answer.not_ours(str(first_fault(error))))
        return
    yield ok("coordinator", f"{look.answer.url} answers; its version is {health.version}")
    if health.protocol == PROTOCOL_VERSION:
        yield ok("protocol", f"version {PROTOCOL_VERSION} on both sides")
    else:
        ours = f"this worker speaks version {PROTOCOL_VERSION}"
        yield fault("protocol", f"{ours}, and the coordinator version {health.protocol}")


def _clock(look: Look, now: datetime) -> Iterator[Row]:
    try:
        theirs = parsedate_to_datetime(look.answer.headers["Date"])
        apart = abs(now - theirs)
    except (KeyError, ValueError, TypeError):
        yield warning("clock", "the coordinator does not say what time it is")
        return
    make = warning if apart > _CLOCK_WARNING else ok
    yield make("clock", f"{apart.total_seconds():.0f} s from the coordinator's")


def _certificate(look: Look, now: datetime) -> Iterator[Row]:
    certificate = look.peer_certificate
    if not certificate:
        yield ok("TLS", "none: whoever can read the network can read what is sent")
        return
    names = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    issuer = names.get("commonName") or names.get("organizationName") or "an unnamed authority"
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    make = warning if ends - now < _CERTIFICATE_WARNING else ok
    yield make("TLS", f"certificate of {issuer}, until {ends:%Y-%m-%d}")
