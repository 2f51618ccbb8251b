"""Writes the page's scripts and styles from the npm packages that ``page_assets.toml`` pins.

It needs npm, and the network that npm is set up for. A file with another SHA-256 than the one in
``page_assets.toml`` is not written; with ``--pin`` what came is written, and its SHA-256 with it.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("page_assets.toml")
ASSETS = Path(__file__).parents[1] / "coordinator" / "page" / "assets"


def fetch(package: dict[str, Any], folder: Path) -> dict[str, bytes]:
    """The files that are taken from one package, by the names that they get."""
    subprocess.run(
        ["npm", "pack", "--silent", f"{package['name']}@{package['version']}"],  # noqa: S607
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        found = {
            name: member.read()
            for path, name in package["files"].items()
            if (member := packed.extractfile(f"package/{path}")) is not None
        }
    archive.unlink()
    return found


def main() -> int:
    """Writes all files; 1 if one is another than the one that is pinned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pin", action="store_true", help="pin what comes")
    pin = parser.parse_args().pin
    record, is_as_pinned = RECORD.read_text(), True
    for package in tomllib.loads(record)["package"]:
        with tempfile.TemporaryDirectory() as folder:
            files = fetch(package, Path(folder))
        for name, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            if pin:
                record = re.sub(
                    rf'^("{re.escape(name)}" = )"[0-9a-f]*"', rf'\1"{digest}"', record, flags=re.M
                )
            elif digest != package["sha256"][name]:
                print(f"{name} of {package['name']} is not what is pinned: {digest}")
                is_as_pinned = False
                continue
            (ASSETS / name).write_bytes(content)
    RECORD.write_text(record)
    return 0 if is_as_pinned else 1


if __name__ == "__main__":
    sys.exit(main())
