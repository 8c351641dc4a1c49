"""What somebody can do who has taken over a web process and its connection: act as people do, and neither forge an entry
of what never happened, nor keep one of what did from the log."""

import json
import uuid

import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, transaction
from psycopg.errors import CheckViolation, InsufficientPrivilege, IntegrityConstraintViolation, UniqueViolation

from audit.models import DeadLetter
from taskpulse.database_roles import AUDITOR, WEB, WORKER
from tasks import context, events, outbox
from tasks.context import Actor, Context
from tasks.models import Comment, Label, OutboxEvent, Task, Watcher
from tests.database_role import OWNER
from tests.recording import assert_log_is_whole, message, messages, record, waiting

COLUMNS = "event_id, subject_type, subject_id, version, task_id, payload"
INSERT = f"INSERT INTO tasks_outbox ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s)"
UPDATE = "UPDATE tasks_task SET title = %s WHERE id = %s RETURNING version, updated_at"


@pytest.fixture
def as_web(owned, django_db_blocker):
    with django_db_blocker.unblock(), owned.django_as(WEB):
        yield owned


@pytest.fixture
def stolen(as_web):
    with as_web.connect(WEB, autocommit=True) as session:
        yield session


def a_task() -> Task:
    return Task.objects.create(title="One", labels=["a"], assignee=User.objects.get_or_create(username="ana")[0])


def told(task: Task, action: str = "updated", **other) -> tuple:
    """The row of an event as the web role writes it for the task as it is, with something else put in."""
    row = {"subject_type": "task", "subject_id": str(task.pk), "version": task.version, "task_id": task.pk}
    row |= {name: other.pop(name) for name in list(other) if name in row}
    document = Task.documents([task])[0] | other.pop("document", {})
    attributes = {"actorid": "7", "actorname": "ana", "actortype": "user"}
    key, payload = events.build(**row, action=action, moment=task.updated_at, document=document, changed={}, attributes=attributes)
    event = json.loads(payload) | other
    return (key, *row.values(), events.canonical(event))


def change(session, task: Task, title: str) -> Task:
    """As raw SQL; the task is then what the row is."""
    task.version, task.updated_at = session.execute(UPDATE, [title, task.pk]).fetchone()
    task.title = title
    return task


def test_the_web_role_can_do_all_that_the_service_does(as_web):
    task = a_task()
    task.title = "Two"
    task.save()
    Task.objects.filter(pk=task.pk).update(priority="high")
    Task.objects.bulk_create([Task(title="child", parent=task), Task(title="child", parent=task)])
    rows = list(Task.objects.filter(parent=task))
    for row in rows:
        row.status = "completed"
    Task.objects.bulk_update(rows, ["status"])
    key = task.pk
    task.refresh_from_db()
    again = Task(pk=key, title="again")
    with transaction.atomic():
        task.delete()
        again.save(force_insert=True)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_task SET title = 'raw' WHERE id = %s", [key])
    made = [json.loads(bytes(row.payload)) for row in waiting(key)]
    assert [(event["type"], int(event["sequence"])) for event in made] == [
        ("task.created", 1), ("task.updated", 2), ("task.updated", 3), ("task.deleted", 4), ("task.created", 5), ("task.updated", 6)
    ]  # fmt: skip
    for row in rows:
        assert [json.loads(bytes(r.payload))["type"] for r in waiting(row.pk)] == ["task.created", "task.updated", "task.deleted"]


def test_the_web_role_does_with_comments_and_watchers_what_the_service_does(as_web):
    task = a_task()
    ana = task.assignee
    comment, watcher = Comment.objects.create(task=task, author=ana, body="One"), Watcher.objects.create(task=task, user=ana)
    comment.body = "Two"
    comment.save()
    Comment.objects.filter(pk=comment.pk).update(body="Three")
    Watcher.objects.get(pk=watcher.pk).delete()
    Comment.objects.get(pk=comment.pk).delete()
    cascaded = Comment.objects.create(task=task, author=ana, body="Four")
    with context.use(Context(actor=Actor("7", "ana", "user", "tok"), request_id="req-7", reason="why")):
        task.delete()
    for row, actions in ((comment, "created updated updated deleted"), (watcher, "created deleted"), (cascaded, "created deleted")):
        made = [json.loads(bytes(r.payload)) for r in waiting(row.pk)]
        assert [event["type"] for event in made] == [f"{row.subject_type}.{action}" for action in actions.split()]
    said = {name: made[-1].get(name) for name in ("actorid", "actortype", "authid", "requestid", "reason")}
    assert said == {"actorid": "7", "actortype": "user", "authid": "tok", "requestid": "req-7", "reason": "why"}


def change_and_tell(session, comment: Comment, subject_id: str, **forgery) -> None:
    """Raw SQL that changes a comment, and its event as the web role writes it, with something else in the document."""
    comment.version, comment.updated_at = session.execute(
        "UPDATE tasks_comment SET body = 'Two' WHERE id = %s RETURNING version, updated_at", [comment.pk]
    ).fetchone()
    comment.body = "Two"
    key, payload = events.build(
        subject_type="comment", subject_id=subject_id, action="updated", version=comment.version, moment=comment.updated_at,
        task_id=comment.task_id, document=Comment.documents([comment])[0] | forgery, changed={},
        attributes={"actorid": "7", "actorname": "ana", "actortype": "user"},
    )  # fmt: skip
    session.execute(INSERT, (key, "comment", subject_id, comment.version, comment.task_id, payload))


@pytest.mark.parametrize(
    "forgery",
    [
        {"body": "Nothing"},
        {"author": {"id": "999", "name": "bo"}},
        {"task": str(uuid.UUID(int=7))},
        {"created_at": "2026-01-01T00:00Z"},
    ],
    ids=["body", "author", "task", "time"],
)
def test_an_event_of_a_comment_that_says_something_else_is_refused(stolen, forgery):
    task = a_task()
    comment = Comment.objects.create(task=task, author=task.assignee, body="One")
    with pytest.raises(IntegrityConstraintViolation, match="its data are not the row"), stolen.transaction():
        change_and_tell(stolen, comment, str(comment.pk), **forgery)


@pytest.mark.parametrize(
    ("document", "refusal"),
    [({}, None), ({"name": "feature"}, "its data"), ({"colour": "#000000"}, "its data"), ({"description": "x"}, "its data")],
    ids=["the truth", "another name", "another colour", "another description"],
)
def test_an_event_of_a_label_says_what_the_row_is(stolen, document, refusal):
    label = Label(name=f"bug {uuid.uuid4()}")
    with stolen.transaction(force_rollback=True):
        statement = "INSERT INTO tasks_label (id, name) VALUES (%s, %s) RETURNING version, updated_at"
        label.version, label.updated_at = stolen.execute(statement, [label.pk, label.name]).fetchone()
        subject = {"subject_type": "label", "subject_id": str(label.pk), "version": 1, "task_id": None}
        key, payload = events.build(
            **subject, action="created", moment=label.updated_at, document=label.document() | document, changed={},
            attributes={"actorid": "7", "actorname": "ana", "actortype": "user"},
        )  # fmt: skip
        if refusal is None:
            stolen.execute(INSERT, (key, *subject.values(), payload))
        else:
            with pytest.raises(IntegrityConstraintViolation, match=refusal):
                stolen.execute(INSERT, (key, *subject.values(), payload))


def test_a_true_event_is_taken_once(stolen):
    task = a_task()
    with stolen.transaction():
        stolen.execute(INSERT, told(change(stolen, task, "Two")))
    with pytest.raises(UniqueViolation), stolen.transaction():
        change(stolen, task, "Three")
        stolen.execute(INSERT, told(task))
        stolen.execute(INSERT, told(task))


FORGERIES = {
    "another title": {"document": {"title": "Nothing"}},
    "another status": {"document": {"status": "completed"}},
    "other labels": {"document": {"labels": []}},
    "no assignee": {"document": {"assignee": None}},
    "another time in the row": {"document": {"updated_at": "2026-01-01T00:00:00.000000Z"}},
    "no document": {"data": {"changes": {}, "nonce": "0"}},
    "another version": {"version": 9},
    "an earlier version": {"version": 1},
    "no version": {"version": None},
    "another task": {"task_id": uuid.UUID(int=7)},
    "no task": {"task_id": None},
    "another subject": {"subject": "task/7"},
    "another type": {"type": "task.deleted"},
    "a creation": {"type": "task.created"},
    "another time": {"time": "2026-01-01T00:00:00.000000Z"},
    "another source": {"source": "/elsewhere"},
    "another specification": {"specversion": "2.0"},
    "the database as actor": {"actortype": "database"},
    "a role as actor": {"actorid": "db:postgres"},
    "no actor": {"actorid": None, "actortype": None},
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_an_event_that_says_something_else_is_refused(stolen, forgery):
    task = a_task()
    with pytest.raises(IntegrityConstraintViolation) as refused, stolen.transaction():
        change(stolen, task, "Two")
        stolen.execute(INSERT, told(task, **FORGERIES[forgery]))
    assert refused.value.diag.constraint_name == "tasks_outbox_is_true"
    task.refresh_from_db()
    assert (task.title, task.version) == ("One", 1)  # the change went with it


def test_an_event_of_a_subject_in_another_spelling_is_refused(stolen):
    """It would be one of a second subject, with a history of its own."""
    task = a_task()
    with pytest.raises(IntegrityConstraintViolation, match="this transaction made no such change"), stolen.transaction():
        stolen.execute(INSERT, told(change(stolen, task, "Two"), subject_id=str(task.pk).upper()))
    comment = Comment.objects.create(task=task, author=task.assignee, body="One")
    with pytest.raises(IntegrityConstraintViolation, match="this transaction made no such change"), stolen.transaction():
        change_and_tell(stolen, comment, str(comment.pk).upper())


def test_the_event_of_another_payload_is_refused(stolen):
    task = a_task()
    with pytest.raises(CheckViolation), stolen.transaction():
        change(stolen, task, "Two")
        stolen.execute(INSERT, (uuid.uuid4(), *told(task)[1:]))


@pytest.mark.parametrize(
    ("kind", "subject"), [("task", str(uuid.UUID(int=1))), ("audit.dead_letter", "1"), ("login", "7"), ("auth_user", "1")]
)
def test_an_event_without_a_change_is_refused(stolen, kind, subject):
    task = a_task()
    for version in (1, None):
        with pytest.raises(IntegrityConstraintViolation, match="this transaction made no such change"):
            stolen.execute(INSERT, told(task, subject_type=kind, subject_id=subject, version=version))


def test_a_change_of_another_transaction_gets_no_second_event(stolen, as_web):
    """Also not after an UPDATE that changes nothing, and from a transaction that began before that change."""
    task = a_task()
    with as_web.connect(WEB) as early:
        early.execute("SELECT 1")
        change(stolen, task, "Two")
        with as_web.django_as(WORKER):
            record(messages(waiting(task.pk)))
            assert not waiting(task.pk)
        early.execute("UPDATE tasks_task SET title = title WHERE id = %s", [task.pk])
        with pytest.raises(IntegrityConstraintViolation, match="this transaction made no such change"):
            early.execute(INSERT, told(task))


def test_a_change_without_its_event_has_it_all_the_same(stolen):
    task = a_task()
    with stolen.transaction():
        stolen.execute("SET CONSTRAINTS ALL DEFERRED")
        change(stolen, task, "Two")
    assert [row.version for row in waiting(task.pk)] == [1, 2]
    assert json.loads(bytes(waiting(task.pk)[1].payload))["actorid"] == f"db:{stolen.info.user}"


def test_what_is_deleted_is_told_as_it_was(stolen):
    task = a_task()
    another = {"task_id": uuid.UUID(int=7), "taskid": str(uuid.UUID(int=7))}

    def delete_and_tell(**other) -> None:
        with stolen.transaction():
            stolen.execute("DELETE FROM tasks_task WHERE id = %s", [task.pk])
            version, moment = stolen.execute(
                "SELECT version, deleted_at FROM tasks_tombstone WHERE subject_id = %s", [str(task.pk)]
            ).fetchone()
            written = dict(zip(COLUMNS.split(", "), told(task, "deleted", **other), strict=True))
            event = json.loads(written["payload"]) | {"sequence": f"{version:020d}", "time": events.rfc3339(moment)}
            stolen.execute(INSERT, [*(written | {"version": version, "payload": events.canonical(event)}).values()])

    for other in ({"document": {"title": "Harmless"}}, another):
        with pytest.raises(IntegrityConstraintViolation, match="the row was another when it was deleted"):
            delete_and_tell(**other)
    delete_and_tell()
    assert [row.version for row in waiting(task.pk)] == [1, 2]


STATEMENTS = {
    "delete": "DELETE FROM tasks_outbox",
    "payload": "UPDATE tasks_outbox SET payload = ''",
    "publish": "UPDATE tasks_outbox SET published_at = now()",
    "hold": "UPDATE tasks_outbox SET held_at = now(), held_reason = 'x'",
    "lock": "SELECT FROM tasks_outbox FOR UPDATE",
    "lock table": "LOCK TABLE tasks_outbox IN SHARE MODE",
    "truncate": "TRUNCATE tasks_outbox CASCADE",
    "published from the start": f"INSERT INTO tasks_outbox ({COLUMNS}, published_at) SELECT uuidv7(), 'x', 'x', 1, NULL, '', now()",
    "held from the start": f"INSERT INTO tasks_outbox ({COLUMNS}, held_at) SELECT uuidv7(), 'x', 'x', 1, NULL, '', now()",
    "a number of its own": f"INSERT INTO tasks_outbox (id, {COLUMNS}) VALUES (1, uuidv7(), 'x', 'x', 1, NULL, '')",
    "an entry": "INSERT INTO task_audit_log (seq) VALUES (1)",
    "the head": "UPDATE audit_log SET size = 0",
    "the head's lock": "SELECT FROM audit_log FOR UPDATE",
    "a partition": "SELECT audit_ensure_partition(99999999)",
    "a tombstone": "DELETE FROM tasks_tombstone",
    "a dead letter": "DELETE FROM audit_dead_letter",
    "triggers": "ALTER TABLE tasks_task DISABLE TRIGGER taskpulse_4_capture",
    "the check's trigger": "ALTER TABLE tasks_outbox DISABLE TRIGGER taskpulse_true",
    "replica": "SET session_replication_role = 'replica'",
    "replica, for later": "ALTER ROLE CURRENT_USER SET session_replication_role = 'replica'",
    "another role": "SET ROLE pg_write_all_data",
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_what_waits_and_what_is_recorded_is_out_of_reach(stolen, statement):
    a_task()
    with pytest.raises(InsufficientPrivilege, match=r"permission denied|must be owner"), stolen.transaction():
        stolen.execute(STATEMENTS[statement])


def test_no_trigger_of_ours_works_for_a_table_of_theirs(stolen, as_web):
    """A SECURITY DEFINER function that anybody may execute could be hung on a temporary table, and would write there."""
    with as_web.connect(OWNER, autocommit=True) as session:
        session.execute(f"GRANT TEMPORARY ON DATABASE {as_web.name} TO {as_web.names[WEB]}")
    try:
        with as_web.connect(WEB, autocommit=True) as session:
            session.execute("CREATE TEMPORARY TABLE fake (id uuid, version bigint, updated_at timestamptz, changed_in xid8)")
            for function in ("taskpulse_capture('task', 'task_document', 'id')", "taskpulse_decide('task')"):
                with pytest.raises(InsufficientPrivilege, match="permission denied for function"):
                    session.execute(f"CREATE TRIGGER t BEFORE INSERT ON fake FOR EACH ROW EXECUTE FUNCTION {function}")
    finally:
        with as_web.connect(OWNER, autocommit=True) as session:
            session.execute(f"REVOKE TEMPORARY ON DATABASE {as_web.name} FROM {as_web.names[WEB]}")


def told_by_setting(session, task, **attributes) -> dict:
    with session.transaction():
        session.execute("SELECT set_config('taskpulse.context', %s, true)", [json.dumps(attributes)])
        session.execute("UPDATE tasks_task SET title = title || '.' WHERE id = %s", [task.pk])
    return json.loads(bytes(waiting(task.pk)[-1].payload))


BO = {"actorid": "8", "actorname": "bo", "actortype": "user", "authid": "tok_8", "reason": "why"}


def test_the_capture_s_setting_says_no_more_than_the_role_may_write_itself(stolen, as_web):
    task = a_task()
    assert told_by_setting(stolen, task, **BO).items() >= BO.items()
    itself = {"actorid": f"db:{stolen.info.user}", "actorname": stolen.info.user, "actortype": "database", "reason": "why"}
    for other in (
        {"actortype": "database"},
        {"actorid": "db:postgres"},
        {"actortype": "root"},
        {"actorid": ""} and {"actortype": ""},
    ):
        event = told_by_setting(stolen, task, **(BO | other))
        assert event.items() >= itself.items()
        assert "authid" not in event
    assert told_by_setting(stolen, task, reason="why").items() >= itself.items()


def test_a_role_without_the_outbox_speaks_for_itself_alone(as_web):
    """A person with a role of her own who may change tasks, at psql."""
    task = a_task()
    name = f"{as_web.names[WEB]}_ana"
    as_web.run("CREATE ROLE {} LOGIN", name)
    try:
        with as_web.connect(OWNER, autocommit=True) as session:
            session.execute(f"GRANT CONNECT ON DATABASE {as_web.name} TO {name}")
            session.execute(f"GRANT USAGE ON SCHEMA public TO {name}")
            session.execute(f"GRANT SELECT, UPDATE ON tasks_task TO {name}")
        with psycopg.connect(as_web.url(WEB), user=name, password="", autocommit=True) as session:
            event = told_by_setting(session, task, **BO)
        assert (event["actorid"], event["actortype"], event["reason"]) == (f"db:{name}", "database", "why")
    finally:
        with as_web.connect(None, autocommit=True) as session:
            session.execute(f"DROP OWNED BY {name}")
        as_web.run("DROP ROLE {}", name)


def test_held_rows_are_released_and_dead_letters_discarded_with_a_trace(as_web):
    task = a_task()
    with as_web.django_as(WORKER):
        OutboxEvent.objects.filter(subject_id=str(task.pk)).update(
            held_at="2026-01-01T00:00Z", held_reason="why", published_at=None
        )
        record([message(b"no event")])
        with pytest.raises(DatabaseError, match="released by tasks_outbox_release"):
            OutboxEvent.objects.filter(subject_id=str(task.pk)).update(held_at=None, held_reason=None)
    (row,) = waiting(task.pk)
    with context.use(Context(actor=Actor("7", "ana", "user"), request_id="req-0")):
        assert outbox.release([row.pk, row.pk + 1]) == 1
        assert outbox.release([row.pk]) == 0
    (released,) = OutboxEvent.objects.filter(subject_type="audit.held")
    assert json.loads(bytes(released.payload))["actorname"] == "ana"
    (row,) = waiting(task.pk)
    assert (row.held_at, row.held_reason, row.published_at) == (None, None, None)

    from audit.dead_letter_acts import discard

    letter = DeadLetter.objects.get()
    with context.use(Context(actor=Actor("7", "ana", "user"), request_id="req-1", reason="looked at it")):
        assert discard([letter.pk]) == 1
        assert discard([letter.pk]) == 0
    event = json.loads(bytes(OutboxEvent.objects.get(subject_type="audit.dead_letter").payload))
    assert (event["type"], event["actorid"], event["requestid"], event["reason"]) == (
        "audit.dead_letter.discarded", "7", "req-1", "looked at it"
    )  # fmt: skip
    assert event["data"]["audit.dead_letter"]["value_digest"] == bytes(letter.value_digest).hex()


def test_the_worker_records_and_the_auditor_reads(as_web):
    task = a_task()
    with as_web.django_as(WORKER):
        record(messages(waiting()))
        assert not waiting(task.pk)
        with pytest.raises(Exception, match="permission denied for table tasks_task"):
            list(Task.objects.all())
    with as_web.django_as(AUDITOR):
        assert assert_log_is_whole() >= 1
