"""Traces by OpenTelemetry, from a request over the relay to the audit entry; off, and not even imported, unless
OTEL_EXPORTER_OTLP_ENDPOINT is set.

A few spans by hand. Instrumentation of Django, psycopg and Kafka would make ten for each request, and know nothing of the
one thing that joins the roles: the `traceparent` in the event, which is the span of the request that made the change.

    POST /api/tasks (web)         continues the caller's traceparent (W3C Trace Context)
    ├── publish (relay)           one for each request in a batch; linked with the batch's own span
    └── record (consumer)         the same
    publish batch, record batch   linked with the requests; "commit" below the consumer's

Spans are made when their work is over, handed to a bounded queue, and sent by a thread: a collector that is away costs
spans and delays nothing.
"""

import atexit
import threading
import time
from collections.abc import Iterable

from django.conf import settings

from tasks import events

ENABLED = bool(settings.OTEL_EXPORTER_OTLP_ENDPOINT)
# Of a batch, so many requests have a span of their own and a link. A catch-up needs no trace of each.
REQUESTS_A_BATCH = 50

_tracers: dict[str, object] = {}
_lock = threading.Lock()


def _tracer(role: str):
    """Made with the first span, after gunicorn's fork: the thread that sends would not outlive it."""
    with _lock:
        if role not in _tracers:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            from taskpulse.span_export import Exporter

            name = settings.OTEL_SERVICE_NAME or f"taskpulse-{role}"
            exporter = Exporter(settings.OTEL_EXPORTER_OTLP_ENDPOINT)
            provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
            provider.add_span_processor(BatchSpanProcessor(exporter))
            atexit.register(provider.shutdown)
            atexit.register(exporter.end_soon)  # runs first
            _tracers[role] = provider.get_tracer("taskpulse")
        return _tracers[role]


def begin_request(traceparent: str | None):
    """The span of a request that begins now, continuing the caller's trace if it has one."""
    from opentelemetry.trace import SpanKind

    return _tracer("web").start_span("request", context=_below(traceparent), kind=SpanKind.SERVER)


def traceparent_of(span) -> str:
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"


def end_request(span, method: str, route: str, status: int, request_id: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.update_name(f"{method} {route}")
    answer = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
    span.set_attributes(answer | {"taskpulse.request_id": request_id})
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def batch(role: str, operation: str, payloads: Iterable[bytes], began: float, committing: float | None = None) -> None:
    """The spans of a batch of events that ends now. `began`, and when its commit began, on the monotonic clock.

    Nothing for a batch none of whose requests is sampled."""
    from opentelemetry.trace import Link, SpanKind

    payloads = list(payloads)
    parents = dict.fromkeys(events.attribute(payload, events.TRACEPARENT) for payload in payloads)
    contexts = [found for parent in parents if (found := _remote(parent)) and found.trace_flags.sampled][:REQUESTS_A_BATCH]
    if not contexts:
        return
    ended, now = time.time_ns(), time.monotonic()
    started = ended - int((now - began) * 1e9)
    attributes = {"messaging.system": "kafka", "messaging.destination.name": settings.KAFKA_TOPIC}
    tracer = _tracer(role)
    whole = tracer.start_span(
        f"{operation} batch", context=_below(None), links=[Link(context) for context in contexts], start_time=started,
        attributes=attributes | {"messaging.batch.message_count": len(payloads)},
    )  # fmt: skip
    if committing is not None:
        tracer.start_span("commit", _below_span(whole), start_time=ended - int((now - committing) * 1e9)).end(ended)
    whole.end(ended)
    link, kind = [Link(whole.get_span_context())], SpanKind.PRODUCER if role == "relay" else SpanKind.CONSUMER
    for context in contexts:
        tracer.start_span(operation, _below_context(context), kind, attributes, link, started).end(ended)


def _remote(traceparent: str | None):
    """The span that a traceparent names; None for what is none (a raw SQL session may claim any)."""
    from opentelemetry.trace import SpanContext, TraceFlags

    parts = (traceparent or "").split("-")
    if [len(part) for part in parts] != [2, 32, 16, 2]:
        return None
    try:
        _, trace_id, span_id, flags = (int(part, 16) for part in parts)
    except ValueError:
        return None
    found = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return found if found.is_valid else None


def _below(traceparent: str | None):
    context = _remote(traceparent)
    if context is None:
        from opentelemetry.context import Context

        return Context()
    return _below_context(context)


def _below_context(context):
    from opentelemetry.trace import NonRecordingSpan

    return _below_span(NonRecordingSpan(context))


def _below_span(span):
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(span, Context())
