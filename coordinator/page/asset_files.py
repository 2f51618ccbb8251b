"""Scripts and styles of the page, as they lie in ``assets`` with their licences."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from coordinator.serving.page_requests import FOLDER

ASSETS = Path(__file__).with_name("assets")
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """One file, whole, and what it is known by."""

    content: bytes
    media_type: str
    version: str


@cache
def assets() -> dict[str, Asset]:
    """Every asset by name, read once a process."""
    return {
        file.name: Asset(
            content := file.read_bytes(),
            _MEDIA_TYPES[file.suffix],
            hashlib.sha256(content).hexdigest()[:12],
        )
        for file in sorted(ASSETS.iterdir())
        if file.suffix in _MEDIA_TYPES
    }


def asset_url(name: str) -> str:
    """Where a browser finds an asset, and finds another once the file is another."""
    return f"{FOLDER}/assets/{name}?v={assets()[name].version}"
