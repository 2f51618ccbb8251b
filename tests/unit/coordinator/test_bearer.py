"""Which token a header holds: the same for its rate as for its rights."""

from __future__ import annotations

import pytest

from coordinator.bearer import bearer_token, find_bearer_token


@pytest.mark.parametrize(
    "header",
    ["Bearer abc", "bearer abc", "BEARER abc", "Bearer   abc", "Bearer abc \t", "Bearer \xa0abc"],
)
def test_every_spelling_holds_the_same_token(header: str) -> None:
    assert bearer_token(header) == "abc"
    assert find_bearer_token([(b"authorization", header.encode("latin-1"))]) == "abc"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer  ", "Basic abc", "Bearer\tabc", " Bearer abc"]
)
def test_what_is_no_bearer_token_is_none(header: str | None) -> None:
    assert bearer_token(header) is None


def test_the_first_of_several_headers_counts() -> None:
    headers = [(b"host", b"x"), (b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]
    assert find_bearer_token(headers) == "a"
    assert find_bearer_token(headers[:1]) is None
