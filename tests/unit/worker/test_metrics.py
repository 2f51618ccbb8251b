"""What a worker tells Prometheus of its work, and where."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from prometheus_client import generate_latest

from shared.rest.schema import TaskKind
from tests.support.exposition import Samples, label_names, samples
from tests.support.fake_coordinator import Request
from tests.support.looping_worker import Worker
from tests.support.round_bench import Bench
from tests.support.waiting import RecordedSleep
from worker.errors import ConfigError, Unreachable
from worker.metrics import WorkerMetrics
from worker.remote.patience import Patience


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
        return free


def counted(metrics: WorkerMetrics) -> Samples:
    return samples(generate_latest(metrics.registry).decode())


async def test_rounds_steps_and_phases_are_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    work = bench.round_work()
    await work.do([bench.held(name, round_number=1) for name in ("alice", "bob")])
    await work.do([bench.held("carol", round_number=2, kind=TaskKind.EVALUATE)])
    work.close()
    found = counted(bench.metrics)
    assert found["hyperfl_worker_rounds_total"] == {("train",): 1, ("evaluate",): 1}
    assert found["hyperfl_worker_steps_total"] == {(): len(bench.method.trained)}
    phases = found["hyperfl_worker_phase_seconds_count"]
    assert phases[("download",)] == 2
    assert phases[("encoding",)] == 2
    assert phases[("saving",)] == phases[("upload",)] == 3
    assert phases[("evaluation",)] == 3, "those who trained are evaluated for their site's history"
    assert found["hyperfl_worker_phase_seconds_sum"][("training",)] > 0
    assert set(found["hyperfl_worker_gpu_memory_bytes"].values()) == {0}


async def test_a_running_worker_serves_its_metrics_on_loopback(tmp_path: Path, port: int) -> None:
    """Scraped while it sends an update for the second time, and after its end."""
    worker = Worker(tmp_path)
    worker.settings = worker.settings.model_copy(update={"metrics_port": port})
    url = f"http://127.0.0.1:{port}/metrics"
    texts: list[str] = []

    def scrape(request: Request) -> None:
        if request.method == "PUT" and len(texts) < 2:
            texts.append(httpx.get(url, trust_env=False).text)
            if len(texts) == 1:
                raise httpx.ConnectError("away")

    worker.coordinator.receive = scrape
    worker.coordinator.add_task("alice", 1)
    await worker.run("alice")
    _, text = texts
    assert samples(text)["hyperfl_worker_phase_seconds_count"][("saving",)] == 1
    assert samples(text)["hyperfl_worker_retries_total"] == {("sending an update",): 1}
    assert label_names(text) == {"doing", "kind", "phase"}
    assert "alice" not in text
    with pytest.raises(httpx.ConnectError):
        await asyncio.to_thread(httpx.get, url, trust_env=False)


async def test_repeated_requests_are_counted_by_what_they_were_for() -> None:
    metrics = WorkerMetrics()
    answers = [Unreachable("away"), Unreachable("away")]

    async def ask() -> str:
        if answers:
            raise answers.pop()
        return "work"

    patience = Patience(60.0, RecordedSleep(), on_retry=metrics.note_retry)
    assert await patience.insist("polling for work", ask) == "work"
    assert counted(metrics)["hyperfl_worker_retries_total"] == {("polling for work",): 2}


def test_a_port_that_is_taken_is_one_line(port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with (
            pytest.raises(ConfigError, match=rf"HYPERFL_METRICS_PORT.*127\.0\.0\.1:{port}"),
            WorkerMetrics().served("127.0.0.1", port),
        ):
            pass


def test_without_a_port_nothing_is_served() -> None:
    metrics = WorkerMetrics()
    with metrics.served("192.0.2.1", None):  # an address that nobody here can listen on
        metrics.steps.inc()
