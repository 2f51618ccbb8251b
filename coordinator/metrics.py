"""What this process counts for Prometheus.

Labels are routes, methods, statuses and phases, never names of federations or clients: their number
is bounded by the code, and who reads them learns no name.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.rest.declines import DeclineKind

_REQUEST_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 600.0)
"""Seconds. Polls take up to thirty by design, and updates as long as a site's line needs."""
_AGGREGATION_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)


class CoordinatorMetrics:
    """One coordinator's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hyperfl_requests",
            "Requests answered, by the route's template",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "hyperfl_request_seconds",
            "Seconds from a request's head to the end of its answer",
            ["route", "method"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.problems = Counter(
            "hyperfl_problems",
            "Requests that were refused or failed, by the type of the problem",
            ["route", "problem"],
            registry=self.registry,
        )
        self.open_connections = Gauge(
            "hyperfl_open_connections", "Connections that are open", registry=self.registry
        )
        self.open_polls = Gauge(
            "hyperfl_open_polls", "Polls that wait for work", registry=self.registry
        )
        self.updates_recorded = Counter(
            "hyperfl_updates_recorded", "Client updates recorded", registry=self.registry
        )
        self.updates_refused = Counter(
            "hyperfl_updates_refused",
            "Client updates refused; hyperfl_problems says why",
            registry=self.registry,
        )
        self.update_bytes = Counter(
            "hyperfl_update_bytes", "Bytes of update bodies received", registry=self.registry
        )
        self.weights_bytes = Counter(
            "hyperfl_weights_bytes", "Bytes of weights sent", registry=self.registry
        )
        self.rounds_closed = Counter(
            "hyperfl_rounds_closed", "Rounds closed", ["phase"], registry=self.registry
        )
        for phase in ("committed", "failed"):
            self.rounds_closed.labels(phase)  # a rate needs the zero before the first
        self.declines = Counter(
            "hyperfl_declines",
            "Rounds that clients declined, by the kind of their reason",
            ["kind"],
            registry=self.registry,
        )
        for kind in DeclineKind:
            self.declines.labels(kind.value)
        self.aggregation_seconds = Histogram(
            "hyperfl_aggregation_seconds",
            "Seconds that aggregations took which were committed",
            buckets=_AGGREGATION_BUCKETS,
            registry=self.registry,
        )
        self.aggregation_bytes = Counter(
            "hyperfl_aggregation_bytes",
            "Bytes of the updates in aggregations that were committed",
            registry=self.registry,
        )
        self.driver_silence_seconds = Gauge(
            "hyperfl_driver_last_step_age_seconds",
            "Seconds since the driver, which moves the rounds, last looked at its federations",
            registry=self.registry,
        )
