"""The folder docker/: images, compose file and examples agree with the code and each other."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from pydantic_settings import BaseSettings
from sqlalchemy import make_url
from typer.main import get_command

from coordinator.cli import app
from coordinator.settings import CoordinatorSettings
from worker.data.source import DataSource
from worker.settings import WorkerSettings, load_config

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


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HYPERFL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """The settings that a service's container starts with."""

    def build(service: str, side: str) -> Any:
        environment = dockerfile(side).environment() | services()[service]["environment"]
        for name, value in environment.items():
            monkeypatch.setenv(name, interpolate(value, POSTGRES_PASSWORD="p"))
        return SETTINGS[side]()

    return build


@pytest.fixture
def check_coordinator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", DOCKER / "check_coordinator.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("side", SIDES)
def test_every_stage_starts_from_the_same_pinned_python_that_the_project_supports(
    side: str,
) -> None:
    bases = {stage[0].text.split()[0] for stage in dockerfile(side).stages}
    assert len(dockerfile(side).stages) == 2
    (base,) = bases
    found = re.fullmatch(r"python:3\.(\d+)-slim-[a-z]+", base)
    assert found is not None, base
    oldest = project()["project"]["requires-python"].removeprefix(">=3.")
    assert int(found[1]) >= int(oldest)


@pytest.mark.parametrize("side", SIDES)
def test_what_is_copied_exists_and_is_all_that_the_wheel_needs(side: str) -> None:
    copied = dockerfile(side).context_files()
    for source in copied:
        assert (ROOT / source).exists(), source
    document = project()
    needed = {
        "pyproject.toml",
        document["project"]["readme"],
        *document["project"]["license-files"],
        *document["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    }
    assert needed <= copied


@pytest.mark.parametrize("side", SIDES)
def test_packages_are_copied_under_their_own_names(side: str) -> None:
    for sources, destination in dockerfile(side).copies():
        if (ROOT / sources[0]).is_dir():
            assert destination == f"./{sources[0]}"


@pytest.mark.parametrize("side", SIDES)
def test_the_build_context_holds_what_is_copied_and_nothing_else(side: str) -> None:
    lines = (DOCKER / f"{side}.Dockerfile.dockerignore").read_text().split()
    assert lines[0] == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert let_in == dockerfile(side).context_files()
    assert set(lines) - {"*", *(f"!{name}" for name in let_in)} == {"**/__pycache__"}


@pytest.mark.parametrize("side", SIDES)
def test_the_image_runs_a_command_that_exists(side: str) -> None:
    check_command(dockerfile(side).command())


def test_the_images_serve_and_work() -> None:
    assert dockerfile("coordinator").command() == ["hyperfl", "coordinator", "serve"]
    assert dockerfile("worker").command() == ["hyperfl", "worker", "run"]


@pytest.mark.parametrize("side", SIDES)
def test_the_process_is_not_root_and_owns_its_volume(side: str) -> None:
    file = dockerfile(side)
    uid, gid = file.only("USER").text.split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    making = next(run.text for run in file.final("RUN") if "useradd" in run.text)
    assert f"--gid {gid} hyperfl" in making
    assert f"--uid {uid} --gid {gid}" in making
    (volume,) = file.only("VOLUME").as_list()
    assert f"--owner=hyperfl --group=hyperfl --mode=0700 {volume}" in making
    names = [instruction.name for instruction in file.stages[-1]]
    after_user = names[names.index("USER") :]
    assert not {"RUN", "COPY", "ADD"} & set(after_user)
    assert file.environment()["HOME"] == volume


@pytest.mark.parametrize("side", SIDES)
def test_an_images_environment_names_settings_of_its_side(side: str) -> None:
    environment = dockerfile(side).environment()
    names = {name for name in environment if name.startswith("HYPERFL_")}
    assert names
    assert {n.removeprefix("HYPERFL_").lower() for n in names} <= set(SETTINGS[side].model_fields)


def test_the_coordinators_image_has_no_pytorch() -> None:
    installs = dockerfile("coordinator").pip_installs()
    assert installs
    for install in installs:
        assert "[" not in install
        assert "torch" not in install
    assert not [d for d in project()["project"]["dependencies"] if d.startswith("torch")]


def test_the_workers_pytorch_comes_from_the_index_that_the_build_names() -> None:
    file = dockerfile("worker")
    assert file.only("ARG").text == "TORCH_INDEX_URL=https://pypi.org/simple"
    torch_install, wheel_install = file.pip_installs()
    names = [instruction.name for instruction in file.stages[-1]]
    assert names.index("ARG") < names.index("RUN")
    assert '--index-url "$TORCH_INDEX_URL"' in torch_install
    assert "[worker]" in wheel_install
    assert "torch" not in wheel_install


def test_the_workers_pytorch_is_that_of_the_project() -> None:
    torch_install = dockerfile("worker").pip_installs()[0]
    installed = {word for word in shlex.split(torch_install) if word.startswith("torch")}
    extra = project()["project"]["optional-dependencies"]["worker"]
    assert installed == {package for package in extra if package.startswith("torch")}


def test_the_coordinators_health_check_is_in_its_image() -> None:
    file = dockerfile("coordinator")
    destinations = {source: to for sources, to in file.copies() for source in sources}
    check = file.only("HEALTHCHECK").text
    command = json.loads(check[check.index("CMD") + len("CMD") :])
    assert command == ["python", destinations["docker/check_coordinator.py"]]


@pytest.mark.parametrize(
    ("status", "ready"), [(200, True), (503, False), (500, False), (404, False)]
)
def test_the_coordinator_is_healthy_when_readyz_answers_200(
    check_coordinator: ModuleType, status: int, ready: bool
) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(status)

    settings = CoordinatorSettings(port=8765)
    assert check_coordinator.is_ready(settings, httpx.MockTransport(answer)) is ready
    assert asked == ["http://127.0.0.1:8765/readyz"]


def test_a_coordinator_that_does_not_answer_is_unhealthy(check_coordinator: ModuleType) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    assert not check_coordinator.is_ready(CoordinatorSettings(), httpx.MockTransport(refuse))


def test_a_coordinator_with_tls_is_asked_over_tls(check_coordinator: ModuleType) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.url.scheme == "https" else 400)

    settings = CoordinatorSettings(tls_certificate=Path("cert.pem"), tls_key=Path("key.pem"))
    assert check_coordinator.is_ready(settings, httpx.MockTransport(answer))


def test_the_worker_claims_no_health_and_nothing_waits_for_it() -> None:
    assert dockerfile("worker").only("HEALTHCHECK").text == "NONE"
    for service in services().values():
        assert not set(WORKERS) & set(service.get("depends_on", {}))


@pytest.mark.parametrize(("service", "side"), built_services())
def test_compose_builds_images_from_dockerfiles_that_exist(service: str, side: str) -> None:
    build = services()[service]["build"]
    context = (DOCKER / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).resolve() == DOCKER / f"{side}.Dockerfile"
    declared = {arg.text.split("=")[0] for arg in dockerfile(side).final("ARG")}
    assert set(build.get("args", {})) == declared
    assert services()[service]["image"] == f"hyperfl-{side}"


@pytest.mark.parametrize(("service", "side"), built_services())
def test_compose_sets_what_the_side_reads(service: str, side: str) -> None:
    names = {n for n in services()[service]["environment"] if n.startswith("HYPERFL_")}
    assert names
    assert {n.removeprefix("HYPERFL_").lower() for n in names} <= set(SETTINGS[side].model_fields)


@pytest.mark.parametrize(("service", "side"), built_services())
def test_compose_keeps_the_images_user_and_command(service: str, side: str) -> None:
    assert not {"user", "entrypoint", "command", "privileged"} & set(services()[service])


@pytest.mark.parametrize(("service", "side"), built_services())
def test_a_container_may_write_only_to_its_volume_and_tmp(service: str, side: str) -> None:
    described = services()[service]
    assert described["read_only"] is True
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert described["tmpfs"] == ["/tmp"]
    (volume,) = dockerfile(side).only("VOLUME").as_list()
    named = {t for t, source in mounts(described).items() if source in compose()["volumes"]}
    assert named == {volume}
    for mount in described["volumes"]:
        assert isinstance(mount, str) or mount["read_only"] is True


def test_every_named_hyperfl_variable_is_a_setting() -> None:
    known = {f"HYPERFL_{f.upper()}" for s in SETTINGS.values() for f in s.model_fields}
    checked = 0
    for file in DOCKER.iterdir():
        if file.is_file():
            for name in re.findall(r"HYPERFL_\w+", file.read_text()):
                assert name in known, f"{file.name}: {name}"
                checked += 1
    assert checked > 10


def test_the_example_environment_has_what_compose_reads_and_nothing_else() -> None:
    assert {match["name"] for match in compose_variables()} == set(env_example())
    outside = VARIABLE.sub("", (DOCKER / "compose.yaml").read_text())
    assert "$" not in outside


def test_compose_defaults_are_those_of_the_example_environment() -> None:
    example = env_example()
    defaults = {m["name"]: m["rest"] for m in compose_variables() if m["operator"] == ":-"}
    assert defaults
    assert defaults == {name: example[name] for name in defaults}
    for match in compose_variables():
        assert match["operator"] in {":-", ":?"}, match[0]


def test_without_a_password_compose_stops_and_says_so() -> None:
    assert env_example()["POSTGRES_PASSWORD"] == ""
    asking = [m for m in compose_variables() if m["name"] == "POSTGRES_PASSWORD"]
    assert len(asking) == 2
    for match in asking:
        assert match["operator"] == ":?"
        assert ".env.example" in match["rest"]


def test_secrets_stay_out_of_the_repository_and_the_example_in() -> None:
    for folder in (ROOT, DOCKER):
        patterns = (folder / ".gitignore").read_text().split()
        assert not any(fnmatch(".env.example", pattern) for pattern in patterns)
        assert not any(fnmatch("worker.example.toml", pattern) for pattern in patterns)
    assert {".env", "site-*.toml"} <= set((DOCKER / ".gitignore").read_text().split())


def test_ports_agree_with_the_settings(settings_of: Callable[[str, str], Any]) -> None:
    default = CoordinatorSettings().port
    settings = settings_of("coordinator", "coordinator")
    assert settings.port == default
    assert settings.host == "0.0.0.0"
    assert dockerfile("coordinator").only("EXPOSE").text == str(default)
    (published,) = services()["coordinator"]["ports"]
    assert interpolate(published) == f"127.0.0.1:{default}:{default}"
    example = tomllib.loads((DOCKER / "worker.example.toml").read_text())
    assert urlsplit(example["coordinator_url"]).port == default
    (proxied,) = re.findall(r"reverse_proxy \S+:(\d+)", (DOCKER / "README.md").read_text())
    assert proxied == str(default)


def test_the_coordinator_keeps_its_token_in_its_volume(
    settings_of: Callable[[str, str], Any],
) -> None:
    settings = settings_of("coordinator", "coordinator")
    targets = mounts(services()["coordinator"])
    assert targets[str(settings.data_dir)] == "coordinator"
    assert settings.effective_admin_token_file == settings.data_dir / "admin-token"


def test_the_coordinator_uses_the_composed_database(
    settings_of: Callable[[str, str], Any],
) -> None:
    url = make_url(settings_of("coordinator", "coordinator").effective_database_url)
    coordinator, database = services()["coordinator"], services()["database"]
    assert url.get_backend_name() == "postgresql"
    assert url.host == "database"
    assert url.port == 5432
    assert url.password is None
    assert url.username == database["environment"]["POSTGRES_USER"]
    assert url.database == database["environment"]["POSTGRES_DB"]
    assert coordinator["environment"]["PGPASSWORD"] == database["environment"]["POSTGRES_PASSWORD"]
    assert set(coordinator["networks"]) & set(database["networks"])
    checked = dict(
        word.removeprefix("--").split("=") for word in database["healthcheck"]["test"][2:]
    )
    assert checked == {"host": "127.0.0.1", "username": url.username, "dbname": url.database}


def test_the_database_keeps_its_files_in_its_volume() -> None:
    found = re.fullmatch(r"postgres:(\d+)-\w+", services()["database"]["image"])
    assert found is not None
    assert int(found[1]) >= 18, "older images keep their files in /var/lib/postgresql/data"
    assert mounts(services()["database"]) == {"/var/lib/postgresql": "database"}


def test_only_the_coordinator_reaches_the_database() -> None:
    assert compose()["networks"]["database"]["internal"] is True
    on_it = {name for name, service in services().items() if "database" in service["networks"]}
    assert on_it == {"database", "coordinator"}
    published = {name for name, service in services().items() if "ports" in service}
    assert published == {"coordinator"}


def test_each_service_waits_until_what_it_needs_is_healthy() -> None:
    healthy = {"condition": "service_healthy"}
    assert services()["coordinator"]["depends_on"] == {"database": healthy}
    for worker in WORKERS:
        assert services()[worker]["depends_on"] == {"coordinator": healthy}


def test_a_worker_that_has_finished_is_not_started_again() -> None:
    for worker in WORKERS:
        assert services()[worker]["restart"] == "on-failure"
    for service in ("database", "coordinator"):
        assert services()[service]["restart"] == "unless-stopped"


def test_every_volume_belongs_to_one_service() -> None:
    used = [
        source
        for service in services().values()
        for source in mounts(service).values()
        if source in compose()["volumes"]
    ]
    assert sorted(used) == sorted(compose()["volumes"])


@pytest.mark.parametrize("site", ["a", "b"])
def test_each_worker_has_a_configuration_and_data_of_its_own(
    site: str, settings_of: Callable[[str, str], Any]
) -> None:
    settings = settings_of(f"worker-{site}", "worker")
    targets = mounts(services()[f"worker-{site}"])
    assert targets[str(settings.worker_config)] == f"./site-{site}.toml"
    assert interpolate(targets["/data"]) == f"./data/site-{site}"


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


def test_gpus_are_given_to_the_workers() -> None:
    overlay = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
    assert set(overlay["services"]) == set(WORKERS)
    for service in overlay["services"].values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
