"""Counters for Prometheus. They carry no names of federations or clients: anyone may read them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class CoordinatorMetrics:
    """One coordinator's counters, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.updates_recorded = Counter(
            "hyperfl_updates_recorded", "Client updates recorded", registry=self._registry
        )
        self.updates_refused = Counter(
            "hyperfl_updates_refused", "Client updates refused", registry=self._registry
        )
        self.update_bytes = Counter(
            "hyperfl_update_bytes", "Bytes of update bodies received", registry=self._registry
        )
        self.weights_bytes = Counter(
            "hyperfl_weights_bytes", "Bytes of weights sent", registry=self._registry
        )
        self.rounds_closed = Counter(
            "hyperfl_rounds_closed", "Rounds closed", ["phase"], registry=self._registry
        )
        self.aggregation_seconds = Gauge(
            "hyperfl_last_aggregation_seconds",
            "Seconds that the last aggregation took",
            registry=self._registry,
        )

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)
