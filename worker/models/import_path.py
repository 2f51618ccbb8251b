"""Objects named by an import path, ``package.module:name``: the user's own models and methods."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


def load_by_import_path(path: str) -> Any:
    """The object at ``package.module:name``, also where the package lies in the current folder.

    Raises:
        ValueError: the path is malformed, the module cannot be imported, or it lacks the name.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"{path!r} is not an import path of the form 'package.module:name'")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last: what lies there takes no installed module's place
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        hint = _hidden(module_name) or "; its folder must be the current one, or on the PYTHONPATH"
        raise ValueError(f"cannot import {module_name!r} for {path!r}: {error}{hint}") from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        hint = _hidden(module_name)
        raise ValueError(f"module {module_name!r} has no {name!r}{hint}") from error


def _hidden(module_name: str) -> str:
    """Says which file or folder of the user's an installed package of the same name hides."""
    top = module_name.partition(".")[0]
    found = sys.modules.get(top)
    if found is None:
        return ""
    places = {place.resolve() for place in _places(found)}
    for folder in map(Path, sys.path):
        for candidate in (folder / top, folder / f"{top}.py"):
            if candidate.exists() and candidate.resolve() not in places:
                return f"; {candidate} is hidden by the installed package {top!r}: rename it"
    return ""


def _places(module: ModuleType) -> Iterator[Path]:
    yield from map(Path, getattr(module, "__path__", ()))
    if module.__file__ is not None:
        yield Path(module.__file__)
