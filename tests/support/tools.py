"""Debian's tools and servers that operators use: found, or a skip that says how to install them."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

EVERY_TOOL = "EVERY_TOOL"
"""A variable of the environment. ``.ci/run`` sets it where it could install all of them: what is
skipped elsewhere fails there."""


def find_tool(name: str, package: str) -> str:
    """Where the program is; ``package`` is Debian's name of what has it."""
    found = shutil.which(name)
    if found is None:
        reason = f"no {name}: apt-get install {package}"
        if EVERY_TOOL in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def run_tool(name: str, package: str, *arguments: str, stdin: str | None = None) -> str:
    """What the tool prints; fails with it if the tool does."""
    found = find_tool(name, package)
    done = subprocess.run(
        [found, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
