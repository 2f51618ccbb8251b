"""The folder docker/kubernetes/ as ``kubectl kustomize`` builds it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from tests.support.docker import DOCKER
from tests.support.tools import run_tool

KUBERNETES = DOCKER / "kubernetes"
OVERLAYS = {"base": "coordinator", "trial": "coordinator", "site": "worker"}
"""The side that each folder runs."""

Manifest = dict[str, Any]


@cache
def build(overlay: str) -> tuple[Manifest, ...]:
    """All manifests of a folder."""
    text = run_tool("kubectl", "kubernetes-client", "kustomize", str(KUBERNETES / overlay))
    return tuple(yaml.safe_load_all(text))


def only(overlay: str, kind: str) -> Manifest:
    (found,) = (one for one in build(overlay) if one["kind"] == kind)
    return found


def pod_template(overlay: str) -> Manifest:
    """Of the one manifest that runs pods."""
    (found,) = (
        one["spec"]["template"] for one in build(overlay) if "template" in one.get("spec", {})
    )
    template: Manifest = found
    return template


def pod(overlay: str) -> Manifest:
    spec: Manifest = pod_template(overlay)["spec"]
    return spec


def container(overlay: str) -> Manifest:
    (found,) = pod(overlay)["containers"]
    described: Manifest = found
    return described


def variables(overlay: str) -> dict[str, str | None]:
    """Values by name; None of those that come from a secret."""
    return {one["name"]: one.get("value") for one in container(overlay)["env"]}


def mounted(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Where each volume is mounted, and what it is."""
    volumes = {volume["name"]: volume for volume in pod(overlay)["volumes"]}
    for mount in container(overlay)["volumeMounts"]:
        yield mount["mountPath"], volumes[mount["name"]] | {"mount": mount}
