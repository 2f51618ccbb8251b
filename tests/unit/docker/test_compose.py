"""The compose files agree with the images, the settings and the example environment."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from sqlalchemy import make_url

from coordinator.settings import CoordinatorSettings
from tests.support.docker import (
    DOCKER,
    ROOT,
    SETTINGS,
    VARIABLE,
    WORKERS,
    built_services,
    compose,
    compose_variables,
    dockerfile,
    env_example,
    interpolate,
    mounts,
    services,
)


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


def test_ports_agree_with_the_settings(settings_of: Callable[[str, str], Any]) -> None:
    default = CoordinatorSettings().port
    settings = settings_of("coordinator", "coordinator")
    assert settings.port == default
    assert settings.host == "0.0.0.0"
    settings.require_protection()
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


def test_gpus_are_given_to_the_workers() -> None:
    overlay = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
    assert set(overlay["services"]) == set(WORKERS)
    for service in overlay["services"].values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
