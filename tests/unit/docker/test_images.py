"""Dockerfiles agree with the project, its commands and its settings."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from coordinator.settings import CoordinatorSettings
from tests.support.docker import (
    DOCKER,
    ROOT,
    SETTINGS,
    SIDES,
    WORKERS,
    check_command,
    dockerfile,
    project,
    services,
)


@pytest.mark.parametrize("side", SIDES)
def test_every_stage_starts_from_the_same_pinned_python_that_the_project_supports(
    side: str,
) -> None:
    bases = {stage[0].text.split()[0] for stage in dockerfile(side).stages}
    assert len(dockerfile(side).stages) == 2
    (base,) = bases
    found = re.fullmatch(r"python:3\.(\d+)-slim-[a-z]+", base)
    assert found is not None, base
    assert project()["project"]["requires-python"] == f"==3.{found[1]}.*"


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
        *document["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"],
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


def test_the_coordinators_image_alone_serves_nothing_in_plaintext(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in dockerfile("coordinator").environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="HYPERFL_PLAINTEXT=behind-proxy"):
        CoordinatorSettings().require_protection()


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
        assert install.count("[") == install.count("[otel]")
        assert "torch" not in install
    assert not [d for d in project()["project"]["dependencies"] if d.startswith("torch")]


def test_the_workers_pytorch_comes_from_the_index_that_the_build_names_or_pips_own() -> None:
    file = dockerfile("worker")
    assert file.only("ARG").text == "TORCH_INDEX_URL="
    torch_install, wheel_install = file.pip_installs()
    names = [instruction.name for instruction in file.stages[-1]]
    assert names.index("ARG") < names.index("RUN")
    assert '${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}' in torch_install
    assert "[worker,otel]" in wheel_install
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


def test_the_worker_claims_no_health_and_nothing_waits_for_it() -> None:
    assert dockerfile("worker").only("HEALTHCHECK").text == "NONE"
    for service in services().values():
        assert not set(WORKERS) & set(service.get("depends_on", {}))
