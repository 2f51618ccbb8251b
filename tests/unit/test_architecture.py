"""What keeps the code easy to find and to read, beside the floors that import-linter checks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("coordinator", "worker", "shared")
LONGEST_FILE = 300
LONGEST_EXCEPTION = 400

LONG_FILES = {
    "coordinator/rounds/moves.py": "every move takes its locks in one order, seen side by side",
    "shared/rest/schema.py": "declarations of one interface, with no code between them",
}
"""Files that may be longer, and why."""

NO_SUBJECTS = {"dependencies.py", "health.py", "json_route.py"}
"""Files of routes that are no subject: what routes have in common, and what probes ask."""

OTHER_STORES = {"tasks.py": "assignments.py", "cards.py": "clients.py"}
"""Subjects whose rows are called something else: a client's task is the round's assignment, and
a card is a client's."""

CHANGING_PARTS = {
    ("coordinator/context.py", "Context"): "the parts that all share ring and wake each other",
}
"""Frozen classes that hold something that changes, and why."""

TESTS_OF_AN_ASPECT = {
    "coordinator/rules/test_next_step.py": "coordinator/rules/verdicts.py",
    "shared/secure_sum/test_vectors.py": "shared/secure_sum/messages.py",
    "worker/methods/test_what_an_upload_reveals.py": "worker/methods/hyperfl.py",
    "worker/rounds/test_privacy_budget.py": "worker/rounds/round_work.py",
}
"""Unit tests that are not named as the file is whose promise they hold."""

_MUTABLE = {
    *("list", "dict", "set", "bytearray", "OrderedDict", "defaultdict", "Counter", "deque"),
    *("Event", "Lock", "Condition", "Semaphore", "Queue"),
}
_READ_ONLY = {"Mapping", "Sequence", "Set"}
_CHANGING_CALLS = {
    *("append", "appendleft", "extend", "insert", "add", "update", "setdefault", "move_to_end"),
    *("pop", "popitem", "popleft", "remove", "discard", "clear", "sort", "reverse"),
}


def files_of(*packages: str) -> list[Path]:
    return sorted(file for package in packages for file in (ROOT / package).rglob("*.py"))


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_a_file_is_short_enough_to_be_read_at_once() -> None:
    lines = {name_of(file): len(file.read_text().splitlines()) for file in files_of(*PACKAGES)}
    too_long = {name for name, count in lines.items() if count > LONGEST_FILE}
    assert too_long - LONG_FILES.keys() == set(), "split it, or say in LONG_FILES why not"
    assert LONG_FILES.keys() - too_long == set(), "no longer long: take it out of LONG_FILES"
    assert not {name for name in LONG_FILES if lines[name] > LONGEST_EXCEPTION}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_says_what_is_in_it(package: str) -> None:
    folders = {file.parent for file in files_of(package)}
    folders |= {parent for folder in folders for parent in folder.parents if ROOT in parent.parents}
    silent = []
    for folder in sorted(folders):
        init = folder / "__init__.py"
        if not init.exists() or not ast.get_docstring(ast.parse(init.read_text())):
            silent.append(name_of(folder))
    assert not silent


def test_every_subject_has_a_file_of_its_name_on_each_floor() -> None:
    coordinator = ROOT / "coordinator"
    operations, store = coordinator / "operations", coordinator / "store"
    subjects = {file.name for file in (coordinator / "routes").glob("[!_]*.py")} - NO_SUBJECTS
    assert len(subjects) >= 8
    assert not {name for name in subjects if not (operations / name).exists()}
    assert not {name for name in subjects if not (store / OTHER_STORES.get(name, name)).exists()}


def test_the_stated_exceptions_are_needed() -> None:
    coordinator = ROOT / "coordinator"
    for name in NO_SUBJECTS:
        assert (coordinator / "routes" / name).exists()
        assert not (coordinator / "operations" / name).exists()
    for name in OTHER_STORES:
        assert (coordinator / "routes" / name).exists()
        assert not (coordinator / "store" / name).exists()


def frozen_dataclasses(file: Path) -> Iterator[ast.ClassDef]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and _last_name(decorator.func) == "dataclass":
                    given = {keyword.arg: keyword.value for keyword in decorator.keywords}
                    if isinstance(frozen := given.get("frozen"), ast.Constant) and frozen.value:
                        yield node


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _makes_what_changes(factory: ast.expr) -> bool:
    made = factory.body if isinstance(factory, ast.Lambda) else factory
    if isinstance(made, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)):
        return True
    return _last_name(made.func if isinstance(made, ast.Call) else made) in _MUTABLE


def _mutable_fields(cls: ast.ClassDef) -> Iterator[str]:
    """Fields that are made to change, but those whose type lets nobody change them."""
    for statement in cls.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.value, ast.Call):
            keywords = statement.value.keywords
            for keyword in [] if _last_name(statement.annotation) in _READ_ONLY else keywords:
                if keyword.arg == "default_factory" and _makes_what_changes(keyword.value):
                    yield ast.unparse(statement.target)


def _is_of_self(node: ast.AST) -> bool:
    """Whether it is an attribute of ``self``, or an item of one."""
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        if isinstance(node.value, ast.Name):
            return node.value.id == "self"
        node = node.value
    return False


def _is_changing_call(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    name = node.func.attr
    return name == "__setattr__" or (name in _CHANGING_CALLS and _is_of_self(node.func.value))


def _changes(cls: ast.ClassDef) -> Iterator[str]:
    """Statements of its methods that change a part of ``self``."""
    for node in ast.walk(cls):
        targets: list[ast.expr] = []
        if isinstance(node, (ast.Assign, ast.Delete)):
            targets = node.targets
        elif isinstance(node, ast.AugAssign):
            targets = [node.target]
        elif _is_changing_call(node):
            yield ast.unparse(node)
        if any(_is_of_self(target) for target in targets):
            yield ast.unparse(node)


def test_what_is_frozen_holds_nothing_that_is_made_to_change() -> None:
    found = {
        (name_of(file), cls.name): fields
        for file in files_of(*PACKAGES)
        for cls in frozen_dataclasses(file)
        if (fields := list(_mutable_fields(cls)))
    }
    assert {where: fields for where, fields in found.items() if where not in CHANGING_PARTS} == {}
    assert CHANGING_PARTS.keys() <= found.keys(), "no longer needed: take it out"


def test_what_is_frozen_changes_none_of_its_parts() -> None:
    found = {
        (name_of(file), cls.name): changes
        for file in files_of(*PACKAGES)
        for cls in frozen_dataclasses(file)
        if (changes := list(_changes(cls)))
    }
    assert found == {}


_EXAMPLES = """
@dataclass(frozen=True)
class Frozen:
    a: list[int] = field(default_factory=list)
    b: OrderedDict[int, int] = field(default_factory=OrderedDict[int, int])
    c: dict[int, int] = field(default_factory=lambda: {})
    d: asyncio.Event = field(default_factory=asyncio.Event)
    e: Plan = field(default_factory=Plan)
    f: tuple[int, ...] = ()
    g: Mapping[str, int] = field(default_factory=dict)

    def look(self):
        found = []
        found.append(self.a)
        self.look()
        return {"a": self.a[0]}

    def change(self):
        self.a.append(1)
        self.b[1] = 2
        del self.c[1]
        self.a[0] += 1
        object.__setattr__(self, "f", (1,))

@dataclass
class Open:
    a: list[int] = field(default_factory=list)
"""


def test_the_checks_of_frozen_classes_find_what_they_are_for(tmp_path: Path) -> None:
    file = tmp_path / "examples.py"
    file.write_text(_EXAMPLES)
    (cls,) = frozen_dataclasses(file)
    assert cls.name == "Frozen"
    assert list(_mutable_fields(cls)) == ["a", "b", "c", "d"]
    assert sorted(_changes(cls)) == [
        "del self.c[1]",
        "object.__setattr__(self, 'f', (1,))",
        "self.a.append(1)",
        "self.a[0] += 1",
        "self.b[1] = 2",
    ]


def test_unit_tests_lie_where_the_code_lies() -> None:
    unit = ROOT / "tests" / "unit"
    astray = []
    for file in files_of(*(f"tests/unit/{package}" for package in PACKAGES)):
        name = file.relative_to(unit).as_posix()
        folder = ROOT / file.relative_to(unit).parent
        if name in TESTS_OF_AN_ASPECT:
            found = (ROOT / TESTS_OF_AN_ASPECT[name]).exists()
        elif file.name in ("__init__.py", "conftest.py"):
            found = folder.exists()
        else:
            # test_member_terms.py is about member.py: a subject's name comes first.
            subject = file.stem.removeprefix("test_")
            found = any(f"{subject}_".startswith(f"{one.stem}_") for one in folder.glob("*.py"))
        if not found:
            astray.append(name)
    assert not astray
    assert all((unit / name).exists() for name in TESTS_OF_AN_ASPECT)


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {file.parent for file in files_of("tests") if file.name.startswith("test_")}
    assert not [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()]
