"""Problem documents: workers act on these names and statuses, so they never change."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from shared.rest.problems import Problem, ProblemType

PUBLISHED = {
    "bad-request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "name-taken": 409,
    "illegal-transition": 409,
    "round-closed": 409,
    "stale-base-version": 409,
    "lease-lost": 409,
    "state-restored": 409,
    "update-conflict": 409,
    "federation-finished": 410,
    "version-removed": 410,
    "body-too-large": 413,
    "too-slow": 408,
    "target-too-long": 414,
    "unsupported-media-type": 415,
    "range-not-satisfiable": 416,
    "malformed-update": 422,
    "invalid-request": 422,
    "too-many-requests": 429,
    "headers-too-large": 431,
    "internal": 500,
    "driver-silent": 503,
    "storage-full": 503,
    "unavailable": 503,
}


def test_the_published_types_keep_their_names_and_statuses() -> None:
    assert {kind.urn: kind.status for kind in ProblemType} == {
        f"urn:hyperfl:problem:{slug}": status for slug, status in PUBLISHED.items()
    }


def test_every_type_has_a_title_of_its_own() -> None:
    titles = [kind.title for kind in ProblemType]
    assert all(titles)
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("kind", ProblemType)
def test_a_document_has_the_members_of_its_type(kind: ProblemType) -> None:
    assert Problem.of(kind, "what happened").model_dump() == {
        "type": kind.urn,
        "title": kind.title,
        "status": kind.status,
        "detail": "what happened",
    }


def test_a_document_says_what_and_where_beside_the_standard_members() -> None:
    where = {"tensor": "x", "position": [2, 1], "expected": {"shape": [4]}, "found": "nan"}
    problem = Problem.of(ProblemType.MALFORMED_UPDATE, "detail", **where)
    sent = json.loads(problem.model_dump_json())
    assert {name: sent[name] for name in where} == where
    assert Problem.model_validate(sent) == problem


def test_a_document_of_a_type_from_a_later_coordinator_is_read() -> None:
    sent = {"type": "urn:hyperfl:problem:later", "title": "t", "status": 418, "detail": "d", "x": 1}
    read = Problem.model_validate(sent)
    assert (read.type, read.status, read.model_extra) == (sent["type"], 418, {"x": 1})


@pytest.mark.parametrize("member", ["type", "title", "status", "detail"])
def test_a_document_without_a_standard_member_is_refused(member: str) -> None:
    sent = Problem.of(ProblemType.INTERNAL, "detail").model_dump()
    del sent[member]
    with pytest.raises(ValidationError, match=member):
        Problem.model_validate(sent)
