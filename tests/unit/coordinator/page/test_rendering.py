"""Templates escape what they are given, and fail where they are given too little."""

from __future__ import annotations

import re

import pytest
from jinja2 import UndefinedError

from coordinator.page.rendering import TEMPLATES, environment


def test_no_template_turns_escaping_off() -> None:
    files = list(TEMPLATES.glob("*.html"))
    assert len(files) >= 10
    for file in files:
        text = file.read_text()
        assert "safe" not in re.findall(r"\|\s*(\w+)", text), file
        assert "autoescape" not in text, file
        # An attribute without quotes ends at a space that a name may have.
        assert not re.search(r"=\{\{", re.sub(r'"[^"]*"', "", text)), file


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        environment().from_string("{{ nobody }}").render()
