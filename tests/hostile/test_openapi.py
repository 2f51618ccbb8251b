"""Whatever fits or breaks the OpenAPI document is answered as it says, and never by 5xx."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.types import Receive, Scope, Send

from coordinator.access.admin_token import ensure_admin_token
from coordinator.app import create_app
from coordinator.context import Context
from coordinator.database.migrate import migrate
from coordinator.rounds.driver import Driver
from coordinator.settings import CoordinatorSettings
from shared.secure_sum.cards import SiteKeys
from shared.tensors.codec import MEDIA_TYPE
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

_EXAMPLES = 20
"""Of each call and mode; tests/hostile/test_fuzzed_json.py has many more that are nearly right."""
_CLIENT, _INVITED, _TOKEN = "site-a", "site-b", "spare"
_WITHOUT_BODY = ("GET", "DELETE")
_ACTORS = ("admin", "reader", "client")
_EXCHANGE = ("/exchange/join", "/exchange/confirm", "/exchange/unmask")
"""How the paths end that belong to a phase of a secure sum. What they grant is tried in
tests/integration/test_secure_sum.py; the round here has none."""

_CLIENTS_OWN = (
    *("/task", "/heartbeat", "/decline", "/updates/{client_name}", "/rotate"),
    "/cards/{client_name}",
    *_EXCHANGE,
)
"""How the paths end that only a client may ask for."""

Headers = dict[str, str]


@schemathesis.serializer(MEDIA_TYPE)
def _serialise_update(context: Any, value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray) else str(value).encode()


_OPERATIONS = sorted(
    (method.upper(), path)
    for path, methods in create_app(CoordinatorSettings()).openapi()["paths"].items()
    for method in methods
)


@dataclass(frozen=True)
class Federation:
    """One with an open round: ``_CLIENT`` holds a task, ``_INVITED`` is not enrolled yet."""

    task: dict[str, Any]
    enrolment_token: str
    headers: dict[str, Headers]
    """By actor."""

    @property
    def path_parameters(self) -> dict[str, Any]:
        """Of everything that exists."""
        return {
            "federation_name": self.task["federation"],
            "client_name": self.task["client"],
            "round_number": self.task["round_number"],
            "version": self.task["base_version"],
            "token_name": _TOKEN,
        }


class _Stepped:
    """The application, whose driver steps before a client asks for work and at no other time."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        self._app = create_app(settings)
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: Context = self._app.state.context
        if scope["type"] == "lifespan":
            file = self._settings.effective_admin_token_file
            await receive()
            await ensure_admin_token(context.database, file, context.clock())
            context.driver_pulse.beat()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await context.database.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"].endswith("/task"):
            await Driver(context).step()
        await self._app(scope, receive, send)


class Served:
    """A coordinator that serves, asked through its own document."""

    def __init__(self, folder: Path) -> None:
        settings = CoordinatorSettings(
            data_dir=folder,
            # Every call has to be looked at.
            requests_per_second_per_token=1e6,
            requests_per_second_per_address=1e6,
            unauthenticated_requests_per_second_per_address=1e6,
        )
        migrate(settings.effective_database_url)
        self.document = schemathesis.openapi.from_asgi("/openapi.json", _Stepped(settings))
        # Each call says itself who makes it; a header that is left out would be put back.
        for operations in self.document.raw_schema["paths"].values():
            for operation in operations.values():
                operation.pop("security", None)
        self._admin = _bearer(settings.effective_admin_token_file.read_text().strip())
        reader = {"name": "reader", "scope": "read-only"}
        self._reader = _bearer(self._ask("POST", "/v1/tokens", body=reader)["token"])
        self._numbers = itertools.count()

    def _ask(
        self, method: str, path: str, headers: Headers | None = None, **request: Any
    ) -> dict[str, Any]:
        media_type = "application/json" if "body" in request else None
        case = self.document[path][method].Case(media_type=media_type, **request)
        response = case.call(headers=dict(headers or self._admin))
        assert 200 <= response.status_code < 300, response.text
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer

    def new_federation(self) -> Federation:
        """Whatever a test did to the last one."""
        name = f"tiny-{next(self._numbers)}"
        path = "/v1/federations/{federation_name}"
        within = {"path_parameters": {"federation_name": name}}
        document = json.loads(tiny_specification(name).model_dump_json())
        self._ask("POST", "/v1/federations", body=document)
        tokens = [
            self._ask("POST", f"{path}/clients", body={"name": client}, **within)["enrolment_token"]
            for client in (_CLIENT, _INVITED)
        ]
        enrolled = self._ask("POST", "/v1/enrolments", body={"enrolment_token": tokens[0]})
        client = _bearer(enrolled["credential"])
        # The first use, which enrols it; rounds are for those that have asked for work.
        self._ask("GET", f"{path}/task", client, **within)
        self._ask("PATCH", path, body={"action": "start"}, **within)
        task = self._ask("GET", f"{path}/task", client, **within)
        headers = {"admin": self._admin, "reader": self._reader, "client": client}
        return Federation(task, tokens[1], headers)

    def new_token(self) -> None:
        """One that may be revoked."""
        self._ask("POST", "/v1/tokens", body={"name": _TOKEN, "scope": "read-only"})


def _bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


def _update(federation: Federation) -> bytes:
    task = federation.task
    return update_bytes(tiny_specification(task["federation"]), task)


_FITTING: dict[tuple[str, str], Callable[[Federation], Any]] = {
    ("POST", "/v1/federations"): lambda one: json.loads(
        tiny_specification(f"{one.task['federation']}-other").model_dump_json()
    ),
    ("POST", "/v1/enrolments"): lambda one: {"enrolment_token": one.enrolment_token},
    ("PATCH", "/v1/federations/{federation_name}"): lambda _: {"action": "pause"},
    ("PUT", "/v1/federations/{federation_name}/cards/{client_name}"): lambda one: (
        SiteKeys.generate().card(one.task["federation"], one.task["client"]).model_dump()
    ),
    (
        "POST",
        "/v1/federations/{federation_name}/rounds/{round_number}/heartbeat",
    ): lambda one: {"attempt": one.task["attempt"]},
    (
        "PUT",
        "/v1/federations/{federation_name}/rounds/{round_number}/decline",
    ): lambda _: {"reason": "too few examples"},
    (
        "PUT",
        "/v1/federations/{federation_name}/rounds/{round_number}/updates/{client_name}",
    ): _update,
}
"""Bodies that a generator of documents has no chance to find."""


def _pin(case: Any, federation: Federation, *, with_body: bool) -> None:
    """Points a generated call at what exists."""
    known = federation.path_parameters
    case.path_parameters = {name: known[name] for name in case.path_parameters}
    if with_body and (body := _FITTING.get((case.method, case.path))) is not None:
        case.body = body(federation)
        if "attempt" in case.query:
            case.query = {"attempt": federation.task["attempt"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("coordinator"))


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), _OPERATIONS)
def test_every_call_is_answered_as_documented(
    served: Served, method: str, path: str, mode: GenerationMode
) -> None:
    federation = served.new_federation()
    if (method, path) == ("DELETE", "/v1/tokens/{token_name}"):
        served.new_token()
    operation = served.document[path][method]
    usual = "client" if path.endswith(_CLIENTS_OWN) else "admin"
    answers: Counter[int] = Counter()

    @given(
        case=operation.as_strategy(generation_mode=mode),
        actor=st.sampled_from((usual, usual, *_ACTORS)),
        pinned=st.sampled_from(("all", "all", "path", "nothing")),
    )
    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def answer(case: Any, actor: str, pinned: str) -> None:
        if pinned != "nothing":
            is_positive = mode is GenerationMode.POSITIVE
            _pin(case, federation, with_body=is_positive and pinned == "all")
        # Rules that tie two members together are beyond a schema: refusing is right, too.
        excluded = [positive_data_acceptance]
        # Schemathesis takes a binary body that was put in for a wrong one. Of a query parameter
        # that is repeated, the last counts; unknown ones say nothing.
        if mode is GenerationMode.POSITIVE or (pinned != "nothing" and method in _WITHOUT_BODY):
            excluded.append(negative_data_rejection)
        response = case.call_and_validate(
            headers=dict(federation.headers[actor]), excluded_checks=excluded
        )
        answers[response.status_code // 100] += 1

    try:
        answer()
    except Unsatisfiable:  # a call without parameters has no way to be wrong
        assert mode is GenerationMode.NEGATIVE
    if mode is GenerationMode.POSITIVE and not path.endswith(_EXCHANGE):
        assert answers[2] > 0, f"nothing of this was ever granted: {answers}"
