"""What the page sends to browsers is what was taken from npm, byte for byte."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

from coordinator.page.asset_files import ASSETS, asset_url, assets

RECORD = Path(__file__).parents[4] / "dependencies" / "page_assets.toml"
OWN = {"page.css", "icon.svg", "live.js", "curves.js", "copy.js"}


def test_the_files_of_others_are_those_that_are_pinned() -> None:
    pinned = {
        name: digest
        for package in tomllib.loads(RECORD.read_text())["package"]
        for name, digest in package["sha256"].items()
    }
    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in ASSETS.iterdir()
        if file.name not in OWN
    }
    assert found == pinned


def test_an_address_changes_with_its_file() -> None:
    assert asset_url("page.css") == f"/page/assets/page.css?v={assets()['page.css'].version}"
