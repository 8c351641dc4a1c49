"""HTTP manners of every route, found by enumeration: HEAD, OPTIONS, 405, slash or none, caches, security headers; and CORS,
compression, deprecation, Location and Date."""

import gzip
import io
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
import yaml
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import Client
from django.urls import URLResolver, get_resolver

from audit.models import Entry
from taskpulse import compression, deprecation, proxies
from taskpulse.access import template
from taskpulse.api_documents import DIRECTORY
from taskpulse.compression import takes_gzip
from tasks.models import Task
from tests.api_client import Api, api, person, problem
from tests.test_api_audit import record

pytestmark = pytest.mark.django_db


def _routes(patterns=None, prefix="", names=frozenset()) -> dict[str, str]:
    """The path of each route that serves programs, by the route's name."""
    found = {}
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        if isinstance(pattern, URLResolver):
            if pattern.app_name != "admin":
                found |= _routes(pattern.url_patterns, prefix + str(pattern.pattern))
        elif pattern.name != "root":
            found[pattern.name] = template(prefix + str(pattern.pattern))
    return found


_ROUTES = _routes()
# The standard of transparency logs names these paths, without a slash (C2SP tlog-tiles).
_WITHOUT_SLASH = {"log-checkpoint": "/audit/checkpoint", "log-tile": "/audit/tile/0/000"}
_FOR_EVERYBODY = {"schema", "asyncapi", "event-schema", "problems", "problem", "docs", "redoc"}
_NAMES = {"problem": "not-found", "event-schema": next((DIRECTORY / "schemas").glob("*.json")).name}
_PATHS = {name: _WITHOUT_SLASH.get(name, path) for name, path in _ROUTES.items()}


@pytest.fixture
def caller() -> Api:
    return api()


@pytest.fixture
def path_of(caller):
    """The path of a route, with the ids of a task that is there and of its entry; {} where there is no such thing yet."""
    task = Task.objects.create(title="a task")
    record()
    known = {"task": task.pk, "id": task.pk, "event_id": Entry.objects.get().event_id}

    def path(name: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: str(known.get(match[1], _NAMES.get(name))), _PATHS[name])

    return path


def _body(response) -> bytes:
    return b"".join(response) if response.streaming else response.content


@pytest.mark.parametrize("name", _ROUTES)
def test_head_says_what_get_says(name, path_of, caller):
    """RFC 9110 §9.3.2."""
    path = path_of(name)
    get = caller.get(path)
    if get.status_code == 405:
        assert caller.send("HEAD", path).status_code == 405
        return
    body, head = _body(get), caller.send("HEAD", path)
    assert head.status_code == get.status_code
    assert _body(head) == b"" or head.streaming
    differ = {"X-Request-ID", "Content-Length"} if name == "metrics" else {"X-Request-ID"}
    assert {k: v for k, v in head.items() if k not in differ} == {k: v for k, v in get.items() if k not in differ}
    if name != "metrics" and not get.streaming and get.has_header("Content-Length"):
        assert int(get["Content-Length"]) == len(body)


@pytest.mark.parametrize("name", _ROUTES)
def test_options_names_the_methods_to_whoever_asks(name, path_of):
    path = path_of(name)
    for asking in (Api(None), api("viewer")):
        answer = asking.send("OPTIONS", path)
        assert (answer.status_code, answer.content) == (204, b"")
        allowed = answer["Allow"].split(", ")
        assert "OPTIONS" in allowed
        assert ("GET" in allowed) == ("HEAD" in allowed)
        assert ("PATCH" in allowed) == answer.has_header("Accept-Patch")
    problem(Api(None).send("OPTIONS", "/api/nothing"), 404)


@pytest.mark.parametrize("name", _ROUTES)
def test_a_method_that_is_not_there_is_a_405_with_those_that_are(name, path_of, caller):
    path = path_of(name)
    allowed = set(caller.send("OPTIONS", path)["Allow"].split(", "))
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "FROB"} - allowed:
        refused = caller.send(method, path, {})
        assert problem(refused, 405)["type"] == "/api/problems/method-not-allowed"
        assert {found.strip() for found in refused["Allow"].split(",")} | {"OPTIONS"} == allowed, (method, path)


def test_what_is_allowed_is_said_to_who_asks_or_errs(caller):
    for path in ("/api/tasks", "/api/audit"):
        assert not caller.get(path).has_header("Allow")


@pytest.mark.parametrize("name", sorted(_ROUTES.keys() - _WITHOUT_SLASH.keys()))
def test_with_a_slash_as_without(name, path_of, caller):
    path = path_of(name)
    for method in ("GET", "OPTIONS"):
        found = [caller.send(method, path + slash) for slash in ("", "/")]
        for answer in found:
            answer.close()
        assert found[0].status_code == found[1].status_code < 500
        assert found[0].status_code not in {301, 302, 307, 308}


@pytest.mark.parametrize("signed_in", [True, False])
@pytest.mark.parametrize("name", _ROUTES)
def test_every_answer_says_who_may_keep_it_and_what_it_depends_on(name, signed_in, path_of, caller):
    answer = (caller if signed_in else Api(None)).get(path_of(name))
    answer.close()
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]
    page = answer["Content-Type"].startswith("text/html")
    assert answer.has_header("Permissions-Policy") == page
    assert "default-src 'none'" in answer["Content-Security-Policy"]
    if not _PATHS[name].startswith("/api/"):
        return
    kept, depends = answer["Cache-Control"], {part.strip() for part in answer.get("Vary", "").split(",")}
    if name in _FOR_EVERYBODY:
        assert (kept, "Cookie" in depends) == ("no-cache", False)
    elif answer.status_code >= 400 or name == "audit-export":
        assert kept == "no-store"
    else:
        assert kept == "private, no-cache"
        assert {"Accept", "Accept-Encoding", "Authorization", "Cookie"} <= depends


def test_a_write_is_kept_by_nobody_and_a_read_by_its_reader(caller):
    task = caller.create()
    path = f"/api/tasks/{task['id']}"
    read = caller.get(path)
    assert read["Cache-Control"] == "private, no-cache"
    again = caller.get(path, If_None_Match=read["ETag"])
    assert (again.status_code, again["Cache-Control"], again["Vary"]) == (304, read["Cache-Control"], read["Vary"])
    assert caller.patch(path, {"title": "y"})["Cache-Control"] == "no-store"


def test_an_answer_without_a_body_says_no_length(application, caller):
    """That of 304 would be another answer's (RFC 9110 §8.6)."""
    path = f"/api/tasks/{caller.create()['id']}"
    tag = caller.get(path)["ETag"]
    for method, headers, expected in (("GET", {"If-None-Match": tag}, 304), ("DELETE", {}, 204)):
        status, found = _call(application, method, path, **headers, **caller.headers)
        assert (status, found.get("Content-Length")) == (expected, None)


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/", "/admin/tasks/apitoken/add/"])
def test_pages_load_nothing_from_other_hosts(path):
    client = Client()
    client.force_login(person(is_superuser=True, is_staff=True))
    answer = client.get(path, follow=True)
    assert answer["Content-Security-Policy"].startswith("default-src 'self'; ")
    assert "http" not in answer["Content-Security-Policy"]
    assert answer["Permissions-Policy"]
    if path != "/admin/login/":
        assert "no-store" in answer["Cache-Control"]


# ---- compression


@pytest.mark.parametrize(
    ("header", "taken"),
    [("gzip", True), ("gzip, deflate, br", True), ("GZIP;q=0.5", True), ("*", True), ("br;q=1, *;q=0.1", True), ("", False),
     ("br", False), ("gzip;q=0", False), ("gzip; q=0.0, *", False), ("*;q=0", False), ("identity", False), ("*;q=0, gzip", True)],
)  # fmt: skip
def test_which_coding_a_client_takes(header, taken):
    assert takes_gzip(header) is taken


def test_a_long_answer_is_compressed_for_who_asks(caller):
    for number in range(12):
        caller.create(title=str(number), description="the same words again and again " * 10)
    plain = caller.get("/api/tasks")
    assert not plain.has_header("Content-Encoding")
    packed = caller.get("/api/tasks", Accept_Encoding="gzip")
    assert packed["Content-Encoding"] == "gzip"
    assert int(packed["Content-Length"]) == len(packed.content) < len(plain.content) / 4
    assert gzip.decompress(packed.content) == plain.content
    assert packed["Vary"] == plain["Vary"]
    head = caller.send("HEAD", "/api/tasks", Accept_Encoding="gzip")
    assert head["Content-Length"] == packed["Content-Length"]
    assert not caller.get("/api/tasks?limit=1", Accept_Encoding="gzip").has_header("Content-Encoding")


def test_an_answer_with_a_strong_tag_stays_as_it_is(caller):
    """Its tag comes back in If-Match, which a weak one never fulfils (RFC 9110 §13.1.1)."""
    task = caller.create(description="x" * 10_000)
    path = f"/api/tasks/{task['id']}"
    read = caller.get(path, Accept_Encoding="gzip")
    assert (read["ETag"][:3], read.has_header("Content-Encoding")) == ('"1-', False)
    assert caller.patch(path, {"title": "y"}, If_Match=read["ETag"], Accept_Encoding="gzip").status_code == 200


def test_a_stream_is_compressed_as_it_comes(caller, path_of, monkeypatch):
    monkeypatch.setattr("audit.api.export_views.bundle", lambda *_, **__: (b"line\n" for _ in range(10_000)))
    packed = caller.get("/api/audit/export", Accept_Encoding="gzip")
    assert packed["Content-Encoding"] == "gzip"
    assert not packed.has_header("Content-Length")
    assert gzip.GzipFile(fileobj=io.BytesIO(_body(packed))).read() == b"line\n" * 10_000


def test_what_is_no_text_is_left_alone():
    from django.http import HttpResponse
    from django.test import RequestFactory

    request = RequestFactory().get("/api/x", headers={"Accept-Encoding": "gzip"})
    for content_type, coding in (("application/octet-stream", None), ("image/png", None), ("application/json", "gzip")):
        response = HttpResponse(b"0" * compression.LEAST_BYTES, content_type=content_type)
        compression.compress(request, response)
        assert response.get("Content-Encoding") == coding


# ---- CORS

_ORIGIN = "https://app.example.com"
_PREFLIGHT = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization, if-match"}


@pytest.fixture
def application(settings):
    """The WSGI application as it is where TASKPULSE_CORS_ORIGINS names one origin."""
    from taskpulse.wsgi import Handler

    cors = "corsheaders.middleware.CorsMiddleware"
    settings.CORS_ALLOWED_ORIGINS = [_ORIGIN]
    settings.PROGRAM_MIDDLEWARE = [settings.PROGRAM_MIDDLEWARE[0], cors, *settings.PROGRAM_MIDDLEWARE[1:]]
    settings.MIDDLEWARE = [settings.MIDDLEWARE[0], cors, *settings.MIDDLEWARE[1:]]
    return Handler()


def _call(application, method: str, path: str, **headers) -> tuple[int, dict]:
    environ = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "localhost", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "10.0.0.1", "wsgi.input": io.BytesIO(headers.pop("body", b"")),
        "wsgi.errors": io.StringIO(), "wsgi.url_scheme": "http",
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()},
    }  # fmt: skip
    environ["CONTENT_LENGTH"] = str(len(environ["wsgi.input"].getvalue()))
    environ["CONTENT_TYPE"] = "application/json" if environ["CONTENT_LENGTH"] != "0" else ""
    started = []
    for signal in (request_started, request_finished):  # which would end the test's transaction
        signal.disconnect(close_old_connections)
    try:
        application(environ, lambda status, headers: started.append((int(status[:3]), dict(headers)))).close()
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)
    return started[0]


def test_a_named_origin_may_read_what_a_token_reads(application, caller):
    status, found = _call(application, "OPTIONS", "/api/tasks", Origin=_ORIGIN, **_PREFLIGHT)
    assert status == 200
    assert found["access-control-allow-origin"] == _ORIGIN
    assert "PATCH" in found["access-control-allow-methods"]
    assert {"authorization", "if-match", "idempotency-key"} <= set(found["access-control-allow-headers"].split(", "))
    for headers in (caller.headers, {}):
        status, found = _call(application, "GET", "/api/tasks", Origin=_ORIGIN, **headers)
        assert status == (200 if headers else 401)
        assert found["access-control-allow-origin"] == _ORIGIN
        assert "access-control-allow-credentials" not in found
        assert {"Link", "ETag", "Location", "X-Request-ID"} <= set(found["access-control-expose-headers"].split(", "))
        assert "origin" in found["Vary"].lower()


# What a page may read without being told so (Fetch Standard, CORS-safelisted response-header name).
_SAFELISTED = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}


def test_a_page_may_read_every_header_that_is_described(application, caller):
    described = yaml.load((DIRECTORY / "openapi.yaml").read_text(), yaml.CSafeLoader)
    operations = [operation for methods in described["paths"].values() for operation in methods.values()]
    named = {name for operation in operations for answer in operation["responses"].values() for name in answer.get("headers", ())}
    assert {"ETag", "Link", "X-Total-Count"} <= named
    _, found = _call(application, "GET", "/api/tasks", Origin=_ORIGIN, **caller.headers)
    exposed = set(found["access-control-expose-headers"].lower().split(", "))
    assert {name.lower() for name in named} - exposed - _SAFELISTED == set()


def test_any_other_origin_may_not(application, caller):
    for origin in ("https://evil.example.com", "null", "http://app.example.com", f"{_ORIGIN}.evil.example"):
        for method, headers in (("OPTIONS", _PREFLIGHT), ("GET", caller.headers)):
            _, found = _call(application, method, "/api/tasks", Origin=origin, **headers)
            assert "access-control-allow-origin" not in found
            assert "origin" in found["Vary"].lower()
    assert "access-control-allow-origin" not in _call(application, "GET", "/admin/login/", Origin=_ORIGIN)[1]


def test_where_no_origin_is_named_nothing_is_said(caller):
    assert not caller.get("/api/tasks", Origin=_ORIGIN).has_header("access-control-allow-origin")
    preflight = caller.send("OPTIONS", "/api/tasks", Origin=_ORIGIN, Access_Control_Request_Method="GET")
    assert not preflight.has_header("access-control-allow-origin")


# ---- deprecation


def test_a_deprecated_route_says_so_in_each_answer_and_in_the_description(caller, monkeypatch, settings):
    since, sunset = datetime(2026, 7, 1, tzinfo=UTC), datetime(2027, 7, 1, tzinfo=UTC)
    link = "https://tasks.example.com/docs/api.md"
    monkeypatch.setitem(deprecation.DEPRECATED, "/api/tasks", deprecation.Deprecation(since, link, sunset))
    caller.create()
    caller.create()
    for answer in (caller.get("/api/tasks?limit=1"), caller.get("/api/tasks?bad=1"), Api(None).get("/api/tasks/")):
        assert answer["Deprecation"] == f"@{int(since.timestamp())}"
        assert parsedate_to_datetime(answer["Sunset"]) == sunset
        assert f'<{link}>; rel="deprecation"' in answer["Link"]
    assert 'rel="next", <' in caller.get("/api/tasks?limit=1")["Link"]
    assert not caller.get("/api/audit").has_header("Deprecation")
    assert "taskpulse.deprecation.mark" in settings.SPECTACULAR_SETTINGS["POSTPROCESSING_HOOKS"]
    described = yaml.load((DIRECTORY / "openapi.yaml").read_text(), yaml.CSafeLoader)
    paths = deprecation.mark(described, None, None, True)["paths"]
    assert all(operation["deprecated"] for operation in paths["/api/tasks"].values())
    assert not any("deprecated" in operation for operation in paths["/api/audit"].values())


def test_what_is_declared_deprecated_is_there_and_goes_after_it_was_told():
    for path, found in deprecation.DEPRECATED.items():
        assert path in _ROUTES.values()
        assert found.sunset is None or found.sunset - found.since >= timedelta(days=90)


# ---- Location


def test_the_name_that_location_says_is_one_that_is_allowed(caller, settings):
    settings.ALLOWED_HOSTS = ["tasks.example.org", "old.example.org"]
    for host in ("tasks.example.org", "old.example.org"):
        made = caller.send("POST", "/api/tasks", {"title": "x"}, Host=host)
        assert made["Location"].startswith(f"http://{host}/api/tasks/")
    settings.ALLOWED_HOSTS = ["tasks.example.org"]
    for host in ("old.example.org", "evil.example.org"):
        problem(caller.send("POST", "/api/tasks", {"title": "x"}, Host=host), 400)
    assert Task.objects.count() == 2


def test_location_is_absolute_and_what_the_proxy_says_it_is(caller):
    from ipaddress import ip_network

    from taskpulse.wsgi import Handler

    application = proxies.trusting([ip_network("10.0.0.0/8")], Handler())
    sent = {"Host": "localhost:8443", "X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1", **caller.headers}
    status, found = _call(application, "POST", "/api/tasks", body=b'{"title": "x"}', **sent)
    assert status == 201
    assert found["Location"] == f"https://localhost:8443/api/tasks/{Task.objects.get().pk}"
