"""The names in ``shared``, which knows no timm, against those of the installed timm."""

from __future__ import annotations

from tests.support import timm_names


def test_the_names_are_those_of_the_installed_timm() -> None:
    assert timm_names.FILE.read_text() == timm_names.source(), (
        "timm has other models than shared/federation/timm_models.json says: "
        "write it anew with python -m tests.support.timm_names"
    )
