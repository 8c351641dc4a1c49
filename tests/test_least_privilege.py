"""A process that signs in as the owner or a superuser is told, by a numbered warning."""

import logging

import pytest
from django.core.management import call_command
from django.db import connection

from taskpulse import least_privilege
from taskpulse.database_roles import AUDITOR, WEB, WORKER
from tests.database_role import OWNER
from tests.running_up import wait_until
from tests.web_role import WebRole


@pytest.mark.parametrize(("kind", "what"), [(WEB, None), (WORKER, None), (AUDITOR, None), (OWNER, "the owner of the tables")])
def test_the_check_of_a_deployment_names_too_much_power(owned, kind, what, capsys):
    with owned.django_as(kind):
        call_command("check", databases=["default"])
        assert least_privilege.NUMBER not in capsys.readouterr().err
        call_command("check", deploy=True, databases=["default"])
        said = capsys.readouterr().err
    assert (least_privilege.NUMBER in said) == (what is not None)
    if what:
        assert f"signs in to PostgreSQL as {owned.names[kind]}, {what}" in said


@pytest.mark.django_db
def test_a_superuser_is_named_too():
    assert "a superuser" in least_privilege.excess(connection)


@pytest.mark.parametrize(("kind", "count"), [(OWNER, 1), (WEB, 0)])
def test_a_process_is_warned_once(owned, kind, count, caplog):
    with owned.django_as(kind), caplog.at_level(logging.WARNING):
        least_privilege.warn_once()
        for _ in range(2):
            connection.close()
            connection.ensure_connection()
    assert [record.message.startswith(least_privilege.NUMBER) for record in caplog.records] == [True] * count


def test_threads_that_connect_together_warn_once(owned, caplog):
    with owned.django_as(OWNER), caplog.at_level(logging.WARNING):
        connection.ensure_connection()
        least_privilege.warn_once()
        for _ in range(2):  # each was told of its connection before the other had looked
            least_privilege._look(connection)
    assert len(caplog.records) == 1


def test_the_web_role_says_so_in_its_log(owned, tmp_path):
    role = WebRole(tmp_path, WEB_CONCURRENCY="1", DATABASE_URL=owned.url(OWNER)).start()
    try:
        assert role.status("/readyz") == 200
        wait_until(lambda: f"{least_privilege.NUMBER}: This process signs in" in role.log, 10, "the warning is in the log")
    finally:
        role.stop()


@pytest.mark.parametrize("command", ["relay_outbox", "consume_events"])
def test_relay_and_consumer_look_before_they_begin(command, monkeypatch):
    class Looked(Exception):
        pass

    def look():
        raise Looked

    monkeypatch.setattr(least_privilege, "warn_once", look)
    with pytest.raises(Looked):
        call_command(command)
