"""The worker's TOML file: what is read from it, and the one line about each mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.errors import ConfigError
from worker.settings import WorkerConfig, WorkerSettings, load_config

CLIENT = """
[[clients]]
name = "site-a"
state_dir = "state/site-a"
enrolment_token_file = "site-a.token"
[clients.data]
dataset = "digits"
"""
HEADING = """
coordinator_url = "https://federation.example.org"
federation = "hospitals"
"""
WHOLE = HEADING + CLIENT


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HYPERFL_")]:
        monkeypatch.delenv(name)


def load(folder: Path, text: str) -> WorkerConfig:
    file = folder / "worker.toml"
    file.write_text(text)
    return load_config(file, WorkerSettings())


def refusal(folder: Path, text: str) -> str:
    """The message about a file, which is one line and begins with the file's name."""
    with pytest.raises(ConfigError) as raised:
        load(folder, text)
    message = str(raised.value)
    assert message.startswith(f"{folder / 'worker.toml'}")
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{folder / 'worker.toml'}").removeprefix(": ")


PLAIN = WHOLE.replace("https://federation.example.org", "http://federation.example.org")


def test_plaintext_to_another_machine_needs_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(tmp_path, PLAIN) == (
        "no TLS to federation.example.org: use an https address, or write allow_plaintext = true "
        "if nobody can read the network between"
    )
    assert load(tmp_path, "allow_plaintext = true" + PLAIN).allow_plaintext
    monkeypatch.setenv("HYPERFL_ALLOW_PLAINTEXT", "true")
    assert load(tmp_path, PLAIN).coordinator_url == "http://federation.example.org"


def test_an_address_from_the_environment_is_no_less_protected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERFL_COORDINATOR_URL", "http://elsewhere:8400")
    assert refusal(tmp_path, WHOLE).startswith("no TLS to elsewhere: ")


@pytest.mark.parametrize("entry", ["os", "os.path:join", "radiology.models"])
def test_imports_may_be_allowed_by_package_or_by_name(tmp_path: Path, entry: str) -> None:
    assert load(tmp_path, f'allowed_imports = ["{entry}"]' + WHOLE).allowed_imports == (entry,)


@pytest.mark.parametrize("entry", ["", "*", "os:", ":abort", "a b", "os.*", "os/path"])
def test_what_allows_no_import_is_refused(tmp_path: Path, entry: str) -> None:
    assert refusal(tmp_path, f'allowed_imports = ["{entry}"]' + WHOLE).startswith(
        "allowed_imports.0"
    )


def test_a_client_is_read_with_paths_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    config = load(
        tmp_path,
        HEADING
        + 'ca_file = "ca.pem"\nbackbone_weights_file = "vit.safetensors"\n'
        + CLIENT.replace('"digits"', '"image-folder"\ndata_dir = "images"'),
    )
    (client,) = config.clients
    assert (config.coordinator_url, config.federation) == (
        "https://federation.example.org",
        "hospitals",
    )
    assert config.ca_file == tmp_path / "ca.pem"
    assert config.backbone_weights_file == tmp_path / "vit.safetensors"
    assert client.name == "site-a"
    assert client.state_dir == tmp_path / "state" / "site-a"
    assert client.enrolment_token_file == tmp_path / "site-a.token"
    assert client.data.data_dir == tmp_path / "images"
    assert (client.seed, client.enrolment_token) == (None, None)


def test_absolute_paths_stay(tmp_path: Path) -> None:
    (client,) = load(tmp_path, WHOLE.replace("state/site-a", "/srv/site-a")).clients
    assert client.state_dir == Path("/srv/site-a")


def test_a_client_needs_no_token(tmp_path: Path) -> None:
    (client,) = load(tmp_path, WHOLE.replace("enrolment_token_file", "#")).clients
    assert client.enrolment_token_file is None
    assert client.data.data_dir is None


def test_clients_keep_their_order(tmp_path: Path) -> None:
    config = load(tmp_path, WHOLE + CLIENT.replace("site-a", "site-0"))
    assert [client.name for client in config.clients] == ["site-a", "site-0"]


def test_a_variable_replaces_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERFL_COORDINATOR_URL", "https://elsewhere:8400")
    assert load(tmp_path, WHOLE).coordinator_url == "https://elsewhere:8400"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('federation = "hospitals"', "", "federation: Field required"),
        ('coordinator_url = "https://federation.example.org"', "", "coordinator_url: Field requ"),
        ('name = "site-a"\n', "", "clients.0.name: Field required"),
        ("state_dir =", "stat_dir =", "clients.0.state_dir: Field required"),
        ("[clients.data]", "[clients.date]", "clients.0.data: Field required"),
        ("[[clients]]", "[clients]", "clients: Input should be a valid tuple"),
        ("federation =", 'colour = "blue"\nfederation =', "colour: unknown key"),
        ("state_dir", 'colour = "blue"\nstate_dir', "clients.0.colour: unknown key"),
        ("dataset =", 'colour = "blue"\ndataset =', "clients.0.data.colour: unknown key"),
        ('"hospitals"', '"Hospitals!"', "federation: String should match pattern"),
        ('"site-a"\n', '"../site-a"\n', "clients.0.name: String should match pattern"),
        ('"site-a"\n', "3\n", "clients.0.name: Input should be a valid string"),
        ("state_dir", "seed = -1\nstate_dir", "clients.0.seed: Input should be greater than or"),
        ("state_dir", f"seed = {1 << 63}\nstate_dir", "clients.0.seed: Input should be less than"),
        (
            '"digits"',
            '"digit"',
            "clients.0.data.dataset: unknown data set 'digit'; the closest",
        ),
        ('"digits"', '"cifar10"', "clients.0.data: data_dir is required for dataset 'cifar10'"),
        (
            '"digits"',
            '"digits"\npartition = "papper"',
            "clients.0.data.partition: Input should be 'none', 'paper', 'dirichlet' or 'iid'",
        ),
        (
            '"digits"',
            '"digits"\nnum_clients = 4',
            "clients.0.data: partition 'none' would give all 4 clients the same examples",
        ),
        (
            '"digits"',
            '"digits"\npartition = "iid"\nnum_clients = 4\nclient_index = 4',
            "clients.0.data: client_index 4 is out of range: num_clients is 4",
        ),
        (
            '"digits"',
            '"digits"\npartition = "dirichlet"\ndirichlet_alpha = 0.0',
            "clients.0.data.dirichlet_alpha: Input should be greater than 0",
        ),
        (
            "enrolment_token_file",
            'enrolment_token = "abc"\nenrolment_token_file',
            "clients.0: give enrolment_token or enrolment_token_file, not both",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in WHOLE
    assert refusal(tmp_path, WHOLE.replace(old, new, 1)).startswith(message)


def test_a_file_without_clients_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, HEADING) == "clients: Field required"
    assert refusal(tmp_path, HEADING + "clients = []").startswith("clients: Tuple should have at l")


def test_two_clients_with_one_name_are_refused(tmp_path: Path) -> None:
    second = CLIENT.replace("state/site-a", "state/other")
    assert refusal(tmp_path, WHOLE + second) == "two clients have the name site-a"


@pytest.mark.parametrize("again", ["state/site-a", "./state/site-a/", "state/x/../site-a", "{abs}"])
def test_two_clients_with_one_state_are_refused(tmp_path: Path, again: str) -> None:
    again = again.replace("{abs}", str(tmp_path / "state" / "site-a"))
    second = CLIENT.replace('"site-a"', '"site-b"').replace("state/site-a", again)
    assert "two clients have the state_dir" in refusal(tmp_path, WHOLE + second)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml cannot be read: No such file") as raised:
        load_config(tmp_path / "nowhere.toml", WorkerSettings())
    assert len(str(raised.value).splitlines()) == 1


def test_a_folder_in_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, WorkerSettings())


@pytest.mark.parametrize("text", ["federation = ", "[[clients]", "a = 1\na = 2", "{}"])
def test_what_is_not_toml_is_one_line(tmp_path: Path, text: str) -> None:
    assert "is not TOML: " in refusal(tmp_path, text)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is UTF-16: save it as UTF-8"):
        load_config(file, WorkerSettings())


@pytest.mark.parametrize("url", ["federation.example.org", "localhost:8400", "", "ftp://host"])
def test_an_address_that_is_no_http_url_is_refused(tmp_path: Path, url: str) -> None:
    text = WHOLE.replace("https://federation.example.org", url)
    assert refusal(tmp_path, text).startswith("coordinator_url: ")


def test_settings_come_from_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYPERFL_WORKER_CONFIG", str(tmp_path / "worker.toml"))
    monkeypatch.setenv("HYPERFL_DEVICE", "cuda:1")
    monkeypatch.setenv("HYPERFL_POLL_WAIT_SECONDS", "5")
    monkeypatch.setenv("HYPERFL_HOST", "0.0.0.0")  # the coordinator's
    settings = WorkerSettings()
    assert settings.worker_config == tmp_path / "worker.toml"
    assert (settings.device, settings.poll_wait_seconds) == ("cuda:1", 5.0)
    assert settings.coordinator_url is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REQUEST_TIMEOUT_SECONDS", "0"),
        ("POLL_WAIT_SECONDS", "31"),
        ("GIVE_UP_AFTER_SECONDS", "-1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_variable_out_of_bounds_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"HYPERFL_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        WorkerSettings()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("COORDINATOR_URL", "", "HYPERFL_COORDINATOR_URL is empty"),
        ("DEVISE", "cpu", "HYPERFL_DEVISE is not a setting; is it HYPERFL_DEVICE"),
    ],
)
def test_a_variable_that_is_empty_or_misspelt_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"HYPERFL_{name}", value)
    with pytest.raises(ValidationError, match=message):
        WorkerSettings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        WorkerSettings().device = "cpu"
