"""Who the client is behind proxies: only what trusted ones say counts."""

from ipaddress import ip_address, ip_network

import pytest
from django.conf import settings
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from taskpulse import proxies

OURS = [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")]


def seen(networks=OURS, peer: str = "10.0.0.1", **headers: str) -> tuple[str, str]:
    """The client's address and the scheme, as the application gets them."""
    environ = {"REMOTE_ADDR": peer, "wsgi.url_scheme": "http"} | {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    return proxies.trusting(networks, lambda environ, _: (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]))(environ, None)


def test_by_default_nobody_is_believed():
    from taskpulse.wsgi import Handler, application

    assert settings.TRUSTED_PROXIES == ()
    assert isinstance(application, Handler)
    assert seen((), x_forwarded_for="1.1.1.1", x_forwarded_proto="https") == ("10.0.0.1", "http")


def test_a_stranger_is_not_believed():
    assert seen(peer="192.0.2.9", x_forwarded_for="1.1.1.1", x_forwarded_proto="https") == ("192.0.2.9", "http")
    assert seen(peer="", x_forwarded_for="1.1.1.1", x_forwarded_proto="https") == ("", "http")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7"),  # what the client itself claims stands first
        ("6.6.6.6, 192.0.2.7, 10.1.1.1,10.2.2.2", "192.0.2.7"),
        ("10.3.3.3, 10.1.1.1", "10.3.3.3"),  # all of them ours: the first is where it began
        ("192.0.2.7:4711", "192.0.2.7"),
        ("[2001:db9::7]:4711, [2001:db8::1]", "2001:db9::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, unknown, 10.1.1.1", "10.1.1.1"),
        ("unknown", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(forwarded, client):
    assert seen(x_forwarded_for=forwarded)[0] == client


@given(st.text("0123456789abcdef.:,[] x"))
def test_whatever_is_sent_the_address_is_one(forwarded):
    ip_address(seen(x_forwarded_for=forwarded)[0])


@pytest.mark.parametrize(
    ("value", "scheme"), [("https", "https"), ("HTTPS", "https"), ("http", "http"), ("http, https", "https"), ("gopher", "http")]
)
def test_the_scheme_is_what_the_nearest_proxy_says(value, scheme):
    assert seen(x_forwarded_proto=value)[1] == scheme


def test_plain_requests_are_sent_to_https_but_for_probes(db, settings):
    settings.SECURE_SSL_REDIRECT, settings.SECURE_HSTS_SECONDS = True, 3600
    answer = Client().get("/api/tasks")
    assert (answer.status_code, answer["Location"]) == (301, "https://testserver/api/tasks")
    for path in ("/healthz", "/readyz", "/metrics", "/health", "/ready"):
        assert Client().get(path).status_code == 200
        assert Client(headers={"host": "10.1.2.3:8000"}).get(path).status_code == 200
    answer = Client().get("/api/tasks", secure=True)
    assert answer.status_code == 401
    assert answer["Strict-Transport-Security"].startswith("max-age=3600")
