"""A worker's TOML file to begin with: every member, what it is for, and its default."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from pydantic import ValidationError

from shared.validation import first_fault
from worker.errors import ConfigError
from worker.settings import WorkerConfig

_TEMPLATE = """\
# A worker of HyperFL: who this site is, and where its data lies. What has no # is needed.
# Relative paths are relative to this file's folder. `hyperfl worker check` says what is wrong.

# The coordinator's address. A path is kept, as in https://host/hyperfl.
coordinator_url = {coordinator_url}
federation = {federation}

# Certificates that may sign the coordinator's, instead of the system's.
# ca_file = "hospital-ca.pem"

# Whether the address may lead to another machine without TLS: only where nobody can read the
# network between.
# allow_plaintext = false

# This site's copy of the federation's pretrained backbone, instead of a download.
# backbone_weights_file = "backbone.safetensors"

# Code of this machine's that the federation may name: "package.module:name", or a "package".
# allowed_imports = []

# What this site takes part in, whatever the federation asks; `hyperfl worker policy init` writes
# all members.
# [policy]
# require_protection = "secure-sum"

# One table for each client that this worker hosts.
[[clients]]
name = {client}

# Keeps the credential, the embedding, the head and the update that was not answered yet. Back it
# up; give it to no other worker.
state_dir = {state_dir}

# The one-time token that the administrator sent; needed once. Or: enrolment_token = "…"
enrolment_token_file = {token_file}

# Of the client's private draws, for experiments that must repeat; else the system draws it.
# seed = 1

# A folder with train/CLASS/*.png and test/CLASS/*.png. Other kinds of data are "table", "arrays",
# "features" for rows of a table, and "package.module:function" for code of your own:
# docs/own-data.md.
[clients.data]
dataset = "image-folder"
data_dir = {data_dir}

# Training examples that are kept apart, to choose the client's best version by.
# validation_fraction = 0.2

# The federation's name of a class by this site's own name of it, where the two differ.
# [clients.data.classes]
# benign = "nv"
"""


def first_config(coordinator_url: str, federation: str, client: str, data_dir: Path) -> str:
    """The text of a ``worker.toml`` with one client.

    Raises:
        ConfigError: it would not be taken; names the member.
    """
    text = _TEMPLATE.format(
        coordinator_url=json.dumps(coordinator_url),
        federation=json.dumps(federation),
        client=json.dumps(client),
        state_dir=json.dumps(f"state/{client}"),
        token_file=json.dumps(f"{client}.token"),
        data_dir=json.dumps(str(data_dir)),
    )
    try:
        WorkerConfig.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise ConfigError(str(first_fault(error))) from error
    return text
