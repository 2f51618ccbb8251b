"""What a site allows by name or by package, and what it is told of the rest."""

from __future__ import annotations

import pytest

from worker.errors import ImportNotAllowed
from worker.models.allowed_imports import NOTHING, AllowedImports

SITE = AllowedImports(("radiology.models", "cardiology:extractor"))


@pytest.mark.parametrize(
    "path", ["radiology.models:cnn", "radiology.models.wide:cnn", "cardiology:extractor"]
)
def test_an_entry_allows_itself_and_what_lies_below_it(path: str) -> None:
    SITE.require(path)


@pytest.mark.parametrize(
    "path",
    [
        "radiology:cnn",
        "radiology.modelsx:cnn",
        "radiology.methods:prox",
        "cardiology:extractor2",
        "cardiology.extractor:x",
        "os:abort",
    ],
)
def test_all_else_is_refused_with_the_whole_line_for_the_file(path: str) -> None:
    with pytest.raises(ImportNotAllowed) as refused:
        SITE.require("cardiology:extractor", path)
    assert str(refused.value) == (
        "the federation names code of this machine that the site has not allowed: "
        f"{path}; if you trust it, write into worker.toml: "
        f'allowed_imports = ["radiology.models", "cardiology:extractor", "{path}"]'
    )


@pytest.mark.parametrize("path", ["os:", "os:abort;", "a b:c", "os:abort\x1b[2J", "os"])
def test_what_is_no_import_path_is_not_offered_as_a_line(path: str) -> None:
    with pytest.raises(ImportNotAllowed, match="is not an import path"):
        NOTHING.require(path)
