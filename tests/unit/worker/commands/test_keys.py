"""``hyperfl worker keys`` and ``peers trust``: what people see of fingerprints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shared.secure_sum.cards import Card
from worker.commands.worker import worker
from worker.site import state_lock
from worker.site.peers import load_peers

FINGERPRINT = r"\d{5}( \d{5}){11}"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    client = '[[clients]]\nname = "{0}"\nstate_dir = "{0}"\ndata = {{ dataset = "digits" }}\n'
    file = tmp_path / "worker.toml"
    file.write_text(
        'coordinator_url = "http://127.0.0.1:1"\nfederation = "tiny"\n'
        + client.format("alice")
        + client.format("bob")
    )
    return file


def command(config: Path, *words: str) -> Any:
    return CliRunner().invoke(worker, [*words, "--config", str(config)])


def test_every_client_has_a_line_with_its_fingerprint(config: Path) -> None:
    done = command(config, "keys", "show")
    assert done.exit_code == 0, done.output
    assert re.fullmatch(rf"alice: {FINGERPRINT}\nbob: {FINGERPRINT}\n", done.stdout)
    (row,) = json.loads(command(config, "keys", "show", "--client", "bob", "--json").stdout)
    assert row["client"] == "bob"
    assert f"bob: {row['fingerprint']}" in done.stdout


def test_an_exported_card_is_what_another_site_trusts(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "alice.card.json"
    done = command(config, "keys", "export", "--client", "alice", "--output", str(file))
    assert done.exit_code == 0, done.output
    card = Card.model_validate_json(file.read_text())
    assert done.stdout == f"{file}: card of alice, fingerprint {card.fingerprint}\n"
    done = command(config, "peers", "trust", str(file))
    assert done.exit_code == 0, done.output
    assert done.stdout == f"bob: trusts alice, fingerprint {card.fingerprint}\n"
    assert load_peers(tmp_path / "bob").trusted == {"alice"}


def test_whoever_renews_keys_is_told_to_tell_the_others(config: Path) -> None:
    before = command(config, "keys", "show", "--client", "alice").stdout
    done = command(config, "keys", "renew", "--client", "alice")
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    assert re.fullmatch(rf"alice: new keys, fingerprint {FINGERPRINT}", first)
    assert first.removeprefix("alice: new keys, fingerprint ") not in before
    assert "trust the new fingerprint" in second


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("keys", "show", "--client", "carol"), 2, "this worker hosts no client 'carol'"),
        (("keys", "renew", "--client", "alice"), 1, "alice is in use by another worker"),
        (("peers", "trust", "/nowhere/card.json"), 2, "/nowhere/card.json cannot be read"),
        (("peers", "list"), 2, "client alice is not enrolled"),
        (
            ("peers", "verify", "--name", "carol", "--fingerprint", "1 2"),
            2,
            "a fingerprint has 60 digits, and this has 2 characters: '1 2'",
        ),
    ],
)
def test_a_mistake_is_one_line(
    config: Path, tmp_path: Path, words: tuple[str, ...], exit_code: int, message: str
) -> None:
    with state_lock.locked(tmp_path / "alice"):
        done = command(config, *words)
    assert done.exit_code == exit_code
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr


def test_a_card_that_cannot_be_written_is_one_line(config: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "none" / "card.json")
    done = command(config, "keys", "export", "--client", "alice", "--output", output)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1, done.stderr
