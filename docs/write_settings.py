"""Writes the tables of ``settings.md`` from the docstrings of settings and of a site's policy.

With ``--check`` it writes nothing, and ends with 1 if the page is stale.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from coordinator.settings import CoordinatorSettings
from shared.environment import PREFIX
from worker.settings import WorkerSettings
from worker.site_policy import SitePolicy

PAGE = Path(__file__).with_name("settings.md")
SIDES: dict[str, type[BaseSettings]] = {
    "coordinator": CoordinatorSettings,
    "worker": WorkerSettings,
}


def table(settings: type[BaseSettings]) -> str:
    """A row for each setting: variable, meaning, default."""
    rows = ["| variable | meaning | default |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        meaning = _with_variables(" ".join((field.description or "").split()), settings)
        default = _with_variables(_default(name, field), settings)
        rows.append(f"| `{PREFIX}{name.upper()}` | {meaning} | {default} |")
    return "\n".join(rows)


def policy_table() -> str:
    """A row for each member of a site's policy: member, meaning, default."""
    rows = ["| member | meaning | default |", "|---|---|---|"]
    for name, field in SitePolicy.model_fields.items():
        meaning = " ".join((field.description or "").split())
        default = "unset" if field.default is None else f"`{json.dumps(field.default)}`"
        rows.append(f"| `{name}` | {meaning} | {default} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """The page with its tables written anew."""
    tables = {side: table(settings) for side, settings in SIDES.items()}
    for name, written in (tables | {"policy": policy_table()}).items():
        before, begin, rest = text.partition(f"<!-- settings: {name} -->\n")
        _, end, after = rest.partition("\n<!-- end -->")
        if not end:
            raise SystemExit(f"{PAGE.name} has no place for the table of {name}")
        text = before + begin + written + end + after
    return text


def _with_variables(meaning: str, settings: type[BaseSettings]) -> str:
    """Names of settings as the variables that they are."""
    return re.sub(
        r"`(\w+)`",
        lambda match: (
            f"`{PREFIX}{match[1].upper()}`" if match[1] in settings.model_fields else match[0]
        ),
        meaning,
    )


def _default(name: str, field: FieldInfo) -> str:
    extra: Any = field.json_schema_extra or {}
    if "default_shown" in extra:
        return str(extra["default_shown"])
    value = field.default
    if value is None:
        return "none"
    if isinstance(value, str | Path):
        return f"`{value}`"
    if name.endswith("_bytes"):
        return _in_units(value, {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10})
    if name.endswith("_seconds"):
        return _in_units(value, {"days": 86400, "hours": 3600}) + (" s" if value < 7200 else "")
    return f"{value:g}"


def _in_units(value: float, units: dict[str, int]) -> str:
    for unit, size in units.items():
        if value >= 2 * size or (value == size and unit.endswith("B")):
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def main() -> None:
    """Writes the page, or checks it."""
    written = page(PAGE.read_text())
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(written)
    elif written != PAGE.read_text():
        raise SystemExit(f"docs/{PAGE.name} is stale: run python docs/write_settings.py")


if __name__ == "__main__":
    main()
