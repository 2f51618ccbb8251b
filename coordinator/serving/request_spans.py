"""A span for each request that does a round's work, where traces are on."""

from __future__ import annotations

from fastapi import FastAPI

from shared.tracing.spans import TracesUnusable, current_recorder

_NOT_RECORDED = (
    "/healthz$",
    "/readyz$",
    "/metrics$",
    "/v1/federations/[^/]+/task$",  # polls wait by design: the worker notes those that bring a task
    "/rounds/[^/]+/heartbeat$",
)
"""Patterns of URLs that are asked all the time, and say nothing of a round."""


def record_requests(app: FastAPI) -> None:
    """Makes a span of each request, below the span that its ``traceparent`` names.

    Raises:
        TracesUnusable: the extra is not installed whole.
    """
    if (recorder := current_recorder()) is None:
        return
    try:
        from opentelemetry.instrumentation.fastapi import (  # noqa: PLC0415 - the extra otel
            FastAPIInstrumentor,
        )
    except ImportError as error:
        raise TracesUnusable.without_packages() from error
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=recorder.provider,
        excluded_urls=",".join(_NOT_RECORDED),
        exclude_spans=["receive", "send"],
    )
