"""How long a token that was found is believed: TASKPULSE_WEB_TOKEN_CACHE_MS, and not a moment longer."""

import pytest
from django.contrib.auth.models import User
from django.db import connection

from tasks.api import authentication
from tests.api_client import Api, api, problem, statements

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def now(settings, monkeypatch):
    """The clock of the cache, in seconds; it stands until a test moves it."""
    settings.WEB_TOKEN_CACHE_MS = 1000
    monkeypatch.setattr(authentication, "_looked_up", authentication._LookedUp())
    clock = [1000.0]
    monkeypatch.setattr(authentication, "monotonic", lambda: clock[0])
    return clock


def test_a_token_is_looked_up_once_in_that_time(django_assert_num_queries):
    caller = api()
    task = caller.create()["id"]
    with django_assert_num_queries(2):
        for _ in range(2):
            assert caller.get(f"/api/tasks/{task}").status_code == 200


@pytest.mark.parametrize(
    "take_away",
    [
        lambda user: user.api_tokens.all().delete(),
        lambda user: user.api_tokens.update(expires_at="2020-01-01T00:00:00Z"),
        lambda user: User.objects.filter(pk=user.pk).update(is_active=False),
    ],
    ids=["revoked", "expired", "deactivated"],
)
def test_what_is_taken_away_counts_after_that_time(now, take_away):
    caller = api()
    assert caller.get("/api/tasks").status_code == 200
    take_away(caller.user)
    now[0] += 0.999
    assert caller.get("/api/tasks").status_code == 200
    now[0] += 0.001
    problem(caller.get("/api/tasks"), 401)


def test_a_right_that_is_taken_away_counts_after_that_time(now):
    caller = api()
    task = caller.create()
    caller.user.groups.clear()
    now[0] += 1
    problem(caller.send("DELETE", f"/api/tasks/{task['id']}"), 403)


def test_a_use_does_not_prolong_it(now):
    caller = api()
    assert caller.get("/api/tasks").status_code == 200
    caller.user.api_tokens.all().delete()
    for _ in range(3):
        now[0] += 0.33
        assert caller.get("/api/tasks").status_code == 200
    now[0] += 0.33
    problem(caller.get("/api/tasks"), 401)


def test_an_unknown_token_is_asked_for_each_time():
    caller = Api(None)
    with statements() as asked:
        for _ in range(2):
            problem(caller.get("/api/tasks", Authorization="Bearer tp_" + "x" * 43), 401)
    assert len(asked) == 2
    assert not authentication._looked_up.callers


def test_zero_asks_in_each_request(settings, django_assert_num_queries):
    settings.WEB_TOKEN_CACHE_MS = 0
    caller = api()
    with django_assert_num_queries(4):
        for _ in range(2):
            assert caller.get("/api/tasks").status_code == 200


def test_it_keeps_a_bounded_number(monkeypatch):
    monkeypatch.setattr(authentication, "_KEPT", 2)
    for _ in range(5):
        assert api().get("/api/tasks").status_code == 200
        assert len(authentication._looked_up.callers) <= 2


def test_a_new_connection_asks_again():
    """What was found on a connection that is gone does not show that the next one serves."""
    caller = api()
    assert caller.get("/api/tasks").status_code == 200
    kept = connection.connection
    connection.connection = None
    try:
        with pytest.MonkeyPatch.context() as patch:
            asked = []
            patch.setattr(authentication, "_look_up", lambda digest: asked.append(digest))
            problem(caller.get("/api/tasks"), 401)
        assert len(asked) == 1
    finally:
        connection.connection = kept
