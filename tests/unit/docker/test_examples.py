"""The folder's README and example files agree with the commands, the settings and compose."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tests.support.docker import (
    DOCKER,
    ROOT,
    SETTINGS,
    WORKERS,
    check_command,
    dockerfile,
    mounts,
    readme_blocks,
    readme_commands,
    services,
)
from worker.data.source import DataSource
from worker.settings import WorkerSettings, load_config


def test_the_example_configuration_keeps_its_state_in_the_volume() -> None:
    config = load_config(DOCKER / "worker.example.toml", WorkerSettings())
    (volume,) = dockerfile("worker").only("VOLUME").as_list()
    (client,) = config.clients
    assert PurePosixPath(volume) in PurePosixPath(client.state_dir).parents
    assert client.enrolment_token_file == Path(volume, "enrolment-token")
    assert urlsplit(config.coordinator_url).hostname == "coordinator"


def test_both_sites_can_be_made_from_the_example(tmp_path: Path) -> None:
    example = (DOCKER / "worker.example.toml").read_text()
    (making,) = re.findall(r"sed '(.*)' worker\.example\.toml", "".join(readme_blocks("bash")))
    for replacement in making.split("; "):
        _, old, new, _ = replacement.split("/")
        assert old in example
        example = "\n".join(line.replace(old, new, 1) for line in example.splitlines())
        (tmp_path / "site-b.toml").write_text(example)
    a = load_config(DOCKER / "worker.example.toml", WorkerSettings()).clients[0]
    b = load_config(tmp_path / "site-b.toml", WorkerSettings()).clients[0]
    assert (a.name, b.name) == ("site-a", "site-b")
    assert a.state_dir != b.state_dir
    assert b.data == a.data.model_copy(update={"client_index": 1})
    assert a.data.client_index == 0


def test_the_readmes_own_images_are_where_compose_mounts_them() -> None:
    (block,) = readme_blocks("toml")
    source = DataSource.model_validate(tomllib.loads(block)["clients"]["data"])
    for worker in WORKERS:
        assert str(source.data_dir) in mounts(services()[worker])


def test_every_command_in_the_readme_exists() -> None:
    commands = list(readme_commands())
    for words in commands:
        check_command(words)
    assert {tuple(words[1:3]) for words in commands} == {
        ("worker", "specify"),
        ("worker", "evaluate"),
        ("federation", "create"),
        ("federation", "start"),
        ("client", "enroll"),
        ("client", "list"),
        ("round", "watch"),
    }


def test_the_readme_uses_the_examples_federation_and_sites() -> None:
    federation = tomllib.loads((DOCKER / "worker.example.toml").read_text())["federation"]
    commands = {tuple(words[1:3]): words[3:] for words in readme_commands()}
    assert commands["worker", "specify"][0] == federation
    assert commands["client", "enroll"][:3] == [federation, "site-a", "site-b"]
    assert commands["round", "watch"] == [federation]


def test_the_readme_names_services_and_files_that_exist() -> None:
    text = (DOCKER / "README.md").read_text()
    for file in re.findall(r"(?:-f |docker/)([\w.]+\.(?:yaml|Dockerfile))", text):
        assert (DOCKER / file).is_file(), file
    for service in re.findall(r"compose exec (?:-T )?([\w-]+)", text):
        assert service in services()


def test_every_named_hyperfl_variable_is_a_setting() -> None:
    known = {f"HYPERFL_{f.upper()}" for s in SETTINGS.values() for f in s.model_fields}
    checked = 0
    for file in DOCKER.iterdir():
        if file.is_file():
            for name in re.findall(r"HYPERFL_\w+", file.read_text()):
                assert name in known, f"{file.name}: {name}"
                checked += 1
    assert checked > 10


def test_secrets_stay_out_of_the_repository_and_the_example_in() -> None:
    for folder in (ROOT, DOCKER):
        patterns = (folder / ".gitignore").read_text().split()
        assert not any(fnmatch(".env.example", pattern) for pattern in patterns)
        assert not any(fnmatch("worker.example.toml", pattern) for pattern in patterns)
    assert {".env", "site-*.toml"} <= set((DOCKER / ".gitignore").read_text().split())
