"""What a worker counts for Prometheus, and where it serves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Summary, start_http_server

from shared.tracing.spans import Attribute, span
from worker.errors import ConfigError

_GPU_MEMORY: dict[str, Callable[[int], int]] = {
    "allocated": torch.cuda.memory_allocated,
    "reserved": torch.cuda.memory_reserved,
    "peak": torch.cuda.max_memory_allocated,
}


class WorkerMetrics:
    """One worker's counters, in a registry of their own. They name no client and no federation."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rounds = Counter(
            "hyperfl_worker_rounds",
            "Rounds whose work is done, by what was asked: train or evaluate",
            ["kind"],
            registry=self.registry,
        )
        self.steps = Counter(
            "hyperfl_worker_steps",
            "Batches begun in rounds, of training and of evaluation; those in lock step are one",
            registry=self.registry,
        )
        self.phase_seconds = Summary(
            "hyperfl_worker_phase_seconds",
            "Seconds spent in each phase of the work; uploads of several clients overlap",
            ["phase"],
            registry=self.registry,
        )
        self.retries = Counter(
            "hyperfl_worker_retries",
            "Requests repeated because the coordinator was not reached, by what they were for",
            ["doing"],
            registry=self.registry,
        )
        gpu_memory = Gauge(
            "hyperfl_worker_gpu_memory_bytes",
            "PyTorch's memory on the GPUs: allocated, reserved, and the most that was allocated",
            ["kind"],
            registry=self.registry,
        )
        for kind, of_device in _GPU_MEMORY.items():
            gpu_memory.labels(kind).set_function(partial(_on_all_gpus, of_device))

    @contextmanager
    def phase(self, name: str, **attributes: Attribute) -> Iterator[None]:
        """Times a block as one phase of the work, however it ends; where traces are on, a span."""
        started = time.monotonic()
        try:
            with span(name, **attributes):
                yield
        finally:
            self.phase_seconds.labels(name).observe(time.monotonic() - started)

    def note_retry(self, doing: str) -> None:
        """A request for ``doing`` is about to be repeated."""
        self.retries.labels(doing).inc()

    @contextmanager
    def served(self, host: str, port: int | None) -> Iterator[None]:
        """Answers scrapes from a thread of its own during the block; with no port, does nothing.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        if port is None:
            yield
            return
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise ConfigError(
                f"HYPERFL_METRICS_HOST and HYPERFL_METRICS_PORT: cannot listen on {host}:{port}: "
                f"{error.strerror}"
            ) from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _on_all_gpus(of_device: Callable[[int], int]) -> float:
    """A number of bytes, summed over GPUs; 0 where this process has not used one."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return 0.0
    return float(sum(of_device(index) for index in range(torch.cuda.device_count())))
