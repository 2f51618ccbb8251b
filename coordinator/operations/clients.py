"""What is asked about clients: invite, enrol, list, revoke."""

from __future__ import annotations

from datetime import timedelta

import structlog

from coordinator.access.credentials import new_token, token_digest
from coordinator.access.identity import ClientPrincipal
from coordinator.context import Context
from coordinator.errors import Forbidden, IllegalTransition, Unauthenticated
from coordinator.store import clients as store
from coordinator.store import federations as federation_store
from coordinator.store import tokens as token_store
from coordinator.store.tables import ClientRow, TokenRow
from coordinator.store.tokens import TokenKind
from shared.rest.schema import (
    ClientState,
    ClientView,
    EnrolmentReply,
    FederationState,
    InvitationReply,
)

_log = structlog.get_logger()


async def invite(context: Context, federation_name: str, name: str) -> InvitationReply:
    """A one-time enrolment token for a client, new or known; a known one's credential ends.

    A client of a finished federation gets no more work, but may read the final weights.

    Raises:
        IllegalTransition: the federation has failed.
    """
    now = context.clock()
    expires_at = now + timedelta(seconds=context.settings.enrolment_token_seconds)
    token = new_token(TokenKind.ENROLMENT)
    async with context.database.writing() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        if federation.state == FederationState.FAILED:
            raise IllegalTransition(
                f"federation {federation_name} has failed: it accepts no more clients",
                state=federation.state,
            )
        await federation_store.lock(session, federation.id)
        client = await store.find_or_add(session, federation, name, now)
        client = await store.lock(session, client.id)
        await store.set_state(session, client.id, ClientState.INVITED, client.enrolled_at)
        await token_store.replace_tokens(
            session,
            TokenRow(
                digest=token_digest(token),
                kind=TokenKind.ENROLMENT,
                client_id=client.id,
                created_at=now,
                expires_at=expires_at,
            ),
        )
    _log.info("client invited", federation=federation_name, client=name)
    return InvitationReply(
        federation=federation_name, name=name, enrolment_token=token, expires_at=expires_at
    )


async def enrol(
    context: Context,
    enrolment_token: str,
    federation: str | None = None,
    client: str | None = None,
) -> EnrolmentReply:
    """Exchanges an enrolment token for a credential; first using that enrols the client.

    Until then the token is valid, so an answer that is lost on its way shuts nobody out: the client
    asks again, and its last credential counts. ``federation`` and ``client`` are what the worker
    says that the token is for; None where it does not say.

    Raises:
        Unauthenticated: the token is unknown, used or expired.
        Forbidden: it is another client's than the one that asks; nothing has changed.
    """
    now = context.clock()
    credential = new_token(TokenKind.CLIENT)
    async with context.database.writing() as session:
        owner = await token_store.find_token(
            session, token_digest(enrolment_token), TokenKind.ENROLMENT
        )
        if owner is None or owner.client is None or owner.federation is None:
            raise Unauthenticated("the enrolment token is unknown or has been used")
        if owner.token.expires_at is not None and owner.token.expires_at <= now:
            raise Unauthenticated("the enrolment token has expired")
        owned = (owner.federation.name, owner.client.name)
        if (federation or owned[0], client or owned[1]) != owned:
            raise Forbidden(
                f"the enrolment token belongs to client {owned[1]} of federation {owned[0]}"
            )
        await store.lock(session, owner.client.id)
        if not await token_store.exists(session, owner.token):
            raise Unauthenticated("the enrolment token is unknown or has been used")
        await token_store.add_unused_credential(
            session,
            TokenRow(
                digest=token_digest(credential),
                kind=TokenKind.CLIENT,
                client_id=owner.client.id,
                created_at=now,
            ),
        )
    _log.info("credential issued", federation=owner.federation.name, client=owner.client.name)
    return EnrolmentReply(
        federation=owner.federation.name, client=owner.client.name, credential=credential
    )


async def rotate(context: Context, principal: ClientPrincipal) -> EnrolmentReply:
    """A new credential for the client itself; the old one ends when the new one is first used.

    So an answer that is lost on its way shuts nobody out: the client asks again.
    """
    credential = new_token(TokenKind.CLIENT)
    async with context.database.writing() as session:
        await store.lock(session, principal.client.id)
        await token_store.add_unused_credential(
            session,
            TokenRow(
                digest=token_digest(credential),
                kind=TokenKind.CLIENT,
                client_id=principal.client.id,
                created_at=context.clock(),
            ),
        )
    federation, client = principal.federation.name, principal.client.name
    _log.info("credential rotated", federation=federation, client=client)
    return EnrolmentReply(federation=federation, client=client, credential=credential)


async def list_all(context: Context, federation_name: str) -> list[ClientView]:
    """Every client of a federation, in order of name."""
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        found = await store.list_all(session, federation.id)
    return [view_of(client) for client in found]


async def show(context: Context, federation_name: str, name: str) -> ClientView:
    """One client.

    Raises:
        UnknownThing: there is no such federation or client.
    """
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        client = await store.find(session, federation, name)
    return view_of(client)


def view_of(client: ClientRow) -> ClientView:
    """A client as administrators see it."""
    return ClientView(
        name=client.name,
        state=ClientState(client.state),
        invited_at=client.invited_at,
        enrolled_at=client.enrolled_at,
        last_seen_at=client.last_seen_at,
        updates_recorded=client.updates_recorded,
        worker_version=client.worker_version,
        torch_version=client.torch_version,
        device=client.device,
    )


async def revoke(context: Context, federation_name: str, name: str) -> None:
    """Shuts a client out at once; what it delivered before still counts."""
    async with context.database.writing() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        client = await store.find(session, federation, name)
        client = await store.lock(session, client.id)
        await store.set_state(session, client.id, ClientState.REVOKED, client.enrolled_at)
        await token_store.delete_tokens(session, client.id)
    _log.info("client revoked", federation=federation_name, client=name)
    context.tasks_bell.ring(federation.id)
    context.driver_wake.set()
