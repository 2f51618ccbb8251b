"""Settings as an administrator writes them: in the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from coordinator.app import create_app
from coordinator.commands.coordinator import coordinator
from coordinator.settings import CoordinatorSettings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("HYPERFL_")]:
        monkeypatch.delenv(name)


def test_without_any_setting_everything_is_in_one_folder() -> None:
    settings = CoordinatorSettings()
    assert settings.effective_database_url == "sqlite:///hyperfl-data/hyperfl.db"
    assert settings.effective_admin_token_file == Path("hyperfl-data/admin-token")
    assert (settings.host, settings.port) == ("127.0.0.1", 8400)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HYPERFL_DATA_DIR": "/var/lib/hyperfl",
        "HYPERFL_ADMIN_TOKEN_FILE": "/run/secrets/admin",
        "HYPERFL_PORT": "0",
        "HYPERFL_TICK_SECONDS": "0.25",
    }.items():
        monkeypatch.setenv(name, value)
    settings = CoordinatorSettings()
    assert settings.effective_database_url == "sqlite:////var/lib/hyperfl/hyperfl.db"
    assert settings.effective_admin_token_file == Path("/run/secrets/admin")
    assert (settings.port, settings.tick_seconds) == (0, 0.25)


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERFL_PORT", "9000")
    assert CoordinatorSettings(port=9001).port == 9001


BAD_VALUES = {
    "HYPERFL_PORT": ["http", "65536", "-1"],
    "HYPERFL_MAX_UPDATE_BYTES": ["0", "2GiB"],
    "HYPERFL_TICK_SECONDS": ["0", "-1", "nan", "often"],
    "HYPERFL_AGGREGATION_LEASE_SECONDS": ["0", "-1", "nan", "inf"],
    "HYPERFL_ENROLMENT_TOKEN_SECONDS": ["0", "-1", "nan", "inf"],
    "HYPERFL_DATABASE_CONNECTIONS": ["0", "many"],
    "HYPERFL_DATABASE_POOL_SECONDS": ["0", "-1", "nan", "inf"],
    "HYPERFL_DATABASE_CONNECT_SECONDS": ["1", "2.5", "inf"],
    "HYPERFL_DATABASE_TRANSACTION_SECONDS": ["0", "-1", "nan", "inf"],
    "HYPERFL_DATABASE_MIGRATION_SECONDS": ["0", "inf"],
    "HYPERFL_MAX_DATABASE_BYTES": ["0", "1GiB"],
    "HYPERFL_MAX_CONNECTIONS": ["0"],
    "HYPERFL_MAX_CONNECTIONS_PER_ADDRESS": ["0", "half"],
    "HYPERFL_MAX_CONCURRENT_REQUESTS_PER_TOKEN": ["0"],
    "HYPERFL_MAX_TARGET_BYTES": ["0", "255"],
    "HYPERFL_MAX_HEAD_BYTES": ["0", "1023"],
    "HYPERFL_MAX_HEADERS": ["0", "19"],
    "HYPERFL_HEAD_SECONDS": ["0", "nan", "inf"],
    "HYPERFL_KEEP_ALIVE_SECONDS": ["0", "1.5", "inf"],
    "HYPERFL_JSON_BODY_SECONDS": ["0", "nan", "inf"],
    "HYPERFL_RESPONSE_STALL_SECONDS": ["0", "nan", "inf"],
    "HYPERFL_LISTEN_BACKLOG": ["0"],
    "HYPERFL_SHUTDOWN_SECONDS": ["0", "inf"],
    "HYPERFL_LOG_LEVEL": ["loud"],
    "HYPERFL_PLAINTEXT": ["yes", "anywhere"],
    "HYPERFL_DATABASE_URL": [
        "hyperfl.db",
        "mysql://host/hyperfl",
        "postgresql://host/hyperfl?sslmode=on",
    ],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values]
)
def test_a_bad_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        CoordinatorSettings()
    [error] = caught.value.errors()
    assert error["loc"] == (name.removeprefix("HYPERFL_").lower(),)


@pytest.mark.parametrize(
    ("name", "value"),
    [("HYPERFL_PORT", "http"), ("HYPERFL_DATABASE_URL", "nonsense"), ("HYPERFL_TLS_KEY", "key")],
)
def test_a_command_says_in_one_line_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    result = CliRunner().invoke(coordinator, ["migrate"])
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert name.removeprefix("HYPERFL_").lower() in line.lower()


@pytest.mark.parametrize("field", CoordinatorSettings.model_fields)
def test_no_setting_may_be_empty(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    monkeypatch.setenv(f"HYPERFL_{field.upper()}", "")
    with pytest.raises(ValidationError, match=f"HYPERFL_{field.upper()} is empty"):
        CoordinatorSettings()


def test_the_workers_variables_may_be_there_but_not_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERFL_DEVICE", "cpu")
    CoordinatorSettings()
    monkeypatch.setenv("HYPERFL_DEVICE", "")
    with pytest.raises(ValidationError, match="HYPERFL_DEVICE is empty"):
        CoordinatorSettings()


@pytest.mark.parametrize("name", ["HYPERFL_TLS_CERT", "hyperfl_tls_certificat"])
def test_a_misspelt_setting_is_refused_with_the_names_nearest_to_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "certificate.pem")
    result = CliRunner().invoke(coordinator, ["migrate"])
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith(f"error: {name} is not a setting; is it HYPERFL_TLS_CERTIFICATE")


def test_an_empty_option_is_refused_like_an_empty_variable() -> None:
    result = CliRunner().invoke(coordinator, ["migrate", "--database-url", ""])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: database_url: not a URL")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_alone_is_served_without_tls(host: str) -> None:
    CoordinatorSettings(host=host).require_protection()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "federation.example.org", ""])
def test_others_are_served_without_tls_only_behind_a_proxy(host: str) -> None:
    with pytest.raises(ValueError, match="HYPERFL_PLAINTEXT=behind-proxy if a proxy"):
        CoordinatorSettings(host=host).require_protection()
    CoordinatorSettings(host=host, plaintext="behind-proxy").require_protection()
    files = {"tls_certificate": Path("c.pem"), "tls_key": Path("k.pem")}
    CoordinatorSettings(host=host, **files).require_protection()


def test_a_certificate_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("nothing")
    for certificate in ("c.pem", "absent.pem"):
        files = ("--tls-certificate", tmp_path / certificate, "--tls-key", tmp_path / "k.pem")
        result = CliRunner().invoke(coordinator, ["serve", "--port", "0", *map(str, files)])
        assert result.exit_code == 2
        [line] = result.stderr.splitlines()
        assert line.startswith(f"error: {tmp_path / certificate} and {tmp_path / 'k.pem'} are not")
    assert list(tmp_path.iterdir()) == [tmp_path / "c.pem"]


@pytest.mark.parametrize("given", ["tls_certificate", "tls_key"])
def test_a_certificate_and_its_key_go_together(given: str) -> None:
    with pytest.raises(ValidationError, match="TLS_CERTIFICATE and HYPERFL_TLS_KEY, or neither"):
        CoordinatorSettings.model_validate({given: "/etc/hyperfl/file.pem"})


def test_tls_with_both_files_is_accepted() -> None:
    settings = CoordinatorSettings(tls_certificate=Path("c.pem"), tls_key=Path("k.pem"))
    assert (settings.tls_certificate, settings.tls_key) == (Path("c.pem"), Path("k.pem"))


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CoordinatorSettings().port = 1  # type: ignore[misc]


def test_a_bound_on_the_file_is_for_sqlite_alone() -> None:
    settings = CoordinatorSettings(max_database_bytes=1 << 30)
    assert settings.database_limits.max_bytes == 1 << 30
    with pytest.raises(ValidationError, match="MAX_DATABASE_BYTES is for SQLite"):
        CoordinatorSettings(database_url="postgresql://host/hyperfl", max_database_bytes=1 << 30)


@pytest.mark.parametrize("hosts", ["fl.example.org", "*.example.net,10.0.0.1", "coordinator"])
def test_hosts_are_names_or_whole_domains(tmp_path: Path, hosts: str) -> None:
    settings = CoordinatorSettings(data_dir=tmp_path, allowed_hosts=hosts)
    create_app(settings).build_middleware_stack()


@pytest.mark.parametrize("hosts", ["", "*", "fl.*", "*example.net", "a,,b", "a, b", "http://a"])
def test_what_names_no_host_is_refused_at_the_start(hosts: str) -> None:
    with pytest.raises(ValidationError, match="allowed_hosts"):
        CoordinatorSettings(allowed_hosts=hosts)
