"""Probes: liveness touches nothing, readiness names the check that failed."""

import threading

import pytest
from django.db import connection, connections
from django.test import Client

from tests.api_client import statements


@pytest.mark.parametrize("path", ["/health", "/healthz", "/healthz/"])
def test_liveness_does_no_io(path):
    """Without the `db` fixture any statement would raise."""
    response = Client().get(path)
    assert (response.status_code, response.json()["status"]) == (200, "ok")


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/ready", "/readyz", "/ready/"])
def test_readiness_asks_the_database_once(path):
    with statements() as found:
        response = Client().get(path)
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "checks": {"database": {"status": "ok"}, "migrations": {"status": "ok"}}}
    assert len(found) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/health", "/healthz", "/ready", "/readyz/", "/metrics"])
def test_a_probe_is_answered_under_the_name_that_a_machine_uses(path, settings):
    """kubelet, load balancers and Prometheus send the address that they reach, which ALLOWED_HOSTS does not name."""
    settings.ALLOWED_HOSTS = ["tasks.example.org"]
    by_address = Client(headers={"host": "10.1.2.3:8000"})
    answer = by_address.get(path)
    assert (answer.status_code, int(answer["Content-Length"])) == (200, len(answer.content))
    assert by_address.head(path).status_code == 200
    assert by_address.post(path).status_code == 405
    for elsewhere in ("/api/tasks", "/admin/", f"{path}/x"):
        assert by_address.get(elsewhere).status_code == 400


@pytest.mark.django_db
def test_a_migration_that_is_missing_is_named():
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'tasks' AND name = '0002_capture'")
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert response.json()["checks"]["database"] == {"status": "ok"}
    assert "tasks.0002_capture" in response.json()["checks"]["migrations"]["detail"]


@pytest.mark.django_db
def test_an_empty_database_is_told_from_one_that_is_away():
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_migrations RENAME TO elsewhere")
    checks = Client().get("/readyz").json()["checks"]
    assert checks["database"] == {"status": "ok"}
    assert "migrate" in checks["migrations"]["detail"]


@pytest.mark.django_db
def test_a_database_that_is_away_makes_it_unready_and_leaves_it_alive():
    answers = []

    def ask():
        connections["default"].settings_dict = {**connections["default"].settings_dict, "HOST": "127.0.0.1", "PORT": "1"}
        answers.extend([Client().get("/readyz"), Client().get("/healthz")])

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(5)
    ready, live = answers
    assert ready.status_code == 503
    assert ready.json()["checks"]["database"]["status"] == "failed"
    assert live.status_code == 200
