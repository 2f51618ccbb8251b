"""The site's policy for people: a table to begin with, and what it makes of a federation."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from pydantic import ValidationError

from shared.federation.model_names import import_paths
from shared.federation.specification import FederationSpecification, document_digest
from shared.validation import first_fault
from worker.errors import ConfigError, ImportNotAllowed
from worker.models.allowed_imports import AllowedImports
from worker.site.policy import Finding, Verdict, find
from worker.site_policy import SitePolicy

_COLUMNS = 96


def policy_table() -> str:
    """A ``[policy]`` table with every member, its meaning and its default.

    Members that are unset by default are comments, with an example.
    """
    lines = ["[policy]"]
    for name, field in SitePolicy.model_fields.items():
        meaning = " ".join((field.description or "").split())
        lines += ["", *(f"# {line}" for line in textwrap.wrap(meaning, _COLUMNS))]
        default = SitePolicy.model_fields[name].default
        if default is None:
            lines.append(f"# {name} = {json.dumps((field.examples or [None])[0])}")
        else:
            lines += _assigned(name, default)
    return "\n".join(lines) + "\n"


def _assigned(name: str, value: object) -> list[str]:
    """TOML of a member: a list that is too long for a line has a line for each of its own."""
    line = f"{name} = {json.dumps(value)}"
    if len(line) <= _COLUMNS or not isinstance(value, tuple):
        return [line]
    return [f"{name} = [", *(f"    {json.dumps(one)}," for one in value), "]"]


def explain(
    policy: SitePolicy, allowed_imports: tuple[str, ...], file: Path
) -> tuple[str, list[Finding]]:
    """What a site makes of the specification in ``file``.

    Returns:
        The specification's digest, and a finding for each member of the policy and for
        ``allowed_imports``.

    Raises:
        ConfigError: the file has no specification.
    """
    try:
        specification = FederationSpecification.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{file} is not a specification: {first_fault(error)}") from error
    digest = document_digest(specification.document)
    found = find(policy, specification, digest)
    return digest, [*found, _imports(allowed_imports, specification)]


def _imports(allowed: tuple[str, ...], specification: FederationSpecification) -> Finding:
    training = specification.training
    named = import_paths(training.method, training.model)
    verdict = Verdict.ACCEPTED
    try:
        AllowedImports(allowed).require(*named)
    except ImportNotAllowed:
        verdict = Verdict.REFUSED
    asks = ", ".join(named) or "no code of this machine"
    return Finding("allowed_imports", ", ".join(allowed) or "empty", asks, verdict)
