"""The folder docker/ as tests read it: Dockerfiles, compose file, example environment, README."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic_settings import BaseSettings
from typer.main import get_command

from coordinator.settings import CoordinatorSettings
from shared.terminal.cli import app
from worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
SIDES = ("coordinator", "worker")
WORKERS = ("worker-a", "worker-b")
SETTINGS: dict[str, type[BaseSettings]] = {
    "coordinator": CoordinatorSettings,
    "worker": WorkerSettings,
}
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<operator>:?[-?+])?(?P<rest>[^}]*)\}")


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str

    def as_list(self) -> list[str]:
        return [str(part) for part in json.loads(self.text)]


@dataclass(frozen=True)
class Dockerfile:
    """Instructions by stage; the first of each stage is its FROM."""

    stages: list[list[Instruction]]

    def final(self, name: str) -> list[Instruction]:
        return [instruction for instruction in self.stages[-1] if instruction.name == name]

    def only(self, name: str) -> Instruction:
        (instruction,) = self.final(name)
        return instruction

    def environment(self) -> dict[str, str]:
        return dict(
            pair.split("=", 1)
            for instruction in self.final("ENV")
            for pair in shlex.split(instruction.text)
        )

    def copies(self) -> list[tuple[list[str], str]]:
        """Sources in the build context and destination of every COPY."""
        found = []
        for stage in self.stages:
            for instruction in stage:
                if instruction.name == "COPY":
                    words = [w for w in instruction.text.split() if not w.startswith("--")]
                    found.append((words[:-1], words[-1]))
        return found

    def context_files(self) -> set[str]:
        return {source for sources, _destination in self.copies() for source in sources}

    def pip_installs(self) -> list[str]:
        return [i.text for i in self.final("RUN") if "pip install" in i.text]

    def command(self) -> list[str]:
        return self.only("ENTRYPOINT").as_list() + self.only("CMD").as_list()


def parse_dockerfile(text: str) -> Dockerfile:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    stages: list[list[Instruction]] = []
    for statement in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = statement.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append(Instruction(name, rest.strip()))
    return Dockerfile(stages)


def dockerfile(side: str) -> Dockerfile:
    return parse_dockerfile((DOCKER / f"{side}.Dockerfile").read_text())


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return document


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def built_services() -> list[tuple[str, str]]:
    return [("coordinator", "coordinator"), *((name, "worker") for name in WORKERS)]


def env_example() -> dict[str, str]:
    lines = (DOCKER / ".env.example").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def compose_variables() -> list[re.Match[str]]:
    return list(VARIABLE.finditer((DOCKER / "compose.yaml").read_text()))


def interpolate(text: str, **given: str) -> str:
    values = env_example() | given
    return VARIABLE.sub(lambda match: values[match["name"]], text)


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Source by target, for short and long syntax."""
    found = {}
    for volume in service.get("volumes", ()):
        if isinstance(volume, dict):
            found[volume["target"]] = volume["source"]
        else:
            source, target, *_ = volume.split(":")
            found[target] = source
    return found


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def readme_blocks(language: str) -> list[str]:
    text = (DOCKER / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def readme_commands() -> Iterator[list[str]]:
    """Every ``hyperfl`` command in the README: by name, or as arguments of a worker's container."""
    for block in readme_blocks("bash"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            words = shlex.split(line, comments=True)
            words = words[: next((i for i, w in enumerate(words) if w in "<>|"), None)]
            if words[:3] == ["docker", "compose", "exec"] and "coordinator" in words:
                yield words[words.index("coordinator") + 1 :]
            elif words[:3] == ["docker", "compose", "run"] and "--entrypoint" not in words:
                (service,) = (word for word in words if word in WORKERS)
                yield ["hyperfl", *words[words.index(service) + 1 :]]


def check_command(words: list[str]) -> None:
    """Parses a command line with the typer application, without running it."""
    assert words[0] == "hyperfl"
    command: Any = get_command(app)
    rest = words[1:]
    while hasattr(command, "get_command"):
        found = command.get_command(None, rest[0])
        assert found is not None, words
        command, rest = found, rest[1:]
    command.make_context(words[-1], list(rest))
