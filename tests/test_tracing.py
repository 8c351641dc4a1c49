"""Traces: one trace id from the request over the relay to the commit, seen by a real OTLP receiver; off without a trace."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request

import psutil
import pytest
from django.core.exceptions import ImproperlyConfigured
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from taskpulse import span_export, tracing
from taskpulse.declarations import DECLARED
from taskpulse.env import Environment
from tasks import context
from tasks.models import OutboxEvent, Task
from tests.api_client import Api, person
from tests.recording import messages, publish_all, record, waiting
from tests.running_up import ROOT, free_port, wait_until

CALLER, PARENT = "a1" * 16, "b2" * 8
INCOMING = f"00-{CALLER}-{PARENT}-01"


class Receiver(http.server.ThreadingHTTPServer):
    """A collector: what was exported, as (service, span)."""

    def __init__(self, status: int = 200):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.daemon_threads, self.block_on_close, self.status, self.requests = True, False, status, 0
        self.hangs, self.at_exit = threading.Event(), []
        self.received: list[tuple] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self, name: str | None = None, trace: str | None = None) -> list[tuple]:
        return [
            (service, span) for service, span in list(self.received)
            if name in (None, span.name) and trace in (None, span.trace_id.hex())
        ]  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
        message = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests += 1
        if self.server.hangs.is_set():
            time.sleep(60)
        if self.server.status == 200:
            for resource in message.resource_spans:
                service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                self.server.received += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def traced(receiver, monkeypatch, settings):
    """This process with traces on; `flush` sends what there is."""
    processors = []

    class Noted(BatchSpanProcessor):
        def __init__(self, exporter):
            super().__init__(exporter)
            processors.append(self)

    monkeypatch.setattr("opentelemetry.sdk.trace.export.BatchSpanProcessor", Noted)
    monkeypatch.setattr(tracing.atexit, "register", lambda function: receiver.at_exit.append(function.__name__))
    monkeypatch.setattr(tracing, "ENABLED", True)
    monkeypatch.setattr(tracing, "_tracers", {})
    settings.OTEL_EXPORTER_OTLP_ENDPOINT = receiver.url
    receiver.flush = lambda: [processor.force_flush() for processor in processors]
    yield receiver
    for processor in processors:
        processor.shutdown()


def attributes(span) -> dict:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


# One trace.


class Roles:
    """Web, relay and consumer as they are deployed, with traces to a receiver."""

    def __init__(self, endpoint: str, place, port: int):
        environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        environment |= {"TASKPULSE_LOG_FORMAT": "json", "WEB_CONCURRENCY": "1"}
        gunicorn = ["-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--bind", f"127.0.0.1:{port}", "taskpulse.wsgi"]
        commands = {"web": gunicorn, "relay": ["manage.py", "relay_outbox"], "consumer": ["manage.py", "consume_events"]}
        self.place, self.port, self.processes = place, port, {}
        for role, command in commands.items():
            with (place / role).open("w") as log:
                self.processes[role] = subprocess.Popen(
                    [sys.executable, *command], cwd=ROOT, env=environment, stdout=log, stderr=log
                )

    def send(self, method: str, path: str, body=None, **headers) -> dict:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        for name, value in headers.items():
            request.add_header(name, value)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def answers(self) -> bool:
        try:
            return self.send("GET", "/healthz")["status"] == "ok"
        except OSError:
            return False

    def stop(self) -> float:
        """Seconds that the slowest took."""
        began = time.monotonic()
        for process in self.processes.values():
            process.terminate()
        assert {process.wait(25) for process in self.processes.values()} == {0}
        return time.monotonic() - began

    def told(self, role: str) -> list[str]:
        """What a log says of spans and their sending."""
        messages = [line["message"].lower() for line in self.log(role) if line["logger"] != "taskpulse.access"]
        return [message for message in messages if any(word in message for word in ("trace", "span", "export", "otlp"))]

    def log(self, role: str) -> list[dict]:
        return [json.loads(line) for line in (self.place / role).read_text().splitlines()]


@pytest.fixture
def start(committed_db, topic, tmp_path):
    started = []

    def make(endpoint: str) -> Roles:
        started.append(Roles(endpoint, tmp_path, free_port()))
        wait_until(started[0].answers, 40, "the web role answers")
        return started[0]

    yield make
    for roles in started:
        for process in roles.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def test_one_trace_joins_the_caller_request_relay_and_consumer(start, receiver):
    """And when the collector then hangs, requests, relay and consumer go on, say it once, and stop in time."""
    roles, token = start(receiver.url), Api(person("member")).headers["Authorization"]
    key = roles.send("POST", "/api/tasks", {"title": "secret-title"}, Authorization=token, traceparent=INCOMING)["id"]
    wait_until(lambda: len(receiver.spans(trace=CALLER)) >= 3 and receiver.spans("commit"), 40, "the trace is whole")
    memory = max(worker.memory_info().rss for worker in psutil.Process(roles.processes["web"].pid).children())
    receiver.hangs.set()
    _delays_nothing(roles, token)
    found = {span.name: (service, span) for service, span in receiver.spans(trace=CALLER)}
    assert {name: service for name, (service, _) in found.items()} == {
        "POST /api/tasks": "taskpulse-web", "publish": "taskpulse-relay", "record": "taskpulse-consumer",
    }  # fmt: skip
    request, publish, written = (found[name][1] for name in ("POST /api/tasks", "publish", "record"))
    assert request.parent_span_id.hex() == PARENT
    assert publish.parent_span_id == written.parent_span_id == request.span_id
    assert request.start_time_unix_nano < publish.start_time_unix_nano <= written.end_time_unix_nano
    line = next(line for line in roles.log("web") if line.get("task_id") == key)
    assert (line["trace_id"], line["request_id"]) == (CALLER, attributes(request)["taskpulse.request_id"])
    # The batches: linked with the request, and the commit inside.
    for name, service in (("publish batch", "taskpulse-relay"), ("record batch", "taskpulse-consumer")):
        ((_, batch),) = [(s, span) for s, span in receiver.spans(name) if s == service]
        assert [(link.trace_id.hex(), link.span_id) for link in batch.links] == [(CALLER, request.span_id)]
    ((_, commit),) = receiver.spans("commit")
    assert commit.parent_span_id == batch.span_id
    assert batch.start_time_unix_nano <= commit.start_time_unix_nano <= commit.end_time_unix_nano <= batch.end_time_unix_nano
    assert {span.name for _, span in receiver.spans()} <= {*found, "publish batch", "record batch", "commit"}  # no probe
    assert b"secret" not in b"".join(span.SerializeToString() for _, span in receiver.spans())
    assert memory < 120e6


def _delays_nothing(roles: Roles, token: str) -> None:
    for _ in range(20):
        began = time.monotonic()
        roles.send("POST", "/api/tasks", {"title": "x"}, Authorization=token)
        assert time.monotonic() - began < 5
    wait_until(lambda: not waiting(), 30, "everything is recorded")
    wait_until(lambda: roles.told("web"), 30, "it was told")
    assert roles.stop() < 15
    for role in roles.processes:
        assert len(roles.told(role)) == 1, roles.told(role)
        assert "are dropped until it works" in roles.told(role)[0]


def test_a_collector_that_is_away_is_told_once_and_once_when_it_is_back(receiver, caplog):
    exporter = span_export.Exporter(f"{receiver.url}/")
    receiver.status = 503
    caplog.set_level("INFO", "taskpulse.tracing")
    for _ in range(2):
        assert exporter.export([]) is SpanExportResult.FAILURE
    receiver.status = 200
    for _ in range(2):
        assert exporter.export([]) is SpanExportResult.SUCCESS
    place = receiver.url.removeprefix("http://")
    assert [record.getMessage() for record in caplog.records if record.name == "taskpulse.tracing"] == [
        f"traces cannot be sent to {place} and are dropped until it works", f"traces are sent to {place} again",
    ]  # fmt: skip


def test_a_process_that_ends_sends_what_waits_for_a_moment_and_no_longer(receiver, monkeypatch):
    exporter = span_export.Exporter(receiver.url)
    exporter.end_soon()
    assert exporter.export([]) is SpanExportResult.SUCCESS
    monkeypatch.setattr(span_export, "_LAST_WORDS", -1.0)
    exporter.end_soon()
    assert exporter.export([]) is SpanExportResult.FAILURE
    assert receiver.requests == 1


def test_a_password_in_the_endpoint_is_not_told(caplog):
    span_export.Exporter(f"http://user:hunter2@127.0.0.1:{free_port()}").export([])
    assert "traces cannot be sent to 127.0.0.1:" in caplog.text
    assert "hunter2" not in caplog.text


# Spans.


def test_a_request_without_a_caller_begins_a_trace_and_its_event_names_it(committed_db, traced):
    program = Api(person("member"))
    key = program.create()["id"]
    traced.flush()
    ((service, span),) = traced.spans()
    event = json.loads(bytes(OutboxEvent.objects.get(subject_id=key).payload))
    assert event["traceparent"][:-2] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-"
    assert (service, span.name, span.parent_span_id) == ("taskpulse-web", "POST /api/tasks", b"")
    assert attributes(span)["http.response.status_code"] == 201
    assert traced.at_exit == ["shutdown", "end_soon"]  # the last one runs first


@pytest.mark.parametrize("flags", ["00", "01"])
def test_what_the_caller_does_not_sample_is_not_traced_but_still_joined(committed_db, traced, flags):
    incoming = f"00-{CALLER}-{PARENT}-{flags}"
    Api(person("member")).post({"title": "x"}, traceparent=incoming)
    event = json.loads(bytes(OutboxEvent.objects.get().payload))
    assert re.fullmatch(rf"00-{CALLER}-(?!{PARENT})[0-9a-f]{{16}}-{flags}", event["traceparent"])
    publish_all()
    record(messages(waiting()))
    traced.flush()
    assert bool(traced.spans()) == (flags == "01")


def test_a_failed_request_is_an_error(db, traced, monkeypatch):
    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr("tasks.api.queries.page", fail)
    program = Api(person("member"))
    program.get("/api/tasks")
    program.get("/api/tasks/nothing")
    traced.flush()
    assert {span.name: span.status.code for _, span in traced.spans()} == {"GET /api/tasks": 2, "GET /api/tasks/{id}": 0}


def test_a_batch_has_a_bounded_number_of_spans(committed_db, traced):
    for written in ("00-zz-1-01", "nonsense", f"00-{0:032x}-{PARENT}-01", "+1-" * 3):  # a raw session may claim anything
        with context.use(context.Context(traceparent=written)):
            Task.objects.create(title="x")
    for number in range(1, 301):
        with context.use(context.Context(request_id=f"r{number}", traceparent=f"00-{number:032x}-{PARENT}-01")):
            Task.objects.create(title="x")
    publish_all()
    record(messages(waiting()))
    traced.flush()
    ((_, batch),) = traced.spans("record batch")
    assert len(batch.links) == len(traced.spans("record")) == tracing.REQUESTS_A_BATCH
    assert attributes(batch)["messaging.batch.message_count"] == 304
    assert not waiting()


def test_events_of_one_request_have_one_span(committed_db, traced):
    with context.use(context.Context(request_id="r", traceparent=INCOMING)):
        Task.objects.bulk_create([Task(title=str(number)) for number in range(50)])
    publish_all()
    record(messages(waiting()))
    traced.flush()
    assert len(traced.spans("record", CALLER)) == 1


# Off.


_IMPORT = """
import sys
import taskpulse.wsgi, tasks.relay, audit.recorder, taskpulse.event_consumer
from django.test import Client

assert Client().get("/api/tasks").status_code == 401
print([name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "google")])
"""


def test_without_an_endpoint_nothing_of_it_is_imported(committed_db):
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "ALLOWED_HOSTS": "testserver", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run([sys.executable, "-c", _IMPORT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_the_endpoint_is_read_strictly(tmp_path):
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    found = Environment(tmp_path, DECLARED, variables)
    with pytest.raises(ImproperlyConfigured, match="2 settings are wrong") as refused:
        found.stop_if_wrong(complete=False)
    assert "OTEL_EXPORTER_OTLP_PROTOCOL: expected one of http/protobuf, got 'grpc'" in str(refused.value)
