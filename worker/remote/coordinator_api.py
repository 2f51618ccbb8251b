"""One client's requests to the coordinator, and what it makes of the answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.arrays import digest_bytes
from shared.crash_points import reached
from shared.rest.declines import DeclineKind
from shared.rest.schema import (
    DIGEST,
    DeclineReply,
    DeclineRequest,
    EnrolmentReply,
    EnrolmentRequest,
    ExchangeReceipt,
    FederationView,
    HeartbeatReply,
    Receipt,
    Task,
)
from shared.rest.state_generation import StateGeneration
from shared.rest.worker_about import WorkerAbout
from shared.secure_sum.cards import Card
from shared.secure_sum.messages import Confirmation, Join, Unmasking
from shared.tensors import codec
from shared.validation import first_fault
from worker.errors import AnswerTooLong
from worker.files import naming
from worker.remote.bounds import EXCHANGE_BYTES, FEDERATION_BYTES
from worker.remote.connection import Answer, Connection, CoordinatorAddress, Download

Reply = TypeVar("Reply", bound=BaseModel)
_CARDS = TypeAdapter(list[Card])


class CoordinatorApi:
    """Sends requests with one client's credential; retries nothing by itself."""

    def __init__(self, address: CoordinatorAddress, credential: str | None) -> None:
        self._connection = Connection(address, credential)

    async def close(self) -> None:
        """Closes the connections."""
        await self._connection.close()

    async def enrol(self, enrolment_token: str, federation: str, client: str) -> EnrolmentReply:
        """Exchanges a one-time token for a credential, if it is this client's."""
        request = EnrolmentRequest(
            enrolment_token=enrolment_token, federation=federation, client=client
        )
        answer = await self._connection.send("POST", "/v1/enrolments", json=request.model_dump())
        return _read(EnrolmentReply, answer)

    async def rotate(self, federation: str, client: str) -> EnrolmentReply:
        """A new credential; the one that this asks with ends when the new one is first used."""
        answer = await self._connection.send(
            "POST", f"/v1/federations/{federation}/clients/{client}/rotate"
        )
        return _read(EnrolmentReply, answer)

    async def fetch_federation(self, federation: str) -> FederationView:
        """The federation with its specification."""
        answer = await self._connection.send(
            "GET", f"/v1/federations/{federation}", max_bytes=FEDERATION_BYTES
        )
        return _read(FederationView, answer)

    async def next_task(
        self,
        federation: str,
        wait_seconds: float,
        about: WorkerAbout | None = None,
        state: StateGeneration | None = None,
    ) -> Task | None:
        """Work, if there is some within ``wait_seconds``.

        The worker says what it is, and how far the client's private state has come.

        Raises:
            FederationFinished: there will be no more tasks.
        """
        answer = await self._connection.send(
            "GET",
            f"/v1/federations/{federation}/task",
            silence_seconds=wait_seconds,
            max_bytes=EXCHANGE_BYTES,
            params={"wait": wait_seconds} | _said(about) | _said(state),
        )
        return None if answer.status == 204 else _read(Task, answer)

    async def heartbeat(self, task: Task) -> HeartbeatReply:
        """Prolongs the task's lease."""
        answer = await self._connection.send(
            "POST",
            f"/v1/federations/{task.federation}/rounds/{task.round_number}/heartbeat",
            json={"attempt": task.attempt},
        )
        return _read(HeartbeatReply, answer)

    async def decline(
        self, task: Task, kind: DeclineKind, reason: str, joined_round: int | None = None
    ) -> None:
        """Says why the client takes no part in the task's round; saying it again is safe.

        ``joined_round`` is the number of the secure sum that the client has joined before, where
        that is why.
        """
        answer = await self._connection.send(
            "PUT",
            f"/v1/federations/{task.federation}/rounds/{task.round_number}/decline",
            params={"attempt": task.attempt},
            json=DeclineRequest(reason=reason, kind=kind, joined_round=joined_round).model_dump(
                mode="json"
            ),
        )
        _read(DeclineReply, answer)

    async def put_card(self, card: Card) -> None:
        """Shows the client's public keys; showing the same again is safe."""
        await self._connection.send(
            "PUT",
            f"/v1/federations/{card.federation}/cards/{card.client}",
            json=card.model_dump(mode="json"),
        )

    async def fetch_cards(self, federation: str) -> list[Card]:
        """The public keys of all clients that can take part in a secure sum."""
        answer = await self._connection.send(
            "GET", f"/v1/federations/{federation}/cards", max_bytes=EXCHANGE_BYTES
        )
        try:
            return _CARDS.validate_json(answer.content)
        except ValidationError as error:
            raise answer.not_ours(str(first_fault(error))) from None

    async def put_message(self, task: Task, message: Join | Confirmation | Unmasking) -> None:
        """Sends the task's message of a secure sum; sending the same again is safe."""
        answer = await self._connection.send(
            "PUT",
            f"/v1/federations/{task.federation}/rounds/{task.round_number}"
            f"/exchange/{task.kind.value}",
            params={"attempt": task.attempt},
            json=message.model_dump(mode="json"),
        )
        _read(ExchangeReceipt, answer)

    async def put_update(
        self, task: Task, update: bytes, state: StateGeneration | None = None
    ) -> Receipt:
        """Sends an update, saved in this private state; sending the same bytes again is safe."""
        answer = await self._connection.send(
            "PUT",
            f"/v1/federations/{task.federation}/rounds/{task.round_number}/updates/{task.client}",
            silence_seconds=len(update) / self._connection.address.least_bytes_per_second,
            params={"attempt": task.attempt} | _said(state),
            content=update,
            headers={"Content-Type": codec.MEDIA_TYPE},
        )
        receipt = _read(Receipt, answer)
        if receipt.digest != digest_bytes(update):
            raise answer.not_ours("the receipt is for another update")
        return receipt

    async def fetch_weights_digest(self, federation: str, version: int) -> str:
        """The digest that a version is known by."""
        path = f"/v1/federations/{federation}/weights/{version}"
        async with self._weights(path, {}, {"Range": "bytes=0-0"}) as download:
            digest = download.head.headers.get("ETag", "").strip('"')
            if not re.fullmatch(DIGEST, digest):
                raise download.head.not_ours("the ETag is no digest")
            return digest

    async def fetch_weights(
        self,
        federation: str,
        version: int,
        file: Path,
        *,
        max_bytes: int,
        since: int | None = None,
    ) -> None:
        """Writes a version's file, or the deltas from version ``since`` on where they are less.

        What ``file`` holds already of the whole version is not asked for again. A file of more
        than ``max_bytes`` is removed.
        """
        start = file.stat().st_size if since is None and file.exists() else 0
        query = {} if since is None else {"since": since}
        headers = {"Range": f"bytes={start}-"} if start else {}
        path = f"/v1/federations/{federation}/weights/{version}"
        async with self._weights(path, query, headers) as download:
            is_rest = download.head.status == 206
            left = max_bytes - (start if is_rest else 0)
            with file.open("ab" if is_rest else "wb", buffering=0) as stream:
                try:
                    async for piece in download.pieces(left):
                        reached("weights-piece-received")
                        with naming(file):
                            stream.write(piece)
                except AnswerTooLong:
                    file.unlink()
                    raise
        reached("weights-downloaded")

    @asynccontextmanager
    async def _weights(
        self, path: str, query: dict[str, int], headers: dict[str, str]
    ) -> AsyncIterator[Download]:
        async with self._connection.download(
            "GET", path, params=query, headers=headers
        ) as download:
            if download.head.headers.get("Content-Type") != codec.MEDIA_TYPE:
                raise download.head.not_ours()
            yield download


def _said(what: WorkerAbout | StateGeneration | None) -> dict[str, Any]:
    return {} if what is None else what.model_dump(exclude_none=True)


def _read(model: type[Reply], answer: Answer) -> Reply:
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        raise answer.not_ours(str(first_fault(error))) from None
