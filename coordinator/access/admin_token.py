"""The administrator's first token, in a file of the data folder."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from coordinator.access.credentials import TOKEN_BYTES, new_token, token_digest
from coordinator.database.transactions import Database
from coordinator.store import tokens as store
from coordinator.store.tables import TokenRow
from coordinator.store.tokens import TokenKind
from shared.terminal.text_files import read_text


async def ensure_admin_token(database: Database, file: Path, now: datetime) -> bool:
    """Makes the token in ``file`` valid, or writes a new one if there is none yet.

    Returns whether a new token was written. A database that knows an admin token keeps it when the
    file is missing: a second replica does not need the file.
    """
    token = _read_secret(file)
    if token is not None:
        async with database.writing() as session:
            digest = token_digest(token)
            if await store.find_token(session, digest, TokenKind.ADMIN) is None:
                session.add(_file_token(token, now))
        return False
    async with database.writing() as session:
        if await store.admin_token_exists(session):
            return False
        token = new_token(TokenKind.ADMIN)
        session.add(_file_token(token, now))
        _write_secret(file, token)
    return True


def _file_token(token: str, now: datetime) -> TokenRow:
    digest = token_digest(token)
    return TokenRow(digest=digest, kind=TokenKind.ADMIN, name=f"file-{digest[:12]}", created_at=now)


def _read_secret(file: Path) -> str | None:
    if not file.exists():
        return None
    token = read_text(file).strip()
    if len(token) < TOKEN_BYTES:
        raise ValueError(f"{file} must hold a token of at least {TOKEN_BYTES} characters")
    return token


def _write_secret(file: Path, secret: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secret + "\n")
