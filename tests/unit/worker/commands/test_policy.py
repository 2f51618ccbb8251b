"""``hyperfl worker policy``: the table that it writes, and what it says of a federation."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shared.federation.specification import document_digest
from tests.support.specifications import tiny_specification
from worker.commands.worker import worker
from worker.site_policy import SitePolicy

CLIENT = '[[clients]]\nname = "a"\nstate_dir = "a"\ndata = { dataset = "digits" }\n'


def command(*words: str) -> Any:
    return CliRunner().invoke(worker, ["policy", *words])


@pytest.fixture
def specification(tmp_path: Path) -> str:
    file = tmp_path / "federation.json"
    file.write_text(tiny_specification().model_dump_json())
    return str(file)


def config(folder: Path, *lines: str) -> str:
    file = folder / "worker.toml"
    head = 'coordinator_url = "http://127.0.0.1:1"\nfederation = "tiny"\n'
    file.write_text(head + "\n".join(lines) + "\n" + CLIENT)
    return str(file)


def test_the_table_has_every_member_with_its_default() -> None:
    done = command("init")
    assert done.exit_code == 0, done.output
    table = tomllib.loads(done.stdout)["policy"]
    assert SitePolicy.model_validate(table) == SitePolicy()
    unset = {name for name, field in SitePolicy.model_fields.items() if field.default is None}
    assert SitePolicy.model_fields.keys() - table.keys() == unset
    for name in SitePolicy.model_fields:
        assert re.search(rf"^(# )?{name} = ", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_every_example_of_the_table_may_be_written() -> None:
    written = re.sub(r"^# (\w+ = )", r"\1", command("init").stdout, flags=re.MULTILINE)
    table = tomllib.loads(written)["policy"]
    assert table.keys() == SitePolicy.model_fields.keys()
    SitePolicy.model_validate(table)


def test_a_dash_is_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("init", "--output", "-").stdout == command("init").stdout
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    assert command("init", "--output", str(file)).exit_code == 0
    assert file.read_text() == command("init").stdout
    done = command("init", "--output", str(file))
    assert done.exit_code == 2
    assert done.stderr == f"error: {file} exists, and is left as it is\n"


def test_what_is_refused_is_said_line_by_line_and_ends_with_1(
    tmp_path: Path, specification: str
) -> None:
    file = config(tmp_path, '[policy]\nmethods = ["fedavg"]\nrequire_protection = "secure-sum"')
    done = command("explain", "--specification", specification, "--config", file)
    assert done.exit_code == 1
    lines = {line.split()[1]: line.split() for line in done.stdout.splitlines()}
    refused = {member for member, words in lines.items() if words[0] == "refused"}
    assert refused == {"methods", "require_protection", "allowed_imports"}
    assert SitePolicy.model_fields.keys() <= lines.keys()
    assert lines["methods"][2:] == ["fedavg", "method", "hyperfl"]


def test_a_federation_that_is_accepted_ends_with_0(tmp_path: Path, specification: str) -> None:
    file = config(tmp_path, 'allowed_imports = ["tests.support.models"]')
    done = command("explain", "--specification", specification, "--config", file, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["specification_digest"] == document_digest(tiny_specification().document)
    assert {one["verdict"] for one in said["findings"]} == {"accepted"}


def test_without_a_workers_file_the_defaults_hold(specification: str) -> None:
    done = command("explain", "--specification", specification, "--json")
    refused = [one for one in json.loads(done.stdout)["findings"] if one["verdict"] == "refused"]
    assert [one["member"] for one in refused] == ["allowed_imports"]


def test_what_is_no_specification_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "federation.json"
    done = command("explain", "--specification", str(file))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert f"{file} cannot be read" in done.stderr
    file.write_text("{}")
    done = command("explain", "--specification", str(file))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert f"{file} is not a specification: name" in done.stderr
