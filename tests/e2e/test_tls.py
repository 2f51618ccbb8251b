"""A coordinator that serves TLS with a certificate of its site's own authority."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.certificates import Authority, new_authority
from tests.support.processes import (
    Finished,
    ServingCoordinator,
    hyperfl_here,
    serving_coordinator,
    worker_toml,
)
from tests.support.tiny_images import NUM_CLASSES, TINY_TRAINING, tiny_data

pytestmark = pytest.mark.e2e

_NO_DATA = 'dataset = "digits"'


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return new_authority(tmp_path_factory.mktemp("authorities") / "trusted")


@pytest.fixture(scope="module")
def coordinator(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServingCoordinator]:
    certificate, key = authority.certify("127.0.0.1")
    options = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    folder = tmp_path_factory.mktemp("site")
    with serving_coordinator(folder, *options, ca_file=authority.ca_file) as serving:
        yield serving


def _write_config(folder: Path, config: str) -> Path:
    file = folder / "worker.toml"
    file.write_text(config)
    return file


def _fail_to_run_worker(folder: Path, config: str) -> Finished:
    file = _write_config(folder, config)
    command = ("worker", "run", "--config", file)
    return hyperfl_here(*command, folder=folder, HYPERFL_GIVE_UP_AFTER_SECONDS="0.1")


def test_a_federation_trains_over_tls(
    coordinator: ServingCoordinator, authority: Authority, images: Path, tmp_path: Path
) -> None:
    options = ("--num-classes", NUM_CLASSES, *TINY_TRAINING, "--rounds", 1, "--cohort-size", 2)
    coordinator.create_federation("private", *options)
    clients = coordinator.invite("private", "site-a", "site-b")
    assert coordinator.admin("federation", "start", "private").exit_code == 0
    config = f'ca_file = "{authority.ca_file}"\n'
    config += worker_toml(coordinator.url, "private", clients, tiny_data(images, len(clients)))
    assert "https://" in config
    file = _write_config(tmp_path, config)
    done = hyperfl_here("worker", "run", "--config", file, folder=tmp_path)
    assert done.exit_code == 0, done.errors
    shown = coordinator.admin("federation", "show", "private", "--json").json
    assert (shown["state"], shown["rounds_committed"]) == ("finished", 1)


def test_a_worker_says_why_it_trusts_no_certificate_of_another_authority(
    coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    other = new_authority(tmp_path / "other")
    config = worker_toml(coordinator.url, "private", {"site-a": "token"}, _NO_DATA)
    for heading in (f'ca_file = "{other.ca_file}"\n', ""):
        done = _fail_to_run_worker(tmp_path, heading + config)
        assert done.exit_code == 1
        last = done.errors.splitlines()[-1]
        assert last.startswith("error: "), done.errors
        assert "certificate verify failed" in last, done.errors


def test_plaintext_is_answered_nothing_and_both_sides_say_what_to_do(
    coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    address = urlsplit(coordinator.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: coordinator\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):  # closed before all of it was read
            assert connection.recv(4096) == b""
    plain = coordinator.url.replace("https://", "http://")
    config = worker_toml(plain, "private", {"site-a": "token"}, _NO_DATA)
    token_file = coordinator.admin_token_file
    listing = ("federation", "list", "--url", plain, "--admin-token-file", token_file)
    for done in (
        _fail_to_run_worker(tmp_path, config),
        hyperfl_here(*listing, folder=tmp_path),
    ):
        assert done.exit_code == 1
        last = done.errors.splitlines()[-1]
        assert last.startswith("error: "), done.errors
        assert last.endswith("if it serves TLS, use an https address"), done.errors


def test_a_command_trusts_no_certificate_of_another_authority(
    coordinator: ServingCoordinator, tmp_path: Path
) -> None:
    token_file = coordinator.admin_token_file
    listing = ("federation", "list", "--url", coordinator.url, "--admin-token-file", token_file)
    done = hyperfl_here(*listing, folder=tmp_path)
    assert done.exit_code == 1
    [line] = done.errors.splitlines()
    assert line.startswith(f"error: the coordinator at {coordinator.url} is not trusted: ")
    assert "certificate verify failed" in line


def test_a_check_names_the_authority_and_spends_nothing(
    coordinator: ServingCoordinator, authority: Authority, tmp_path: Path
) -> None:
    config = worker_toml(coordinator.url, "private", {"site-a": "token"}, _NO_DATA)
    file = _write_config(tmp_path, f'ca_file = "{authority.ca_file}"\n{config}')
    command = ("worker", "check", "--config", file)
    done = hyperfl_here(*command, "--json", folder=tmp_path)
    rows = {row["check"]: row for row in done.json["rows"]}
    assert rows["TLS"]["detail"].startswith("certificate of ")
    assert rows["clock"]["verdict"] == rows["protocol"]["verdict"] == "ok"
    assert rows["credential"]["detail"] == "enrols at the first start; the token was not sent"
    assert not (tmp_path / "state").exists()
    distrusted = hyperfl_here(
        *command, folder=tmp_path, HYPERFL_COORDINATOR_URL=_other(coordinator.url)
    )
    assert distrusted.exit_code == 2
    assert "is not trusted: certificate verify failed" in distrusted.output


def _other(url: str) -> str:
    """The same coordinator under a name that its certificate does not have."""
    return url.replace("127.0.0.1", "localhost")
