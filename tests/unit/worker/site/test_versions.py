"""How a person says which version of a client's model is meant."""

from __future__ import annotations

import pytest

from worker.errors import ConfigError
from worker.site.versions import parse_which


@pytest.mark.parametrize(("text", "meant"), [("final", "final"), ("best", "best"), ("12", 12)])
def test_a_version_is_named_or_numbered(text: str, meant: object) -> None:
    assert parse_which(text) == meant


@pytest.mark.parametrize("text", ["", "newest", "-1", "1.0", "²"])
def test_another_word_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--which must be final, best or the number of a version"):
        parse_which(text)
