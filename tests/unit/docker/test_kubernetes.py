"""The manifests are Kubernetes' own, and agree with the images, the settings and each other."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml

from coordinator.app import create_app
from coordinator.serving.page_requests import FOLDER
from coordinator.settings import CoordinatorSettings
from tests.support.docker import SETTINGS, check_command, dockerfile
from tests.support.kubernetes import (
    KUBERNETES,
    OVERLAYS,
    build,
    container,
    mounted,
    only,
    pod,
    pod_template,
    variables,
)
from tests.support.tools import run_tool
from worker.settings import WorkerSettings, load_config

_OLDEST = "1.31"
"""Of Kubernetes' versions whose schemas the manifests must fit; the newest is the other."""

of_overlays = pytest.mark.parametrize("overlay", OVERLAYS)
of_coordinators = pytest.mark.parametrize("overlay", ["base", "trial"])


def settings_of(overlay: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings that the container starts with."""
    side = OVERLAYS[overlay]
    secrets = {"HYPERFL_DATABASE_URL": "postgresql://hyperfl@database/hyperfl", "PGPASSWORD": "p"}
    for name, value in (dockerfile(side).environment() | variables(overlay)).items():
        monkeypatch.setenv(name, secrets[name] if value is None else value)
    return SETTINGS[side]()


@of_overlays
@pytest.mark.parametrize("version", [_OLDEST, None])
def test_every_manifest_fits_its_schema(overlay: str, version: str | None) -> None:
    version = version or kubernetes_validate.latest_version()
    for manifest in build(overlay):
        kubernetes_validate.validate(manifest, version, strict=True)


@of_overlays
def test_a_pod_runs_without_root_and_writes_only_to_its_volumes(overlay: str) -> None:
    uid, gid = map(int, dockerfile(OVERLAYS[overlay]).only("USER").text.split(":"))
    in_pod, in_container = pod(overlay)["securityContext"], container(overlay)["securityContext"]
    assert in_pod["runAsNonRoot"] is True
    assert (in_pod["runAsUser"], in_pod["runAsGroup"], in_pod["fsGroup"]) == (uid, gid, gid)
    assert in_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert in_container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    (volume,) = dockerfile(OVERLAYS[overlay]).only("VOLUME").as_list()
    writable = {path for path, found in mounted(overlay) if not found["mount"].get("readOnly")}
    assert writable == {volume, "/tmp"}
    assert pod(overlay)["automountServiceAccountToken"] is False


@of_overlays
def test_kubernetes_makes_no_variables_that_the_settings_would_refuse(overlay: str) -> None:
    assert pod(overlay)["enableServiceLinks"] is False


@of_overlays
def test_variables_are_settings_of_the_side_and_the_images_command_is_kept(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = OVERLAYS[overlay]
    names = {name for name in variables(overlay) if name.startswith("HYPERFL_")}
    assert names
    assert {n.removeprefix("HYPERFL_").lower() for n in names} <= set(SETTINGS[side].model_fields)
    settings_of(overlay, monkeypatch)
    assert container(overlay)["image"] == f"hyperfl-{side}"
    assert not {"command", "args"} & container(overlay).keys()


@of_coordinators
def test_ports_and_probes_are_the_coordinators(
    overlay: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings_of(overlay, monkeypatch)
    settings.require_protection()
    assert container(overlay)["ports"] == [{"name": "http", "containerPort": settings.port}]
    (port,) = only(overlay, "Service")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (CoordinatorSettings().port, "http")
    paths = create_app(CoordinatorSettings(data_dir=tmp_path)).openapi()["paths"]
    probes = {
        name: container(overlay)[f"{name}Probe"] for name in ("startup", "liveness", "readiness")
    }
    for probe in probes.values():
        assert probe["httpGet"]["port"] == "http"
        assert probe["httpGet"]["path"] in paths
    assert probes["readiness"]["httpGet"]["path"] == "/readyz"
    assert probes["liveness"]["httpGet"]["path"] == "/healthz", "an outage restarts nothing"
    startup = probes["startup"]
    seconds = startup["periodSeconds"] * startup["failureThreshold"]
    assert seconds > settings.database_migration_seconds
    assert pod(overlay)["terminationGracePeriodSeconds"] > settings.shutdown_seconds
    assert settings.max_connections_per_address == settings.max_connections


@of_coordinators
def test_everything_that_selects_pods_selects_the_coordinators(overlay: str) -> None:
    labels = pod_template(overlay)["metadata"]["labels"]
    selectors = [
        only(overlay, "Deployment")["spec"]["selector"]["matchLabels"],
        only(overlay, "Service")["spec"]["selector"],
        only(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        pod(overlay)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert selectors == [labels] * 4


@of_coordinators
def test_the_ingress_has_tls_and_leads_to_what_sites_and_administrators_ask(
    overlay: str, tmp_path: Path
) -> None:
    ingress = only(overlay, "Ingress")
    (rule,), (tls,) = ingress["spec"]["rules"], ingress["spec"]["tls"]
    assert tls["hosts"] == [rule["host"]]
    assert tls["secretName"]
    (path,) = rule["http"]["paths"]
    service = only(overlay, "Service")
    assert path["backend"]["service"] == {
        "name": service["metadata"]["name"],
        "port": {"name": service["spec"]["ports"][0]["name"]},
    }
    paths = create_app(CoordinatorSettings(data_dir=tmp_path)).openapi()["paths"]
    hidden = {one for one in paths if not one.startswith(path["path"] + "/")}
    assert hidden == {"/healthz", "/readyz", "/metrics"}
    prefix = "nginx.ingress.kubernetes.io/proxy-"
    asked = {
        name.removeprefix(prefix): value
        for name, value in ingress["metadata"]["annotations"].items()
        if name.startswith(prefix)
    }
    assert asked == {"body-size": "2g", "read-timeout": "60", "request-buffering": "off"}
    assert int(asked["body-size"].removesuffix("g")) << 30 == CoordinatorSettings().max_update_bytes
    assert float(asked["read-timeout"]) > WorkerSettings().poll_wait_seconds


@of_coordinators
def test_the_component_lets_the_page_through_and_nothing_else(overlay: str, tmp_path: Path) -> None:
    written = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(KUBERNETES / overlay, tmp_path)],
        "components": [os.path.relpath(KUBERNETES / "page", tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(written))
    built = yaml.safe_load_all(run_tool("kubectl", "kubernetes-client", "kustomize", str(tmp_path)))
    (ingress,) = (one for one in built if one["kind"] == "Ingress")
    kubernetes_validate.validate(ingress, kubernetes_validate.latest_version(), strict=True)
    before, *added = ingress["spec"]["rules"][0]["http"]["paths"]
    assert [before] == only(overlay, "Ingress")["spec"]["rules"][0]["http"]["paths"]
    assert all(one["backend"] == before["backend"] for one in added)
    found = [(one["path"], one["pathType"]) for one in added]
    assert found == [("/", "Exact"), (FOLDER, "Prefix")]


def test_one_of_two_coordinators_may_be_taken_away_at_a_time() -> None:
    assert only("base", "Deployment")["spec"]["replicas"] == 2
    budget = only("base", "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == pod_template("base")["metadata"]["labels"]


def test_replicas_share_their_database_and_their_admin_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of("base", monkeypatch)
    assert settings.database_url.startswith("postgresql://")
    secret = dict(mounted("base"))[str(settings.effective_admin_token_file.parent)]
    assert secret["secret"]["secretName"] == "hyperfl-admin-token"
    from_secrets = {
        one["name"]: one["valueFrom"]["secretKeyRef"]
        for one in container("base")["env"]
        if "valueFrom" in one
    }
    assert from_secrets == {
        "HYPERFL_DATABASE_URL": {"name": "hyperfl-database", "key": "url"},
        "PGPASSWORD": {"name": "hyperfl-database", "key": "password"},
    }
    egress = only("base", "NetworkPolicy")["spec"]["egress"]
    assert {"ports": [{"protocol": "TCP", "port": 5432}]} in egress


def test_a_trial_is_one_coordinator_on_sqlite_in_a_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("trial", monkeypatch)
    assert settings.effective_database_url.startswith("sqlite")
    claim = only("trial", "PersistentVolumeClaim")["metadata"]["name"]
    data = dict(mounted("trial"))[str(settings.data_dir)]
    assert data["persistentVolumeClaim"] == {"claimName": claim}
    assert settings.effective_admin_token_file.parent == settings.data_dir
    deployment = only("trial", "Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert "PodDisruptionBudget" not in {one["kind"] for one in build("trial")}
    assert only("trial", "NetworkPolicy")["spec"]["egress"] == []


def test_a_site_has_a_gpu_a_volume_a_configuration_and_its_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of("site", monkeypatch)
    assert container("site")["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert settings.device == "cuda"
    volumes = dict(mounted("site"))
    config = load_config(KUBERNETES / "site" / "worker.toml", settings)
    (client,) = config.clients
    (state,) = dockerfile("worker").only("VOLUME").as_list()
    assert PurePosixPath(state) in PurePosixPath(client.state_dir).parents
    claim = only("site", "PersistentVolumeClaim")["metadata"]["name"]
    assert volumes[state]["persistentVolumeClaim"] == {"claimName": claim}
    generated = only("site", "ConfigMap")
    assert generated["data"].keys() == {settings.worker_config.name}
    mounted_config = volumes[str(settings.worker_config.parent)]
    assert mounted_config["configMap"]["name"] == generated["metadata"]["name"]
    assert client.enrolment_token_file is not None
    token = volumes[str(client.enrolment_token_file.parent)]
    assert token["secret"]["optional"] is True, "it is needed once"
    (rule,) = only("base", "Ingress")["spec"]["rules"]
    assert config.coordinator_url == f"https://{rule['host']}"


def test_a_worker_that_has_finished_is_not_started_again() -> None:
    job = only("site", "Job")["spec"]
    assert pod("site")["restartPolicy"] == "OnFailure"
    assert job["podReplacementPolicy"] == "Failed", "one worker at a time"


def test_a_workers_metrics_are_where_prometheus_may_reach_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of("site", monkeypatch)
    (port,) = container("site")["ports"]
    assert (port["name"], port["containerPort"]) == ("metrics", settings.metrics_port)
    assert settings.metrics_host == "0.0.0.0"
    policy = only("site", "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == pod_template("site")["metadata"]["labels"]
    (ingress,) = policy["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": "metrics"}]


def test_no_file_is_left_out_of_its_kustomization() -> None:
    for overlay in OVERLAYS:
        folder = KUBERNETES / overlay
        described = yaml.safe_load((folder / "kustomization.yaml").read_text())
        named = {name for name in described["resources"] if not name.startswith("..")}
        named |= {patch["path"] for patch in described.get("patches", ()) if "path" in patch}
        named |= {n for g in described.get("configMapGenerator", ()) for n in g["files"]}
        assert named == {file.name for file in folder.iterdir()} - {"kustomization.yaml"}


def test_the_page_names_what_the_manifests_ask_for() -> None:
    page = (KUBERNETES / "README.md").read_text()
    for secret in ("hyperfl-database", "hyperfl-admin-token", "worker-enrolment"):
        assert f"create secret generic {secret}" in page
    for words in re.findall(r"-- (hyperfl .*?)(?: [<|#].*)?$", page, re.MULTILINE):
        check_command(words.split())
