"""Objects named by an import path, ``package.module:name``, in code that is not this project's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


def import_object(path: str) -> Any:
    """The object at ``package.module:name``, also where the package lies in the current folder.

    Whoever calls knows that the code may be run: see :mod:`worker.models.import_path` for what
    others than the site itself name.

    Raises:
        ValueError: the path is malformed, the module cannot be imported, or it lacks the name.
    """
    module_name, name = split_import_path(path)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last: what lies there takes no installed module's place
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        hint = _hidden(module_name) or "; its folder must be the current one, or on the PYTHONPATH"
        raise ValueError(f"cannot import {module_name!r} for {path!r}: {error}{hint}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"importing {module_name!r} for {path!r} failed: {said(error)}") from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        hint = _hidden(module_name)
        raise ValueError(f"module {module_name!r} has no {name!r}{hint}") from error


def split_import_path(path: str) -> tuple[str, str]:
    """Module and name. Raises ValueError unless the path has both."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"{path!r} is not an import path of the form 'package.module:name'")
    return module_name, name


def said(error: BaseException) -> str:
    """What someone's code raised, in one line: its type and message. To end is an error, too."""
    if isinstance(error, SystemExit):
        return f"it asked to end the process, with exit code {error.code or 0}"
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


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
