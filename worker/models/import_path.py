"""What a federation names by import path: the site's own models and methods, where it allows."""

from __future__ import annotations

from typing import Any

from worker.models.allowed_imports import AllowedImports
from worker.user_code import import_object, split_import_path


def load_by_import_path(path: str, allowed: AllowedImports) -> Any:
    """The object at ``package.module:name``, also where the package lies in the current folder.

    Nothing is imported that ``allowed`` does not name. What a package allows is defined in it: a
    name that one of its modules has from elsewhere (``from os import abort``) is allowed by itself
    only.

    Raises:
        ImportNotAllowed: the site has not allowed it.
        ValueError: the path is malformed, the module cannot be imported, or it lacks the name.
    """
    split_import_path(path)
    allowed.require(path)
    found = import_object(path)
    home = getattr(found, "__module__", None)
    if callable(found) and not allowed.names(path) and not allowed.covers(str(home)):
        raise ValueError(
            f"{path!r} is defined in {home}, which the site has not allowed: "
            f"list {path!r} itself in allowed_imports"
        )
    return found
