"""The two chains of the WSGI application: what bears a token passes by what serves browsers, and loses nothing by it."""

import gc
import io
import json

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client, RequestFactory

from tasks.models import ApiToken, OutboxEvent, Task

_SECURITY = {"X-Content-Type-Options", "Referrer-Policy", "Cross-Origin-Opener-Policy", "Strict-Transport-Security"}


@pytest.fixture
def secret(committed_db) -> str:
    return ApiToken.issue(User.objects.create_superuser("ana"), "test")[1]


def call(path: str, method: str = "GET", body: bytes = b"", **headers) -> tuple[int, dict, bytes]:
    from taskpulse.wsgi import application

    environ = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "localhost", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1", "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body), "wsgi.errors": io.StringIO(), "wsgi.url_scheme": "http",
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }  # fmt: skip
    started = []
    response = application(environ, lambda status, headers: started.append((int(status[:3]), dict(headers))))
    content = b"".join(response)
    response.close()
    return *started[0], content


@pytest.mark.parametrize("path", ["/api/tasks", "/api/audit", "/api/nothing", "/api/tasks/x", "/api/schema"])
def test_both_chains_give_the_same_answer(secret, path):
    status, headers, content = call(path, authorization=f"Bearer {secret}", x_request_id="req-1")
    response = Client().get(path, headers={"authorization": f"Bearer {secret}", "x-request-id": "req-1"})
    assert (status, content) == (response.status_code, response.content)
    # What frames and cookies mean to a browser is left out.
    missing = {name.lower() for name in response.headers} - {name.lower() for name in headers}
    assert missing <= {"x-frame-options", "vary"}
    assert headers["X-Request-ID"] == "req-1"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert int(headers["Content-Length"]) == len(content)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_both_chains_say_the_same_of_security(secret, scheme, settings):
    from taskpulse.wsgi import Handler

    settings.SECURE_HSTS_SECONDS, settings.SECURE_HSTS_PRELOAD = 3600, True
    handler, said = Handler(), []
    for more in ({"HTTP_AUTHORIZATION": f"Bearer {secret}"}, {}):
        request = RequestFactory().get("/api/tasks", secure=scheme == "https", **more)
        said.append({name: value for name, value in handler.get_response(request).headers.items() if name in _SECURITY})
    assert said[0] == said[1]
    assert set(said[0]) == _SECURITY - ({"Strict-Transport-Security"} if scheme == "http" else set())


def test_what_a_view_says_of_security_itself_stays(rf):
    from taskpulse.http_headers import SecurityHeadersMiddleware

    def view(request):
        return HttpResponse(headers={"referrer-policy": "no-referrer"})

    for _ in range(2):
        answer = SecurityHeadersMiddleware(view)(rf.get("/"))
        assert (answer["Referrer-Policy"], answer["X-Content-Type-Options"]) == ("no-referrer", "nosniff")
    assert "Content-Type" in SecurityHeadersMiddleware(lambda _: HttpResponse())(rf.get("/"))


def test_a_browser_keeps_its_middleware(secret):
    _, headers, _ = call("/admin/login/", authorization=f"Bearer {secret}")
    assert headers["X-Frame-Options"] == "DENY"
    assert "csrftoken" in headers["Set-Cookie"]
    _, headers, _ = call("/api/tasks")
    assert headers["X-Frame-Options"] == "DENY"


def test_actor_and_request_reach_the_event(secret):
    status, _, _ = call("/api/tasks", "POST", b'{"title": "One"}', authorization=f"Bearer {secret}", x_request_id="req-2")
    assert status == 201
    event = json.loads(bytes(OutboxEvent.objects.get(subject_id=str(Task.objects.get().pk)).payload))
    assert (event["actorname"], event["requestid"], event["clientip"]) == ("ana", "req-2", "127.0.0.1")


def test_a_session_cannot_ride_on_the_chain_of_tokens(secret):
    """A header that is no token, beside a session's cookie, signs nobody in."""
    client = Client()
    client.force_login(User.objects.get())
    cookie = f"sessionid={client.cookies['sessionid'].value}"
    assert call("/api/tasks", cookie=cookie)[0] == 200
    assert call("/api/tasks", cookie=cookie, authorization="Basic eDp5")[0] == 401
    assert call("/api/tasks", "POST", b'{"title": "One"}', cookie=cookie, authorization="Basic eDp5")[0] in {401, 403}


def test_a_program_s_request_leaves_nothing_to_the_garbage_collector(secret):
    """It would look through all that was made since, and what a circle holds is not used again until then."""
    headers = {"authorization": f"Bearer {secret}", "accept": "application/json"}

    def ask() -> None:
        status, _, content = call("/api/tasks", "POST", b'{"title": "One", "labels": ["a"]}', **headers)
        path = f"/api/tasks/{json.loads(content)['id']}"
        assert status == 201
        assert [call(path, "PATCH", b'{"title": "Two"}', **headers)[0], call(path, **headers)[0]] == [200, 200]
        assert [call("/api/tasks", **headers)[0], call(path, "DELETE", **headers)[0]] == [200, 204]

    ask()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        ask()
        gc.collect()
        left = {type(found).__name__ for found in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left & {"Context", "HttpResponse", "Request", "Task", "TaskViewSet", "User", "WSGIRequest"}


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/", "/api/schema", "/api/nothing"])
def test_a_path_leads_to_the_same_whenever_it_is_asked_for(secret, path):
    first, *others = (call(path, accept="application/json", x_request_id="req-1")[0] for _ in range(3))
    assert others == [first, first]
    assert call("/api/tasks/x", authorization=f"Bearer {secret}")[0] == 404
