"""What the database says of one federation, read row by row beside the application."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import select

from coordinator.database.transactions import Database
from coordinator.store.tables import (
    AssignmentRow,
    ClientRow,
    FederationRow,
    RoundRow,
    UpdateRow,
    WeightsRow,
)


@dataclass(frozen=True)
class RecordedRound:
    """A round with the digest of every update that is recorded for it."""

    number: int
    kind: str
    phase: str
    base_version: int
    new_version: int | None
    updates: tuple[tuple[str, str], ...]
    """(client, digest), one for each row of the table of updates."""


@dataclass(frozen=True)
class Ledger:
    """Rounds in order of number, versions in order of their own."""

    weights_version: int
    rounds: tuple[RecordedRound, ...]
    versions: tuple[tuple[int, str], ...]


async def read_ledger(database: Database, federation: str) -> Ledger:
    """Everything that must never be wrong."""
    async with database.reading() as session:
        key, weights_version = (
            await session.execute(
                select(FederationRow.id, FederationRow.weights_version).where(
                    FederationRow.name == federation
                )
            )
        ).one()
        rounds = await session.scalars(
            select(RoundRow).where(RoundRow.federation_id == key).order_by(RoundRow.number)
        )
        rows = await session.execute(
            select(AssignmentRow.round_id, ClientRow.name, UpdateRow.digest)
            .join(UpdateRow, UpdateRow.assignment_id == AssignmentRow.id)
            .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
            .where(ClientRow.federation_id == key)
            .order_by(ClientRow.name)
        )
        updates = defaultdict(list)
        for round_id, client, digest in rows:
            updates[round_id].append((client, digest))
        versions = await session.execute(
            select(WeightsRow.version, WeightsRow.digest)
            .where(WeightsRow.federation_id == key)
            .order_by(WeightsRow.version)
        )
        return Ledger(
            weights_version,
            tuple(
                RecordedRound(
                    one.number,
                    one.kind,
                    one.phase,
                    one.base_version,
                    one.new_version,
                    tuple(updates[one.id]),
                )
                for one in rounds
            ),
            tuple((version, digest) for version, digest in versions),
        )
