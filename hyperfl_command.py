"""The installed ``hyperfl`` command: this project's packages win over folders of the user's.

``coordinator``, ``worker``, ``shared`` and ``migrations`` are common names. Whatever the current
folder or PYTHONPATH hold, they are loaded from where this file is installed; so this file, which
runs first, stands outside of them under a name that nobody else uses.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

OWN_PACKAGES = frozenset({"coordinator", "worker", "shared", "migrations"})
_HOME = str(Path(__file__).resolve().parent)


class _OwnPackages(MetaPathFinder):
    """Finds this project's packages beside this file, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package called ``fullname``, if it is one of ours."""
        if fullname not in OWN_PACKAGES or path is not None:
            return None
        return PathFinder.find_spec(fullname, [_HOME], target)


def main() -> None:
    """Runs the command."""
    sys.meta_path.insert(0, _OwnPackages())
    from shared.terminal.cli import main as run  # noqa: PLC0415 - found by what stands above

    run()


if __name__ == "__main__":
    main()
