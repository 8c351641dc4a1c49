"""Sending spans by OTLP over HTTP. Imported only where traces are on.

A collector that is away is told once, and once when it is back. When the process ends, what waits is sent for at most a
few seconds: the service stops no later for its traces.
"""

import logging
import time
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = logging.getLogger("taskpulse.tracing")

# Seconds for one batch of spans, tries again included; and for all that waits when the process ends.
_TIMEOUT, _LAST_WORDS = 2.0, 2.0


class Exporter(SpanExporter):
    """`endpoint` is the base URL, as OTEL_EXPORTER_OTLP_ENDPOINT gives it. Headers, certificates and compression are read
    from the environment by OpenTelemetry itself (OTEL_EXPORTER_OTLP_…)."""

    def __init__(self, endpoint: str):
        self._inner = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT)
        self._place = urlsplit(endpoint).netloc.rpartition("@")[2]
        self._failing = False
        self._end: float | None = None

    def end_soon(self) -> None:
        self._end = time.monotonic() + _LAST_WORDS

    def export(self, spans) -> SpanExportResult:
        if self._end is not None and time.monotonic() > self._end:
            return SpanExportResult.FAILURE
        result = self._inner.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            logger.warning("traces cannot be sent to %s and are dropped until it works", self._place)
        elif self._failing and not failed:
            logger.info("traces are sent to %s again", self._place)
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()
