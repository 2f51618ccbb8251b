"""The command: what it refuses, and a site's audit without a coordinator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.audited import SMALL, small_subject
from worker.audit import command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--demo", "--client", "a"), "--demo takes no --config"),
        (("--demo", "--quick", "--thorough"), "give --quick or --thorough, not both"),
        (("--demo", "--protection", "masks"), "--protection must be one of none, secure-sum"),
        (
            ("--demo", "--method", "hyperfl-plus"),
            "updates of method hyperfl-plus are changes of the factors",
        ),
        ((), "give the worker's TOML file with --config"),
        (("--config", "absent.toml"), "absent.toml cannot be read"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(command.privacy, ["audit", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_site_audits_a_federation_that_does_not_exist_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specification = tmp_path / "federation.json"
    specification.write_text(small_subject().specification.model_dump_json())
    config = tmp_path / "worker.toml"
    config.write_text(
        'coordinator_url = "http://127.0.0.1:1"\nfederation = "small"\n'
        'allowed_imports = ["tests.support.extractors"]\n'
        "[policy]\nminimum_steps = 4\n"
        '[[clients]]\nname = "here"\nstate_dir = "state"\n[clients.data]\ndataset = "digits"\n'
        'partition = "paper"\nnum_clients = 8\nclient_index = 1\n'
    )
    monkeypatch.setattr(command, "DEFAULT", SMALL)
    arguments = ["audit", "--config", str(config), "--specification", str(specification)]
    result = CliRunner().invoke(
        command.privacy, [*arguments, "--output", str(tmp_path / "audit"), "--json"]
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["subject"]["client"] == "here"
    assert "no coordinator was asked" in document["subject"]["from"]
    assert {row["policy"] for row in document["images"]} == {None, "minimum_steps = 4"}
    assert not (tmp_path / "state").exists(), "nothing of the site changes"
    missing = CliRunner().invoke(command.privacy, [*arguments, "--client", "there"])
    assert (missing.exit_code, "hosts no client 'there'" in missing.stderr) == (2, True)
