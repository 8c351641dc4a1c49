"""Erasure: a person's data leave every table, and the log is proved as before. Nothing else passes by that door."""

import gzip
import io
import json
import threading
import uuid
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit import erasure, redaction
from audit.export import Selection, bundle
from audit.models import Bundle, DeadLetter, Entry
from audit.verification import accounts
from tasks.context import Actor, Context, use
from tasks.models import Comment, OutboxEvent, Task, Watcher
from tests.api_client import Api, api
from tests.console_pages import LETTERS, LOG, TASKS, Console
from tests.offline import wrong_with
from tests.recording import add_outbox_row, assert_log_is_whole, message, messages, record, waiting
from tests.rewriting import disable_triggers
from tests.signed_log import Log

ASKED = ("--reason=Art. 17 GDPR", "--asked-by=case 118")
# Of each kind of data one that stands nowhere else. A short name, and one that JSON may escape.
NAMES = {"ana": "anañzq", "bob": "bobzq", "eve": "evezq"}


def redact(*arguments: str) -> dict:
    out = io.StringIO()
    call_command("redact_audit", *arguments, *ASKED, "--json", "--wait=0", stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())


def people() -> dict[str, User]:
    return {name: User.objects.create(username=username) for name, username in NAMES.items()}


def acting(user: User) -> Context:
    own = user.username
    return Context(
        actor=Actor.of_user(user, f"token-{own}"), client_ip=f"ip-{own}", request_id=f"request-{own}", reason=f"reason of {own}"
    )


def record_all() -> None:
    record(messages(waiting()))


def everything() -> str:
    """All that is in the database, bytes as text, what is compressed unpacked."""
    texts = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            for row in cursor.fetchall():
                texts += [f"{table}: {_text(value)}" for value in row]
    return "\n".join(texts)


def _text(value) -> str:
    if isinstance(value, memoryview | bytes):
        raw = bytes(value)
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        return raw.decode("utf-8", "replace")
    if isinstance(value, str) and value.startswith("[["):  # a dead letter's headers, in hexadecimal
        value = [[name, bytes.fromhex(raw or "").decode("utf-8", "replace")] for name, raw in json.loads(value)]
    return json.dumps(value, ensure_ascii=False, default=str)


def snapshot() -> dict[int, tuple]:
    columns = [field.attname for field in Entry._meta.fields]
    return {row[0]: tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in Entry.objects.values_list(*columns)}


def is_told_of(event, person: str) -> bool:
    """What the database decides, decided anew: by the person, or the person stands in it anywhere."""
    if isinstance(event, dict):
        here = event.get("actorid") == person or (event.get("id") == person and "name" in event)
        return here or any(is_told_of(part, person) for part in event.values())
    return isinstance(event, list) and any(is_told_of(part, person) for part in event)


# The property.

ACTS = st.tuples(
    st.sampled_from(["create", "assign", "rename", "release", "delete", "raw", "letter", "comment", "watch"]),
    st.sampled_from(sorted(NAMES)), st.sampled_from(sorted(NAMES)), st.integers(0, 3),
)  # fmt: skip


def perform(acts, who: dict[str, User]) -> list[Task]:
    tasks: dict[int, Task] = {}
    made = []
    for act, actor, other, slot in acts:
        task = tasks.get(slot)
        with use(acting(who[actor])):
            if act == "letter":
                forged = {"id": str(uuid.uuid4()), "actorname": who[other].username}
                record([message(json.dumps(forged, ensure_ascii=bool(slot)).encode() + b"\xff" * slot, key=None)])
            elif task is None:
                tasks[slot] = Task.objects.create(title=f"by {who[actor].username}", created_by=who[actor], assignee=who[other])
                made.append(tasks[slot])
            elif act == "comment":
                Comment.objects.create(task=task, author=who[other], body=f"by {who[actor].username}")
            elif act == "watch":
                Watcher.objects.get_or_create(task=task, user=who[other])
            elif act == "raw":
                Task.objects.filter(pk=task.pk)._raw_delete("default")
                del tasks[slot]
            elif act == "delete":
                Task.objects.get(pk=task.pk).delete()
                del tasks[slot]
            else:
                task = tasks[slot] = Task.objects.get(pk=task.pk)
                task.assignee = {"assign": who[other], "release": None}.get(act, task.assignee)
                task.description += who[actor].username if act == "rename" else ""
                task.save()
        connection.check_constraints()
    record_all()
    return made


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(ACTS, min_size=1, max_size=12), person=st.sampled_from(sorted(NAMES)), slot=st.none() | st.integers(0, 3))
def test_every_leaf_stays_and_the_data_go(db, acts, person, slot):
    with transaction.atomic():
        who = people()
        tasks = perform(acts, who)
        task = tasks[slot % len(tasks)] if slot is not None and tasks else None
        before = snapshot()
        letters = {letter.pk: bytes(letter.value) for letter in DeadLetter.objects.all()}
        told = {
            entry.seq for entry in Entry.objects.all()
            if (entry.task_id == task.pk if task else is_told_of(entry.event_data, str(who[person].pk)))
        }  # fmt: skip
        scope = [f"--task={task.pk}"] if task else [f"--actor={who[person].pk}"]
        preview = redact(*scope, "--dry-run")
        assert snapshot() == before
        result = redact(*scope)
        assert (result["entries"], preview["entries"], result["dead_letters"]) == (len(told), len(told), preview["dead_letters"])
        marked = {entry.seq for entry in Entry.objects.all() if redaction.accounted_by(entry.event_data)}
        assert marked == told
        after = snapshot()
        assert {seq: row for seq, row in after.items() if seq not in told} == {s: r for s, r in before.items() if s not in told}
        names = [field.attname for field in Entry._meta.fields]
        kept = [index for index, name in enumerate(names) if name not in (*redaction.CLEARED, "event_data")]
        assert {seq: [row[i] for i in kept] for seq, row in after.items()} == {s: [r[i] for i in kept] for s, r in before.items()}
        assert_log_is_whole()  # while its event waits
        record_all()
        assert assert_log_is_whole() == len(before) + bool(told or result["dead_letters"])
        for key, value in letters.items():
            is_told = not task and who[person].username in (value.decode("utf-8", "replace"), *_names_in(value))
            assert (bytes(DeadLetter.objects.get(pk=key).value) != value) == is_told
            assert (key in result["dead_letters"]) == is_told
        recorded = snapshot()
        assert redact(*scope) == {"dry_run": False, "entries": 0, "dead_letters": [], "first": None, "last": None}
        assert (snapshot(), waiting()) == (recorded, [])
        transaction.set_rollback(True)


def _names_in(value: bytes) -> list[str]:
    return [json.loads(value.rstrip(b"\xff"))["actorname"]]


def test_no_byte_of_a_person_is_left_in_any_table(db):
    """The account is renamed and the tasks are deleted first, as deploy/README.md says; all that is older is the log's."""
    who = people()
    own = NAMES["ana"]
    perform(
        [("create", "ana", "bob", 0), ("create", "bob", "ana", 1), ("create", "bob", "eve", 2), ("rename", "ana", "eve", 1)], who
    )
    for name in ("ana", "bob"):
        who[name].groups.add(Group.objects.get(name="member"))
        assert Api(who[name]).post({"title": "kept", "assignee": who["ana"].pk}, Idempotency_Key="retry").status_code == 201
    letters = [own.encode(), own.upper().encode() + b"\xff", json.dumps({"a": own}).encode(), b"\x00" + own.encode() + b"\x00"]
    record([message(value) for value in letters] + [message(b"x", key=own.encode()), message(b"y", headers=[("h", own.encode())])])
    record([message(json.dumps({"actorid": str(who["ana"].pk)}).encode()), message(own.encode() + b"x"), message(b"bobzq")])
    assert own in everything()
    log = Log()
    log.sign()
    with use(acting(who["bob"])):
        for task in Task.objects.all():
            task.delete()
    record_all()
    User.objects.filter(pk=who["ana"].pk).update(username="erased")
    result = redact(f"--actor={who['ana'].pk}")
    assert len(result["dead_letters"]) == 7
    record_all()
    left = [line for line in everything().splitlines() if own.lower() in line.lower() or json.dumps(own)[1:-1] in line]
    assert left == [f"audit_dead_letter: {own}x"]  # another word
    # Of others only what stood in an entry about her is gone.
    assert f"reason of {NAMES['bob']}" in everything()
    assert assert_log_is_whole() == Entry.objects.count()
    log.sign()
    report = log.verify()
    assert (report.findings, report.pinned) == ([], Entry.objects.count())
    assert wrong_with(list(bundle(Selection())), str(log.key.verifier)) is None


# It waits, while others write.


def test_it_waits_for_the_outbox_and_touches_no_row_of_it(db):
    who = people()
    actor = f"--actor={who['ana'].pk}"
    perform([("create", "ana", "bob", 0)], who)
    with use(acting(who["bob"])):
        Task.objects.update(description="once more", assignee=who["ana"])
    row = waiting()[0]
    with pytest.raises(CommandError, match="1 events that are concerned wait in the outbox: nothing is left half done"):
        redact(actor)
    OutboxEvent.objects.update(held_at=timezone.now(), held_reason="why")
    with pytest.raises(CommandError, match=r"1 of them held \(manage.py held\)"):
        redact(actor)
    assert not any(redaction.accounted_by(entry.event_data) for entry in Entry.objects.all())
    assert bytes(OutboxEvent.objects.get(pk=row.pk).payload) == bytes(row.payload)
    OutboxEvent.objects.update(held_at=None, held_reason=None)
    assert redact(f"--actor={who['eve'].pk}")["entries"] == 0  # hers is not concerned
    record_all()
    assert redact(actor)["entries"] == 2


def test_a_long_log_is_erased_in_steps(db, monkeypatch):
    monkeypatch.setattr(erasure, "WINDOW", 700)
    who = people()
    with use(acting(who["ana"])):
        Task.objects.bulk_create([Task(title=f"task {number}") for number in range(1_500)])
    with use(acting(who["bob"])):
        Task.objects.bulk_create([Task(title=f"task {number}") for number in range(300)])
    connection.check_constraints()
    record_all()
    Log().sign()
    records = [gzip.decompress(bytes(stored.records)) for stored in Bundle.objects.all()]
    assert len(records) == 7
    for personal in (*NAMES.values(), "task 1"):  # the leaves' records, which stay for ever
        assert not any(personal.encode() in record for record in records)
    assert redact(f"--actor={who['ana'].pk}")["entries"] == 1_500
    assert [len(event["data"]["audit"]["entries"]) for event in (json.loads(bytes(row.payload)) for row in waiting())] == [1, 1, 1]
    task = Task.objects.first()
    with connection.cursor() as cursor:
        raise_it = f"UPDATE tasks_task SET title = n::text WHERE id = '{task.pk}';"
        cursor.execute(f"DO $$ BEGIN FOR n IN 1..1100 LOOP {raise_it} END LOOP; SET CONSTRAINTS ALL IMMEDIATE; END $$")
    record_all()
    assert redact(f"--task={task.pk}")["entries"] >= 1_100
    assert len(waiting()) == 2
    record_all()
    assert_log_is_whole()


def test_writers_and_recorder_go_on_meanwhile(committed_db):
    who = people()
    for _ in range(5):
        perform([("create", "ana", "bob", 0), ("rename", "bob", "ana", 0), ("create", "bob", "eve", 1)], who)
    done, failed = threading.Event(), []

    def run(step):
        try:
            while not done.is_set():
                step()
        except Exception as error:
            failed.append(error)
        finally:
            connection.close()

    def write():
        with use(acting(who["ana"])):
            Task.objects.filter(created_by=who["ana"]).first().save()
            task = Task.objects.create(title="more", created_by=who["ana"])
        with use(acting(who["bob"])):
            Task.objects.create(title="of bob")
        done.wait(0.02)
        task.delete()

    threads = [threading.Thread(target=run, args=[step]) for step in (write, record_all)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            with use(Context(reason="asked for")):
                erasure.erase(erasure.Scope(actor=str(who["ana"].pk)), [], "case 118", wait=60)
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert not failed
    record_all()
    redact(f"--actor={who['ana'].pk}")
    record_all()
    assert assert_log_is_whole() == Entry.objects.count()
    assert NAMES["ana"] not in "".join(str(row) for row in snapshot().values())
    assert Entry.objects.filter(event_type="audit.redacted").count() >= 2
    assert not Log().verify().tampered
    assert "of bob" in everything()


# What people see.


@pytest.mark.django_db
def test_console_and_api_show_what_is_erased_and_never_fail():
    who = people()
    (task,) = perform([("create", "ana", "bob", 0), ("rename", "bob", "bob", 0), ("letter", "ana", "ana", 0)], who)
    user = str(who["ana"].pk)
    assert redact(f"--actor={user}") == {"dry_run": False, "entries": 2, "dead_letters": [DeadLetter.objects.get().pk]} | {
        "first": 1, "last": 2,
    }  # fmt: skip
    account = str(waiting()[0].event_id)
    for recorded in (False, True):
        if recorded:
            record_all()
        program, console = api(), Console("admin")
        history = program.get(f"/api/tasks/{task.pk}/history").json()
        assert [(entry["event_data"], entry["redacted_by"]) for entry in history] == [({"redacted": account}, account)] * 2
        assert [(entry["actor"], entry["changes"], entry["reason"]) for entry in history] == [
            ({"id": str(who[name].pk), "name": None, "type": None}, {}, None) for name in ("bob", "ana")
        ]
        for path in (
            "/api/audit",
            f"/api/audit?actor={user}",
            f"/api/audit?task={task.pk}",
            f"/api/audit/{history[0]['event_id']}",
        ):
            response = program.get(path)
            assert (response.status_code, "redacted" in response.content.decode()) == (200, True), path
        assert program.get(f"/api/tasks/{task.pk}?version=1").status_code == 410
        pages = [LOG, f"{LOG}?q={user}", f"{LOG}?q={task.pk}", f"{LOG}1/change/", f"{LOG}2/change/", "/admin/"]
        pages += [f"{TASKS}{task.pk}/change/", f"{TASKS}{task.pk}/history/", f"{LETTERS}{DeadLetter.objects.get().pk}/change/"]
        for page in pages:
            html = console.get(page).content.decode()
            assert page == "/admin/" or "redacted" in html, page
            assert NAMES["ana"] not in html or page.startswith(TASKS), page  # the task itself still names who made it
            assert "does NOT match" not in html
    assert account in console.get(f"{LOG}1/change/").content.decode()
    assert "case 118" in console.get(f"{LOG}3/change/").content.decode()


# Nothing else passes.


@pytest.fixture
def erased(db) -> OutboxEvent:
    """Three entries, the first of them erased; its event, which waits still."""
    who = people()
    perform([("create", "ana", "ana", 0), ("create", "bob", "bob", 1), ("rename", "bob", "bob", 1)], who)
    redact(f"--actor={who['ana'].pk}")
    return waiting()[0]


MARK = "event_data = jsonb_build_object('redacted', '{event}')"
CLEAR = "actor_name = NULL, actor_type = NULL, request_id = NULL"


@pytest.mark.parametrize("role", ["origin", "replica"])
@pytest.mark.parametrize(
    "change",
    [
        f"{MARK}, {CLEAR} WHERE seq = 2",  # its event names another entry
        f"{MARK}, {CLEAR} WHERE seq = 1",  # again
        'event_data = \'{{"specversion": "1.0"}}\' WHERE seq = 1',  # back
        f"event_data = jsonb_build_object('redacted', '{uuid.UUID(int=7)}'), {CLEAR} WHERE seq = 2",  # no such event
        f"event_data = jsonb_build_object('redacted', (SELECT event_id FROM task_audit_log WHERE seq = 3)), {CLEAR} WHERE seq = 2",
        "actor_name = NULL WHERE seq = 2",
        "actor_name = 'eve' WHERE seq = 1",
    ],
)
def test_no_other_change_of_an_entry_passes(erased, change, role):
    before = snapshot()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL session_replication_role = {role}")
        with pytest.raises(DatabaseError, match="is refused: the audit log is append-only"), transaction.atomic():
            cursor.execute("UPDATE task_audit_log SET " + change.format(event=erased.event_id))
    assert snapshot() == before


@pytest.mark.parametrize(
    "more",
    [
        "actor_id = NULL",
        "digest = ''",
        "leaf_hash = ''",
        "processed_at = now()",
        "actor_name = 'eve'",
        "request_id = 'x'",
        "seq = 9",
    ],
)
def test_an_erasure_changes_nothing_else(erased, more):
    """With an event that names the entry, as the owner could write one."""
    event = json.loads(bytes(erased.payload))
    event["id"] = str(uuid.UUID(int=8))
    event["data"]["audit"]["entries"] = [[2, 2]]
    add_outbox_row(json.dumps(event).encode(), event_id=event["id"], subject_type="audit", subject_id="log", version=None)
    change = f"UPDATE task_audit_log SET {MARK}".format(event=event["id"])
    cleared = ", ".join(f"{column} = NULL" for column in redaction.CLEARED if column not in more)
    with connection.cursor() as cursor:
        with pytest.raises(DatabaseError, match="is refused"), transaction.atomic():
            cursor.execute(f"{change}, {cleared}, {more} WHERE seq = 2")
        cursor.execute(f"{change}, {CLEAR} WHERE seq = 2")
    assert Entry.objects.get(seq=2).event_data == redaction.marker(event["id"])


def test_the_account_of_an_erasure_is_never_erased(erased):
    record_all()
    assert redact("--actor=system:taskpulse")["entries"] == 0
    with pytest.raises(DatabaseError, match="name an actor or a task"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT * FROM audit_entries_concerned(NULL, NULL, 0, 9, 9)")
    entry = Entry.objects.get(event_type="audit.redacted")
    event = {**entry.event_data, "id": str(uuid.UUID(int=9))}
    event["data"]["audit"]["entries"] = [[entry.seq, entry.seq]]
    add_outbox_row(json.dumps(event).encode(), event_id=event["id"], subject_type="audit", subject_id="log", version=None)
    with pytest.raises(DatabaseError, match="is refused"), connection.cursor() as cursor:
        cursor.execute(f"UPDATE task_audit_log SET {MARK}, {CLEAR} WHERE seq = {entry.seq}".format(event=event["id"]))


def test_a_marker_without_its_event_is_tampering(erased):
    log = Log()
    assert not log.verify().tampered  # its event waits
    OutboxEvent.objects.filter(pk=erased.pk).delete()  # as the owner could
    assert [(finding.check, finding.seq) for finding in log.verify().findings] == [("entries", 1)]


def test_an_event_that_waits_accounts_for_an_erasure_for_a_while_and_says_so(erased):
    """The owner could put it into the outbox and keep it there: so it must come into the log, or count no more."""
    log = Log()
    (said,) = [text for text in log.verify().not_proved if "audit.redacted" in text]
    assert "1 erased entries" in said
    assert f"{accounts.WAITS} seconds" in said
    row = OutboxEvent.objects.filter(pk=erased.pk)
    disable_triggers("tasks_outbox")
    for change in (
        {"created_at": timezone.now() - timedelta(seconds=accounts.WAITS + 1)},
        {"created_at": timezone.now() + timedelta(days=1)},
        {"held_at": timezone.now(), "held_reason": "x"},
    ):
        with transaction.atomic():
            row.update(**change)
            (found,) = log.verify().findings
            assert (found.check, found.seq, "waits in the outbox" in found.detail) == ("entries", 1, True), str(found)
            transaction.set_rollback(True)
    row.update(created_at=timezone.now() - timedelta(seconds=accounts.WAITS - 60))
    assert not log.verify().tampered
    record_all()
    report = log.verify()
    assert not report.tampered
    assert not [text for text in report.not_proved if "audit.redacted" in text]


# What the command says.


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*ASKED], "one of the arguments --actor --task is required"),
        (["--actor=1", "--reason=x"], "--asked-by"),
        (["--actor=1", "--asked-by=x"], "--reason"),
        (["--actor=1", "--asked-by= ", "--reason=x"], "--asked-by: expected some text"),
        (["--task=x", *ASKED], "--task: expected the id of a task"),
        (["--actor=77", "--reason=Bobzq asked", "--asked-by=x"], "must not name the person"),
    ],
)
def test_a_wrong_call_is_refused(arguments, said):
    User.objects.create(pk=77, username="bobzq")
    with pytest.raises(CommandError, match=said):
        call_command("redact_audit", *arguments)


def test_the_database_wants_a_reason_and_who_asked(erased):
    for reason, asked_by in ((None, "case 1"), ("why", " ")):
        with pytest.raises(DatabaseError, match="say who asked for it, and why"), use(Context(reason=reason)), transaction.atomic():
            erasure.erase(erasure.Scope(actor="1"), [], asked_by, 0)


def test_what_the_tables_still_hold_is_said(db):
    who = people()
    perform([("create", "ana", "ana", 0), ("comment", "ana", "ana", 0), ("watch", "bob", "ana", 0)], who)
    err, out = io.StringIO(), io.StringIO()
    call_command("redact_audit", f"--actor={who['ana'].pk}", *ASKED, "--dry-run", stdout=out, stderr=err)
    assert out.getvalue() == "3 entries (from 1 to 3) and 0 dead letters would be erased\n"
    assert "the account is still there, and 1 tasks are assigned" in err.getvalue()
    assert "1 comments by this person and 1 tasks watched are still in the tables" in err.getvalue()
    assert NAMES["ana"] not in err.getvalue() + out.getvalue()
    call_command("redact_audit", f"--task={Task.objects.get().pk}", *ASKED, stdout=out, stderr=err)
    assert "the task itself is still there, with 1 comments" in err.getvalue()
    event = json.loads(bytes(waiting()[0].payload))
    assert (event["reason"], event["data"]["audit"]["asked_by"], event["type"]) == ("Art. 17 GDPR", "case 118", "audit.redacted")
