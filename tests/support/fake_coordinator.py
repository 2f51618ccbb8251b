"""A coordinator that says what a test tells it to, behind httpx's mock transport."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np

from shared.arrays import NamedArrays, digest_arrays, digest_bytes
from shared.federation.specification import FederationSpecification, document_digest
from shared.rest.problems import MEDIA_TYPE, Problem, ProblemType
from shared.rest.schema import (
    PROTOCOL_VERSION,
    DeclineReply,
    EnrolmentReply,
    FederationState,
    FederationView,
    Health,
    HeartbeatReply,
    Receipt,
    Task,
    TaskKind,
)
from shared.secure_sum.messages import ExchangeView
from shared.tensors import codec
from worker.remote.connection import CoordinatorAddress

NOW = datetime(2026, 1, 1, tzinfo=UTC)
URL = "http://coordinator.test"

Answer = httpx.Response | httpx.TransportError
Request = httpx.Request


def problem(kind: ProblemType, detail: str = "because", **headers: str) -> httpx.Response:
    """A refusal as the coordinator words it."""
    return httpx.Response(
        kind.status,
        content=Problem.of(kind, detail).model_dump_json(),
        headers={"Content-Type": MEDIA_TYPE} | headers,
    )


def unavailable(retry_after: str = "1") -> httpx.Response:
    """Asks to come again."""
    return problem(ProblemType.UNAVAILABLE, **{"Retry-After": retry_after})


def weights_file(content: Any, status: int = 200) -> httpx.Response:
    """Weights, or the rest of them, as the coordinator sends them."""
    return httpx.Response(status, content=content, headers={"Content-Type": codec.MEDIA_TYPE})


def enrolment_token(client: str) -> str:
    return f"token-of-{client}"


def credential(client: str) -> str:
    return f"credential-of-{client}"


@dataclass
class FakeCoordinator:
    """Serves one federation. A client keeps its first task until it is answered for good.

    Attributes:
        tasks: what each client is still to do, in order; without any left the federation ends.
        versions: weights by version. Version 0 is never served.
        chains: files of deltas by (since, version), served instead of the whole.
        revoked: clients whose credential is taken no more.
        requests: everything that was asked, in order, with its body read.
        receive: called with each request before it is answered.
        document: the specification as it is sent, with its digest.
        state, reason: of the federation, as it is shown.
        headers: of the answer about its health.
    """

    specification: FederationSpecification
    tasks: dict[str, list[Task]] = field(default_factory=dict)
    versions: dict[int, NamedArrays] = field(default_factory=dict)
    chains: dict[tuple[int, int], bytes] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    receive: Callable[[Request], None] = lambda _: None
    document: dict[str, Any] = field(default_factory=dict)
    specification_digest: str = ""
    state: FederationState = FederationState.RUNNING
    headers: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    _scripts: dict[tuple[str, str], list[Answer]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.record(self.specification.document)
        self.versions = {0: self.specification.parameters.initial_values()} | self.versions

    @property
    def address(self) -> CoordinatorAddress:
        return CoordinatorAddress(
            URL, request_timeout_seconds=5.0, transfer_seconds=60.0, transport=self.transport
        )

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.reply_to)

    def digest(self, version: int) -> str:
        return digest_arrays(self.versions[version])

    def add_version(self, version: int) -> NamedArrays:
        """Weights of their own for ``version``."""
        generator = np.random.default_rng(version)
        self.versions[version] = {
            tensor.name: generator.standard_normal(tensor.shape).astype(np.float32)
            for tensor in self.specification.parameters.tensors
        }
        return self.versions[version]

    def add_task(
        self,
        client: str,
        round_number: int = 1,
        *,
        kind: TaskKind = TaskKind.TRAIN,
        base_version: int = 0,
        lease_seconds: float = 3600.0,
        client_number: int | None = None,
        exchange: ExchangeView | None = None,
    ) -> Task:
        """One more task for ``client``, from weights that exist."""
        task = Task(
            kind=kind,
            federation=self.specification.name,
            client=client,
            round_number=round_number,
            attempt=1,
            base_version=base_version,
            base_digest=self.digest(base_version),
            lease_seconds=lease_seconds,
            client_number=client_number,
            exchange=exchange,
        )
        self.tasks.setdefault(client, []).append(task)
        return task

    def answer(self, method: str, path: str, *answers: Answer) -> None:
        """What the next requests get whose method is this and whose path ends with ``path``."""
        self._scripts[method, path].extend(answers)

    def asked(self, method: str, path: str = "") -> Sequence[Request]:
        """The requests so far whose method is this and whose path ends with ``path``."""
        return [
            request
            for request in self.requests
            if request.method == method and request.url.path.endswith(path)
        ]

    def updates(self, client: str = "") -> list[bytes]:
        """The bodies of updates, with repetitions."""
        return [
            request.content
            for request in self.asked("PUT", f"/{client}" if client else "")
            if "/updates/" in request.url.path
        ]

    def declined(self) -> list[tuple[str, int, str]]:
        """Client, round and reason of each round that was declined, with repetitions."""
        return [
            (
                request.headers["Authorization"].removeprefix("Bearer credential-of-"),
                int(request.url.path.split("/")[-2]),
                json.loads(request.content)["reason"],
            )
            for request in self.asked("PUT", "/decline")
        ]

    def decline_kinds(self) -> list[str]:
        """What kept clients from rounds, of each round that was declined, with repetitions."""
        return [json.loads(request.content)["kind"] for request in self.asked("PUT", "/decline")]

    def reply_to(self, request: Request) -> httpx.Response:
        """What it answers to a request whose body has been read."""
        self.requests.append(request)
        self.receive(request)
        response = self._scripted(request) or self._reply(request)
        if request.method == "PUT" and "/updates/" in request.url.path:
            *_, round_number, _, client = request.url.path.split("/")
            self._note_answer(client, int(round_number), response)
        return response

    def _scripted(self, request: Request) -> httpx.Response | None:
        for (method, path), answers in self._scripts.items():
            if answers and request.method == method and request.url.path.endswith(path):
                answer = answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return answer
        return None

    def _reply(self, request: Request) -> httpx.Response:
        path = request.url.path
        if path == "/healthz":
            health = Health(status="ok", protocol=PROTOCOL_VERSION, version="1.2.3")
            return httpx.Response(200, content=health.model_dump_json(), headers=self.headers)
        if path == "/v1/enrolments":
            return self._enrol(request)
        client = request.headers.get("Authorization", "").removeprefix("Bearer credential-of-")
        if client in self.revoked:
            return problem(ProblemType.UNAUTHENTICATED, "the token is revoked")
        if path.endswith("/task"):
            tasks = self.tasks.get(client, [])
            if not tasks:
                return problem(ProblemType.FEDERATION_FINISHED)
            return httpx.Response(200, content=tasks[0].model_dump_json())
        if path.endswith("/heartbeat"):
            task = self.tasks[client][0]
            reply = HeartbeatReply(
                round_number=task.round_number,
                attempt=task.attempt,
                lease_seconds=task.lease_seconds,
            )
            return httpx.Response(200, content=reply.model_dump_json())
        if path.endswith("/decline"):
            return self._decline(request, client)
        if request.method == "PUT":
            return self._receipt(request, client)
        if found := re.search(r"/weights/(\d+)$", path):
            return self._weights(request, int(found.group(1)))
        return httpx.Response(200, content=self._view().model_dump_json())

    def _enrol(self, request: Request) -> httpx.Response:
        given = re.search(rb"token-of-([a-z0-9-]+)", request.content)
        if given is None:
            return problem(ProblemType.UNAUTHENTICATED)
        client = given.group(1).decode()
        reply = EnrolmentReply(
            federation=self.specification.name, client=client, credential=credential(client)
        )
        return httpx.Response(201, content=reply.model_dump_json())

    def _receipt(self, request: Request, client: str) -> httpx.Response:
        receipt = Receipt(
            federation=self.specification.name,
            client=client,
            round_number=int(request.url.path.split("/")[-3]),
            digest=digest_bytes(request.content),
            size_bytes=len(request.content),
            received_at=NOW,
        )
        return httpx.Response(201, content=receipt.model_dump_json())

    def _decline(self, request: Request, client: str) -> httpx.Response:
        round_number = int(request.url.path.split("/")[-2])
        tasks = self.tasks[client]
        if tasks and tasks[0].round_number == round_number:
            tasks.pop(0)
        reply = DeclineReply(
            round_number=round_number, reason=json.loads(request.content)["reason"]
        )
        return httpx.Response(200, content=reply.model_dump_json())

    def _note_answer(self, client: str, round_number: int, response: httpx.Response) -> None:
        tasks = self.tasks[client]
        if not tasks or tasks[0].round_number != round_number:
            return  # an update of an earlier round
        text = response.content.decode()
        if ProblemType.LEASE_LOST.urn in text:
            tasks[0] = tasks[0].model_copy(update={"attempt": tasks[0].attempt + 1})
        elif response.is_success or response.status_code == 409:
            tasks.pop(0)

    def _weights(self, request: Request, version: int) -> httpx.Response:
        if version == 0:
            return problem(ProblemType.INTERNAL, "version 0 is built and not downloaded")
        since = request.url.params.get("since")
        if since is not None and (chain := self.chains.get((int(since), version))):
            return weights_file(chain)
        whole = codec.encode(self.versions[version])
        start = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if start is None:
            return weights_file(whole)
        if int(start.group(1)) >= len(whole):
            return problem(ProblemType.RANGE_NOT_SATISFIABLE)
        return weights_file(whole[int(start.group(1)) :], 206)

    def record(self, document: dict[str, Any]) -> None:
        """Sends this specification from now on."""
        self.document = document
        self.specification_digest = document_digest(document)

    def _view(self) -> FederationView:
        newest = max(self.versions)
        return FederationView(
            name=self.specification.name,
            state=self.state,
            reason=self.reason,
            method=self.specification.training.method,
            model=self.specification.training.model,
            rounds_committed=newest,
            rounds_planned=self.specification.round_policy.rounds,
            round_number=None,
            clients_enrolled=len(self.tasks),
            weights_version=newest,
            weights_digest=self.digest(newest),
            created_at=NOW,
            started_at=NOW,
            finished_at=None,
            specification=self.document,
            specification_digest=self.specification_digest,
        )
