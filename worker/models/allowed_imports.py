"""What a site lets be imported. A specification names code, and the site did not write it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from shared.federation.model_names import is_import_path
from worker.errors import ImportNotAllowed


@dataclass(frozen=True)
class AllowedImports:
    """Import paths and packages that may be imported; without any, nothing may.

    Attributes:
        entries: ``package.module:name`` allows that name alone; ``package`` or ``package.module``
            allows all that is defined in it, and in what lies below it.
    """

    entries: tuple[str, ...] = ()

    def require(self, *paths: str) -> None:
        """Raises ImportNotAllowed, with the line for worker.toml, unless all may be imported."""
        refused = [path for path in paths if not self.names(path) and not self._covers(path)]
        if not refused:
            return
        if unfit := [path for path in refused if not is_import_path(path)]:
            raise ImportNotAllowed(f"{unfit[0]!r} is not an import path: 'package.module:name'")
        line = f"allowed_imports = {json.dumps([*self.entries, *refused])}"
        raise ImportNotAllowed(
            f"the federation names code of this machine that the site has not allowed: "
            f"{', '.join(refused)}; if you trust it, write into worker.toml: {line}"
        )

    def names(self, path: str) -> bool:
        """Whether ``path`` is allowed by itself, wherever what it names was defined."""
        return path in self.entries

    def covers(self, module: str) -> bool:
        """Whether ``module`` is allowed, or lies in a package that is."""
        return any(module == entry or module.startswith(f"{entry}.") for entry in self.entries)

    def _covers(self, path: str) -> bool:
        return is_import_path(path) and self.covers(path.partition(":")[0])


NOTHING = AllowedImports()
