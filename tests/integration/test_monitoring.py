"""Prometheus' tool accepts the metrics and the alert rules, and each alert fires when it should.

Rules and dashboard name metrics that exist, and the page says what each metric and each alert is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.exposition import samples
from tests.support.specifications import tiny_specification
from tests.support.tools import run_tool
from tests.support.updates import update_bytes
from worker.metrics import WorkerMetrics

pytestmark = pytest.mark.integration

OPERATING = Path(__file__).parents[2] / "docs" / "operating"
ALERTS, DASHBOARD = OPERATING / "alerts.yaml", OPERATING / "dashboard.json"
PAGE = OPERATING / "monitoring.md"

_DAY = 24 * 60
FIRING: dict[str, tuple[dict[str, str], int]] = {
    "HyperFLCoordinatorDown": ({'up{job="hyperfl-coordinator"}': "0x9"}, 5),
    "HyperFLDatabaseNotAnswering": ({"hyperfl_database_up": "0x9"}, 5),
    "HyperFLStorageFull": (
        {'hyperfl_database_outages_total{reason="storage-full"}': "0x3 3x9"},
        6,
    ),
    "HyperFLDriverSilent": ({"hyperfl_driver_last_step_age_seconds": "0+60x9"}, 9),
    "HyperFLRoundOverdue": ({"hyperfl_longest_overdue_round_seconds": "901+60x9"}, 9),
    "HyperFLRoundsFail": ({'hyperfl_rounds_closed_total{phase="failed"}': "0+1x60"}, 50),
    "HyperFLFederationPaused": ({'hyperfl_federations{state="paused"}': "1x30"}, 20),
    "HyperFLUpdatesRefused": ({"hyperfl_updates_refused_total": "0+1x40"}, 30),
    "HyperFLRequestsFail": (
        {
            'hyperfl_requests_total{status="503"}': "0+60x20",
            'hyperfl_requests_total{status="200"}': "0+600x20",
        },
        15,
    ),
    "HyperFLRequestsThrottled": ({'hyperfl_requests_total{status="429"}': "0+90x30"}, 20),
    "HyperFLTransactionsWait": (
        {
            "hyperfl_database_wait_seconds_sum": "0+120x30",
            "hyperfl_database_wait_seconds_count": "0+60x30",
        },
        20,
    ),
    "HyperFLDatabaseGrows": (
        {"hyperfl_database_size_bytes": f"1000000000x{_DAY} 2100000000x30"},
        _DAY + 20,
    ),
    "HyperFLWorkerDown": ({'up{job="hyperfl-worker"}': "0x20"}, 15),
    "HyperFLCoordinatorUnreachable": (
        {'hyperfl_worker_retries_total{instance="a"}': "0+3x30"},
        20,
    ),
}
"""For each alert: series that make it fire, a value a minute, and a minute in which it does."""

HEALTHY = {
    'up{job="hyperfl-coordinator"}': "1x90",
    'up{job="hyperfl-worker"}': "1x90",
    "hyperfl_database_up": "1x90",
    'hyperfl_database_outages_total{reason="unanswered"}': "1x90",
    'hyperfl_database_outages_total{reason="storage-full"}': "1x90",
    "hyperfl_driver_last_step_age_seconds": "1x90",
    "hyperfl_longest_overdue_round_seconds": "0x30 60x30 0x30",
    'hyperfl_rounds_closed_total{phase="failed"}': "0x45 1x45",
    'hyperfl_federations{state="paused"}': "0x40 1x10 0x40",
    "hyperfl_updates_refused_total": "0x45 2x45",
    'hyperfl_requests_total{status="503"}': "0+1x90",
    'hyperfl_requests_total{status="200"}': "0+600x90",
    'hyperfl_requests_total{status="429"}': "0+1x90",
    "hyperfl_database_wait_seconds_sum": "0+1x90",
    "hyperfl_database_wait_seconds_count": "0+600x90",
    "hyperfl_database_size_bytes": "5000000000x90",
    'hyperfl_worker_retries_total{instance="a"}': "0x45 3x45",
}


def promtool(*arguments: str, stdin: str | None = None) -> str:
    return run_tool("promtool", "prometheus", *arguments, stdin=stdin)


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def dashboard_queries() -> Iterator[str]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m")


async def scraped(coordinator: RunningCoordinator) -> str:
    """Metrics of both sides, after a round in which something of every kind has happened."""
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    for name in ("a", "b"):
        task = await coordinator.task("tiny", name)
        await coordinator.put(task, b"nonsense")
        await coordinator.put(task, update_bytes(specification, task))
    await coordinator.driver.step()
    answer = await coordinator.http.get("/metrics", headers=coordinator.admin)
    worker = WorkerMetrics()
    worker.rounds.labels("train").inc()
    worker.note_retry("polling for work")
    with worker.phase("training"):
        worker.steps.inc()
    return answer.text + generate_latest(worker.registry).decode()


@on_sqlite
async def test_promtool_finds_no_fault_in_the_metrics(coordinator: RunningCoordinator) -> None:
    text = await scraped(coordinator)
    assert len(samples(text)) > 40
    assert promtool("check", "metrics", stdin=text) == ""


def test_promtool_accepts_the_alert_rules() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(ALERTS))


def test_each_alert_fires_when_it_should_and_none_while_all_is_well(tmp_path: Path) -> None:
    assert FIRING.keys() == alerts().keys()

    def of(series: dict[str, str], minute: int, alert: str, is_firing: bool) -> dict[str, Any]:
        firing = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
        return {
            "interval": "1m",
            "input_series": [{"series": name, "values": v} for name, v in series.items()],
            "promql_expr_test": [
                {
                    "expr": f"count({firing}) or vector(0)",
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": "{}", "value": int(is_firing)}],
                }
            ],
        }

    tests = [of(series, minute, name, True) for name, (series, minute) in FIRING.items()]
    tests += [of(HEALTHY, minute, name, False) for name in FIRING for minute in (45, 60, 85)]
    file = tmp_path / "alerts.test.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests})
    )
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_promtool_reads_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"q{i}", "expr": expr} for i, expr in enumerate(dashboard_queries())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


@on_sqlite
async def test_rules_dashboard_and_page_name_the_metrics_that_there_are(
    coordinator: RunningCoordinator,
) -> None:
    text = await scraped(coordinator)
    names = {name for name in samples(text) if not name.endswith("_created")}
    queries = [*dashboard_queries(), *(rule["expr"] for rule in alerts().values())]
    used = {name for query in queries for name in re.findall(r"\bhyperfl_\w+", query)}
    assert used <= names
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    assert set(re.findall(r"`(hyperfl_\w+)", PAGE.read_text())) == families


def test_the_page_says_what_to_do_when_each_alert_fires() -> None:
    headings = re.findall(r"^### (HyperFL\w+)$", PAGE.read_text(), re.MULTILINE)
    assert headings == list(alerts())
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook_url"] == f"monitoring.md#{name.lower()}"
