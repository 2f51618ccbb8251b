"""Says which licences the installed packages have, and ends with 1 if ``licences.toml`` lacks one.

It reads what is installed beside it, and nothing else. A package without a licence in its metadata
is named like one whose licence is not allowed.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from fnmatch import fnmatch
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

RULES = Path(__file__).with_name("licences.toml")
PROJECT = "hyperfl"
USED_EXTRAS = ("worker", "export", "dicom", "parquet", "experiments", "tracking", "otel")
"""Those that users install; the one that is missing, `dev`, is for whoever changes the code."""
NOT_STATED = "not stated"
_LONGEST_NAME = 60
"""Of a licence. What is longer in a package's metadata is the licence's text."""


@dataclass(frozen=True)
class Rules:
    """What ``licences.toml`` says.

    Attributes:
        allowed: licences that any package may have.
        development: those that tools may have beside, which nobody gets who installs the project.
        accepted: the licence of single packages, by name or pattern.
        names: SPDX identifiers by what packages call a licence.
    """

    allowed: frozenset[str]
    development: frozenset[str]
    accepted: Mapping[str, str]
    names: Mapping[str, str]

    @classmethod
    def read(cls, file: Path) -> Rules:
        """The rules in a file."""
        given = tomllib.loads(file.read_text())
        return cls(
            frozenset(given["allowed"]),
            frozenset(given["development"]),
            given["accepted"],
            given["names"],
        )

    def licence_of(self, metadata: Message) -> str:
        """What a package's metadata say: an SPDX expression, or classifiers, or else a name.

        Of several classifiers all count: which of them are alternatives is not said.
        """
        if expression := metadata.get("License-Expression"):
            return str(expression)
        classifiers = [
            one.rpartition(" :: ")[2]
            for one in metadata.get_all("Classifier", [])
            if one.startswith("License :: ") and not one.endswith("Proprietary License")
        ]
        if classifiers:
            return " AND ".join(sorted(self.names.get(one, one) for one in classifiers))
        name = metadata.get("License") or NOT_STATED
        if len(name) > _LONGEST_NAME or "\n" in name:
            return NOT_STATED
        return self.names.get(name, name)

    def allow(self, package: str, licence: str, *, is_used: bool) -> bool:
        """Whether a package may have a licence; ``is_used`` by whoever installs the project."""
        if any(fnmatch(package, one) and licence == self.accepted[one] for one in self.accepted):
            return True
        allowed = self.allowed if is_used else self.allowed | self.development
        return any(
            all(part in allowed for part in alternative.split(" AND "))
            for alternative in licence.split(" OR ")
        )


def packages_used(project: str, extras: Iterable[str]) -> set[str]:
    """Names of the installed packages that a project with these extras brings along."""
    found: set[str] = set()
    ahead = [(project, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while ahead:
        name, wanted = ahead.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another platform, or of an extra that is not installed
        found.add(name)
        for requirement in map(Requirement, requirements):
            if any(_applies(requirement, extra) for extra in ("", *wanted)):
                ahead.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def report(installed: Iterable[Distribution], used: set[str], rules: Rules) -> tuple[str, str]:
    """Licences with their packages, and what is not allowed; both as lines of text."""
    by_licence: dict[str, list[str]] = {}
    refused = []
    for package in sorted(installed, key=lambda one: canonicalize_name(one.name)):
        name = canonicalize_name(package.name)
        licence = rules.licence_of(package.metadata)  # type: ignore[arg-type]
        by_licence.setdefault(licence, []).append(name)
        if not rules.allow(name, licence, is_used=name in used):
            refused.append(f"{name}: {licence}")
    lines = [f"{licence}: {', '.join(names)}" for licence, names in sorted(by_licence.items())]
    return "\n".join(lines), "\n".join(refused)


def main() -> None:
    """Prints the report; ends with 1 if a licence is not allowed."""
    used = packages_used(PROJECT, USED_EXTRAS)
    licences, refused = report(distributions(), used, Rules.read(RULES))
    print(licences)
    if refused:
        sys.exit(f"licences that {RULES.name} does not allow:\n{refused}")


if __name__ == "__main__":
    main()
