"""Objects named by an import path, ``package.module:name``: the user's own models and methods."""

from __future__ import annotations

import importlib
from typing import Any


def load_by_import_path(path: str) -> Any:
    """The object at ``package.module:name``.

    Raises:
        ValueError: the path is malformed, the module cannot be imported, or it lacks the name.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"{path!r} is not an import path of the form 'package.module:name'")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"cannot import {module_name!r} for {path!r}: {error}; "
            "its folder must be on this worker's PYTHONPATH"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ValueError(f"module {module_name!r} has no {name!r}") from error
