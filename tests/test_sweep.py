"""`manage.py sweep`, with the rights of the web role; kept answers, which the relay role sweeps."""

import io
import json
from datetime import timedelta

import psycopg
import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.utils import timezone

from audit.models import DeadLetter
from taskpulse import retention
from taskpulse.database_roles import WEB, WORKER
from tasks import kept_answers
from tasks.models import ApiToken, OutboxEvent
from tests.api_client import api
from tests.recording import message, record


@pytest.fixture
def as_web(owned, django_db_blocker):
    with django_db_blocker.unblock(), owned.django_as(WEB):
        yield owned


def sweep(*arguments: str) -> str:
    out = io.StringIO()
    call_command("sweep", *arguments, stdout=out)
    return out.getvalue().strip()


def ago(**span):
    return timezone.now() - timedelta(**span)


def test_sessions_go_when_they_expire_and_tokens_some_days_later(as_web):
    Session.objects.create(session_key="old", session_data="x", expire_date=ago(seconds=1))
    Session.objects.create(session_key="new", session_data="x", expire_date=ago(hours=-1))
    ana = User.objects.create_user("ana")
    for name, expires_at in (("long ago", ago(days=31)), ("lately", ago(days=29)), ("later", ago(days=-1)), ("never", None)):
        ApiToken.issue(ana, name, expires_at)
    assert sweep() == "1 sessions, 1 tokens and 0 dead letters swept"
    assert list(Session.objects.values_list("session_key", flat=True)) == ["new"]
    assert set(ApiToken.objects.values_list("name", flat=True)) == {"lately", "later", "never"}
    assert sweep("--token-days", "0") == "0 sessions, 1 tokens and 0 dead letters swept"
    assert sweep("--token-days", "0") == "0 sessions, 0 tokens and 0 dead letters swept"


def test_old_dead_letters_are_discarded_with_a_trace(as_web, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    with as_web.django_as(WORKER):
        record([message(f"no event {number}".encode()) for number in range(6)])
    with as_web.connect(None, autocommit=True) as session:
        newest = "(SELECT max(id) FROM audit_dead_letter)"
        session.execute(f"UPDATE audit_dead_letter SET received_at = now() - interval '91 days' WHERE id < {newest}")
    assert sweep() == "0 sessions, 0 tokens and 5 dead letters swept"
    assert [bytes(letter.value) for letter in DeadLetter.objects.all()] == [b"no event 5"]
    events = [json.loads(row.payload) for row in OutboxEvent.objects.filter(subject_type="audit.dead_letter")]
    assert [event["type"] for event in events] == ["audit.dead_letter.discarded"] * 5
    assert {event["actortype"] for event in events} == {"system"}
    assert sweep("--dead-letter-days", "0") == "0 sessions, 0 tokens and 1 dead letters swept"


@pytest.mark.django_db
@pytest.mark.parametrize("option", ["--token-days", "--dead-letter-days"])
def test_days_out_of_range_are_refused(option):
    for days in ("-1", "40000"):
        with pytest.raises(CommandError, match=f"{option}: expected 0 to 36500 days, got {days}"):
            sweep(option, days)


def test_kept_answers_are_written_by_the_web_role_and_swept_by_the_worker_who_sees_none(as_web):
    caller = api("member")
    sent = {"body": {"title": "x"}, "Idempotency_Key": "a"}
    first = caller.post(**sent)
    assert first.status_code == 201
    assert caller.post(**sent)["Idempotent-Replayed"] == "true"
    with as_web.connect(None, autocommit=True) as session:
        session.execute("UPDATE tasks_kept_answer SET created_at = now() - interval '25 hours'")
    with as_web.django_as(WORKER):
        kept_answers.Sweeper().step()
    assert not kept_answers.KeptAnswer.objects.exists()
    with as_web.connect(WORKER) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("SELECT body FROM tasks_kept_answer")
    assert caller.send("DELETE", f"/api/tasks/{first.json()['id']}").status_code == 204
