"""What the interface's document says of what may be sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordinator.app import create_app
from coordinator.settings import CoordinatorSettings


def _integers(schema: Any, where: str, document: Any, seen: set[str]) -> Iterator[tuple[str, Any]]:
    """Every integer below a schema, each component once."""
    if isinstance(schema, list):
        for index, part in enumerate(schema):
            yield from _integers(part, f"{where}[{index}]", document, seen)
    elif isinstance(schema, dict):
        name = schema.get("$ref", "").rpartition("/")[2]
        if name and name not in seen:
            seen.add(name)
            component = document["components"]["schemas"][name]
            yield from _integers(component, name, document, seen)
        if schema.get("type") == "integer":
            yield where, schema
        for key, part in schema.items():
            yield from _integers(part, f"{where}.{key}", document, seen)


def test_every_integer_that_may_be_sent_has_a_lower_and_an_upper_bound(tmp_path: Path) -> None:
    document = create_app(CoordinatorSettings(data_dir=tmp_path)).openapi()
    sent = [
        (part, f"{method} {path}")
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for part in (operation.get("parameters", []), operation.get("requestBody", {}))
    ]
    seen: set[str] = set()
    found = [one for part, where in sent for one in _integers(part, where, document, seen)]
    assert len(found) >= 20
    unbounded = [
        (where, schema)
        for where, schema in found
        if not (schema.keys() & {"minimum", "exclusiveMinimum"})
        or not (schema.keys() & {"maximum", "exclusiveMaximum"})
    ]
    assert not unbounded
