"""Actor and request id reach the event on every write path: user, token, command, database role."""

import json

import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.http import HttpResponse

from taskpulse.middleware import RequestContextMiddleware
from tasks import context
from tasks.context import Actor, Context
from tasks.models import OutboxEvent, Task

ANA = Context(actor=Actor("7", "ana", "user", "tok_1"), request_id="req-1", traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")


def last_event() -> dict:
    return json.loads(bytes(OutboxEvent.objects.latest("id").payload))


def writer(how: str):
    task = Task.objects.latest("id")
    if how == "save":
        task.title += "!"
        task.save()
    elif how == "update":
        Task.objects.update(title="Updated")
    elif how == "bulk_create":
        Task.objects.bulk_create([Task(title="New")])
    elif how == "ignore_conflicts":
        Task.objects.bulk_create([Task(title="New")], ignore_conflicts=True)
    elif how == "delete":
        task.delete()
    else:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE tasks_task SET title = 'Raw'")


PATHS = ["save", "update", "bulk_create", "ignore_conflicts", "delete", "raw"]


@pytest.mark.parametrize("how", PATHS)
def test_actor_and_request_reach_every_write_path(committed_db, how):
    Task.objects.create(title="One")
    with context.use(ANA), transaction.atomic():
        writer(how)
    event = last_event()
    assert (event["actorid"], event["actorname"], event["actortype"], event["authid"]) == ("7", "ana", "user", "tok_1")
    assert (event["requestid"], event["traceparent"]) == (ANA.request_id, ANA.traceparent)
    assert "reason" not in event


@pytest.mark.parametrize("how", PATHS)
def test_a_command_is_named(committed_db, how, monkeypatch):
    monkeypatch.setattr(context, "_process_actor", Actor("system:import", "system:import", "system"))
    Task.objects.create(title="One")
    with transaction.atomic():
        writer(how)
    assert (last_event()["actorid"], last_event()["actortype"]) == ("system:import", "system")


def test_two_actors_in_one_transaction_and_a_rolled_back_savepoint(committed_db):
    task = Task.objects.create(title="0")
    sql = "UPDATE tasks_task SET title = title || '.'"
    with transaction.atomic(), connection.cursor() as cursor:
        with context.use(ANA):
            cursor.execute(sql)
            connection.check_constraints()
            with pytest.raises(RuntimeError), transaction.atomic(), context.use(Context(actor=Actor("8", "bo", "user"))):
                cursor.execute(sql)
                raise RuntimeError
            cursor.execute(sql)
            connection.check_constraints()
        with context.use(Context(actor=Actor("9", "cy", "user"))):
            cursor.execute(sql)
            connection.check_constraints()
    events = [json.loads(bytes(row.payload)) for row in OutboxEvent.objects.filter(subject_id=str(task.pk)).order_by("version")]
    assert [event["actorid"] for event in events[1:]] == ["7", "7", "9"]


def test_the_context_ends_with_its_transaction(committed_db):
    with context.use(ANA), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO tasks_task (id, title, description, priority, status, labels) "
                       "VALUES (uuidv7(), 'One', '', 'low', 'pending', '{}')")  # fmt: skip
    assert last_event()["actorid"] == "7"
    with psycopg.connect(committed_db) as session:
        session.execute("UPDATE tasks_task SET title = 'Two'")
    assert last_event()["actortype"] == "database"


def test_a_read_costs_no_telling(committed_db, django_assert_num_queries):
    with context.use(ANA), django_assert_num_queries(3), transaction.atomic():  # BEGIN, SELECT, COMMIT
        list(Task.objects.select_for_update())


# The request.


def answer(rf, inside=lambda request: None, **headers):
    request = rf.get("/", headers=headers)

    def view(request):
        inside(request)
        return HttpResponse()

    return RequestContextMiddleware(view)(request)


def test_a_request_id_goes_in_and_out(rf):
    seen = []
    response = answer(rf, lambda request: seen.append(context.current().request_id), **{"X-Request-ID": "abc-1:2"})
    assert response["X-Request-ID"] == "abc-1:2"
    assert seen == ["abc-1:2"]
    assert context.current().request_id is None


@pytest.mark.parametrize("bad", ["", "x" * 129, "a b", "a\nb", "é", "{}"])
def test_a_bad_request_id_is_replaced(rf, bad):
    made = answer(rf, **{"X-Request-ID": bad})["X-Request-ID"]
    assert made != bad
    assert len(made) == 36


@pytest.mark.parametrize("bad", ["", "00-" + "0" * 32 + "-" + "2" * 16 + "-01", "00-1-2-01", "zz"])
def test_a_bad_traceparent_is_left_out(rf, bad):
    seen = []
    answer(rf, lambda request: seen.append(context.current().traceparent), traceparent=bad)
    assert seen == [None]


def test_reason_and_address_reach_the_event(db, rf):
    def create(request):
        request.user = User.objects.create(username="ana")
        Task.objects.create(title="One")

    answer(rf, create, **{"X-Change-Reason": "customer asked\x07: caf\u00c3\u00a9"})
    event = last_event()
    assert event["reason"] == "customer asked : café"
    assert event["clientip"] == "127.0.0.1"
    assert (event["actorname"], event["authid"], event["actortype"]) == ("ana", "session", "user")
