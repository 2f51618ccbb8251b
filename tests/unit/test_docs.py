"""What the documentation points at exists, and every page can be found."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PROTOCOL, DOCKER = ROOT / "shared" / "PROTOCOL.md", ROOT / "docker" / "README.md"
KUBERNETES = ROOT / "docker" / "kubernetes" / "README.md"
CHANGELOG = ROOT / "CHANGELOG.md"
PAGES = [README, CHANGELOG, *sorted(DOCS.rglob("*.md")), PROTOCOL, DOCKER, KUBERNETES]
README_LINES = 160

_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_BACKTICKED = re.compile(r"`([\w./-]+)`")
_FOLDERS = (
    "coordinator",
    "worker",
    "shared",
    "migrations",
    "tests",
    "docker",
    "docs",
    "experiments",
)

parametrize_pages = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)


def _prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text())


def _links(page: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of every link that is no URL."""
    for target in _LINK.findall(_prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def _anchors(page: Path) -> set[str]:
    """What GitHub calls the headings."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@parametrize_pages
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in _links(page):
        assert target.exists(), target
        assert ROOT in (target, *target.parents), f"{target} is outside the repository"
        if anchor:
            assert anchor in _anchors(target), f"{target} has no heading #{anchor}"


@parametrize_pages
def test_every_path_of_the_repository_exists(page: Path) -> None:
    """From the root, or from the page's folder; a test may be named by its file name alone."""
    tests = {file.name for file in (ROOT / "tests").rglob("test_*.py")}
    named = _BACKTICKED.findall(_prose(page))
    paths = [name for name in named if name.split("/")[0] in _FOLDERS and "/" in name]
    missing = [p for p in paths if not (ROOT / p).exists() and not (page.parent / p).exists()]
    missing += [n for n in named if re.fullmatch(r"test_\w+\.py", n) and n not in tests]
    assert not missing


def test_every_page_is_reached_from_the_readme_or_the_index() -> None:
    reached: set[Path] = set()
    ahead = [README, DOCS / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached:
            reached.add(page)
            ahead += [target for target, _ in _links(page) if target in PAGES]
    assert set(PAGES) <= reached


@pytest.mark.parametrize("index", [README, DOCS / "README.md"], ids=["README", "docs/README"])
def test_the_index_names_every_page(index: Path) -> None:
    pages = {*DOCS.glob("*.md"), DOCKER, PROTOCOL, DOCS / "decisions" / "README.md"}
    assert pages - {DOCS / "README.md"} <= {target for target, _ in _links(index)}


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES


@parametrize_pages
def test_every_extra_that_is_installed_exists(page: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for names in re.findall(r"hyperfl\[([\w,]+)\]", page.read_text()):
        assert set(names.split(",")) <= project["optional-dependencies"].keys()


def _pictures(heading: str) -> list[str]:
    text = (DOCS / "architecture.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def _rooms(folder: Path) -> set[str]:
    return {
        entry.stem
        for entry in folder.iterdir()
        if not entry.name.startswith((".", "_")) and (entry.is_dir() or entry.suffix == ".py")
    }


@pytest.mark.parametrize(
    ("heading", "number", "folder"),
    [
        ("The coordinator", 0, "coordinator"),
        ("The worker", 0, "worker"),
        ("The worker", 1, "worker/methods"),
        ("What both share", 0, "shared"),
    ],
)
def test_the_floors_drawn_have_every_room(heading: str, number: int, folder: str) -> None:
    floors = [
        re.split(r"\s{2,}", line.strip())[0].split(" | ")
        for line in _pictures(heading)[number].splitlines()
    ]
    assert {room for floor in floors for room in floor} == _rooms(ROOT / folder)


def test_the_files_of_the_round_drawn_exist() -> None:
    (picture,) = _pictures("One round")
    side, files = "", []
    for line in picture.splitlines():
        match = re.match(r"[ \d]{4}(coordinator|worker|shared)?\s+([\w/]+(?:\.py)?)", line)
        assert match is not None, line
        side = match[1] or side
        files.append(ROOT / side / match[2])
    assert len(files) >= 12
    assert not [file for file in files if not file.exists()]


def test_sizes_are_those_that_were_measured() -> None:
    measured = (DOCS / "performance.md").read_text()
    figures = re.findall(
        r"\b\d[\d.]* (?:MB|/s|s|bytes)\b", _prose(DOCS / "operating" / "scaling.md")
    )
    assert len(figures) >= 15
    assert [figure for figure in figures if figure not in measured] == []
