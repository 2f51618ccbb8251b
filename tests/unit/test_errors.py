"""Each side's exceptions are one tree, which its ``errors`` module draws."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import coordinator.errors
import worker.errors
from shared.tensors.file_header import CodecError
from shared.validation import InvalidInput

TREES: list[tuple[ModuleType, type[Exception]]] = [
    (coordinator.errors, coordinator.errors.CoordinatorError),
    (worker.errors, worker.errors.WorkerError),
]
_BRANCH = re.compile(r"([│ ]*)[├└]── (\w+) *(.*)")
parametrize_trees = pytest.mark.parametrize(
    ("errors", "root"), TREES, ids=[root.__name__ for _, root in TREES]
)


def public_exceptions(package_name: str) -> Iterator[type[BaseException]]:
    """Those that the package's own modules define, on whatever they stand."""
    package = importlib.import_module(package_name)
    names = [one.name for one in pkgutil.walk_packages(package.__path__, f"{package_name}.")]
    for name in (package_name, *names):
        for member in vars(importlib.import_module(name)).values():
            is_own = inspect.isclass(member) and member.__module__ == name
            if is_own and issubclass(member, BaseException) and member.__name__[0] != "_":
                yield member


def drawn(errors: ModuleType, root: type[Exception]) -> list[tuple[str, str, str]]:
    """Name, parent and remark of every branch of the tree in the module's docstring."""
    above, found = [root.__name__], []
    for line in (errors.__doc__ or "").splitlines():
        if branch := _BRANCH.fullmatch(line):
            indent, name, remark = branch.groups()
            depth = len(indent) // 4 + 1
            found.append((name, above[depth - 1], remark))
            above[depth:] = [name]
    return found


@parametrize_trees
def test_every_public_exception_stands_in_its_sides_tree(
    errors: ModuleType, root: type[Exception]
) -> None:
    exceptions = list(public_exceptions(errors.__package__ or ""))
    assert len(exceptions) > 20
    assert not [one for one in exceptions if not issubclass(one, root)]


@parametrize_trees
def test_the_drawn_tree_is_the_tree(errors: ModuleType, root: type[Exception]) -> None:
    branches = [(name, parent) for name, parent, _ in drawn(errors, root)]
    actual = [
        (one.__name__, base.__name__)
        for one in public_exceptions(errors.__package__ or "")
        for base in one.__bases__
        if issubclass(base, root)
    ]
    assert sorted(branches) == sorted(actual)


def test_the_drawn_tree_of_the_worker_says_what_is_invalid_input() -> None:
    classes = {one.__name__: one for one in public_exceptions("worker")}
    for name, _, remark in drawn(worker.errors, worker.errors.WorkerError):
        assert remark.startswith("InvalidInput: ") == issubclass(classes[name], InvalidInput), name


def test_what_ends_a_command_of_the_worker_is_its_tree_and_bytes_that_do_not_fit() -> None:
    assert set(worker.errors.FAILURES) == {worker.errors.WorkerError, CodecError}
