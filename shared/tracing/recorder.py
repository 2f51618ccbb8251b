"""Makes spans with OpenTelemetry and sends them by OTLP over HTTP. The one user of its SDK.

Spans wait in a queue of bounded length, and a thread of OpenTelemetry's sends them. A collector
that is away costs them, and nobody waits for it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.addresses import check_address

SENT_ATTRIBUTES = frozenset(
    {
        *("federation", "client", "round", "attempt", "kind", "version", "bytes"),
        *("http.route", "http.method", "http.status_code"),
        *("http.request.method", "http.response.status_code"),
    }
)
"""What a span may say. All else stays here, whoever noted it: addresses, paths, headers, errors."""

_KNOWN = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}
"""Of each of these variables the one value that can be used, apart from none."""
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class _RoundIds(RandomIdGenerator):
    """Random ids, except for a span that is to have given ones."""

    def __init__(self) -> None:
        self.given: ContextVar[SpanContext | None] = ContextVar("given", default=None)

    def generate_trace_id(self) -> int:
        given = self.given.get()
        return super().generate_trace_id() if given is None else given.trace_id

    def generate_span_id(self) -> int:
        given = self.given.get()
        return super().generate_span_id() if given is None else given.span_id


class _Sparing(SpanExporter):
    """Hands spans on with the attributes that are sent, and without events, links and messages."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._inner.export([_spared(one) for one in spans])

    def shutdown(self) -> None:
        self._inner.shutdown()


def _spared(span: ReadableSpan) -> ReadableSpan:
    context, attributes = span.get_span_context(), span.attributes or {}
    return ReadableSpan(
        name=span.name,
        context=context and _without_state(context),
        parent=span.parent,
        resource=span.resource,
        attributes={name: attributes[name] for name in SENT_ATTRIBUTES & attributes.keys()},
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _without_state(context: SpanContext) -> SpanContext:
    """Without ``tracestate``, which is whatever a stranger sent."""
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)


class Recorder:
    """Records the spans of one process."""

    def __init__(self, service: str, environment: Mapping[str, str]) -> None:
        """Starts to send.

        Args:
            service: the process's name where the environment has none.
            environment: with OpenTelemetry's own variables.

        Raises:
            ValueError: one of them cannot be used; says which.
        """
        _check(environment)
        # Of a collector that is away each batch says once that it is lost, and not each retry.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
        named = OTELResourceDetector().detect().attributes
        self._ids = _RoundIds()
        self.provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: service, **named}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self.provider.add_span_processor(BatchSpanProcessor(_Sparing(OTLPSpanExporter())))
        self._tracer = self.provider.get_tracer("hyperfl")

    def close(self, seconds: float) -> None:
        """Sends what is left, for so long at most; OpenTelemetry alone would wait for minutes."""
        closing = threading.Thread(target=self.provider.shutdown, daemon=True)
        closing.start()
        closing.join(seconds)

    @contextmanager
    def in_round(self, specification_digest: str, number: int) -> Iterator[None]:
        """See ``spans.in_round``."""
        first = NonRecordingSpan(self._first_of(specification_digest, number))
        with trace.use_span(first, record_exception=False, set_status_on_exception=False):
            yield

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, str | int]) -> Iterator[None]:
        """See ``spans.span``."""
        with self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as current:
            try:
                yield
            except Exception:
                current.set_status(StatusCode.ERROR)
                raise

    def note(self, attributes: Mapping[str, str | int]) -> None:
        """See ``spans.note``."""
        trace.get_current_span().set_attributes(attributes)

    def past_span(
        self, name: str, start_ns: int, end_ns: int, attributes: Mapping[str, str | int]
    ) -> None:
        """A span between two times, in nanoseconds since 1970."""
        self._tracer.start_span(name, attributes=attributes, start_time=start_ns).end(end_ns)

    def closed_round(
        self,
        specification_digest: str,
        number: int,
        opened_at: datetime,
        closed_at: datetime,
        *,
        has_failed: bool,
        attributes: Mapping[str, str | int],
    ) -> None:
        """See ``spans.closed_round``."""
        token = self._ids.given.set(self._first_of(specification_digest, number))
        try:
            first = self._tracer.start_span(
                "round", Context(), attributes=attributes, start_time=_nanoseconds(opened_at)
            )
        finally:
            self._ids.given.reset(token)
        if has_failed:
            first.set_status(StatusCode.ERROR)
        first.end(_nanoseconds(closed_at))

    def request_headers(self) -> Mapping[str, str]:
        """See ``spans.request_headers``."""
        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers)
        return headers

    def current_trace_id(self) -> str | None:
        """See ``spans.current_trace_id``."""
        current = trace.get_current_span().get_span_context()
        return trace.format_trace_id(current.trace_id) if current.is_valid else None

    def _first_of(self, specification_digest: str, number: int) -> SpanContext:
        """Of a round's trace; sampled on both sides or on none, since its id decides."""
        digest = hashlib.sha256(f"hyperfl round {number} of {specification_digest}".encode())
        trace_id = int.from_bytes(digest.digest()[:16])
        sampled = self.provider.sampler.should_sample(None, trace_id, "round")
        is_sampled = sampled.decision is Decision.RECORD_AND_SAMPLE
        return SpanContext(
            trace_id,
            span_id=int.from_bytes(digest.digest()[16:24]),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT),
        )


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)


def _check(environment: Mapping[str, str]) -> None:
    for variable, known in _KNOWN.items():
        if environment.get(variable, known) not in ("", known):
            raise ValueError(f"{variable}: {environment[variable]!r} is not known, only {known!r}")
    for variable in _ENDPOINTS:
        if endpoint := environment.get(variable):
            try:
                check_address(endpoint)
            except ValueError as error:
                raise ValueError(f"{variable}: {error}") from None
