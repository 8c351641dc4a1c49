"""The console's pages of the audit log, the outbox and the dead letters."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from audit import admin_entries, dead_letters
from audit.models import DeadLetter, Entry
from tasks import context, outbox
from tasks.models import OutboxEvent, Task
from tests.console_pages import LETTERS, LOG, OUTBOX, Console
from tests.recording import message, messages, record, recorded, task_with_versions, waiting

pytestmark = pytest.mark.django_db


def hold(reason: str, **chosen) -> int:
    return OutboxEvent.objects.filter(**chosen).update(held_at=timezone.now(), held_reason=reason, published_at=timezone.now())


def test_an_entry_reads_as_before_and_after_with_its_proof():
    task = task_with_versions(2, labels=["x"])
    record(messages(waiting()))
    entry = Entry.objects.get(version=2)
    html = Console("auditor").get(f"{LOG}{entry.seq}/change/").content.decode()
    assert 'class="tp-was">version 1</del>' in html
    assert 'class="tp-is">version 2</ins>' in html
    assert bytes(entry.digest).hex() in html
    assert bytes(entry.leaf_hash).hex() in html
    assert "matches the event" in html
    assert "Canonical JSON" in html
    assert f"/admin/tasks/task/{task.pk}/history/" in html


def test_the_log_lists_values_as_people_write_them():
    task = Task.objects.create(title="One", labels=["a", "b"])
    task.labels, task.status, task.due_at = ["b", "c"], "in_progress", datetime(2027, 3, 1, 12, tzinfo=UTC)
    task.save()
    record(messages(waiting()))
    html = Console("auditor").get(LOG).content.decode()
    assert '<b>labels</b> <del class="tp-was">a, b</del> → <ins class="tp-is">b, c</ins>' in html
    assert '<b>status</b> <del class="tp-was">pending</del> → <ins class="tp-is">in progress</ins>' in html
    assert '<b>due at</b> <del class="tp-was">—</del> → <ins class="tp-is">2027-03-01 12:00:00 UTC</ins>' in html


def test_an_entry_whose_event_was_altered_says_so():
    Task.objects.create(title="One")
    record(messages(waiting()))
    with connection.cursor() as cursor:  # as somebody would who owns the database
        cursor.execute("ALTER TABLE task_audit_log DISABLE TRIGGER audit_append_only")
        cursor.execute("UPDATE task_audit_log SET event_data = jsonb_set(event_data, '{actorname}', '\"eve\"')")
    html = Console("auditor").get(f"{LOG}{Entry.objects.get().seq}/change/").content.decode()
    assert "does NOT match the event" in html


def test_the_log_is_searched_by_exact_id_and_filtered():
    ana = User.objects.create(username="ana")
    with context.use(context.Context(actor=context.Actor.of_user(ana))):
        first = task_with_versions(3)
    other = Task.objects.create(title="other")
    other.delete()
    record(messages(waiting()))
    entries = list(Entry.objects.order_by("-seq"))
    console = Console("auditor")
    assert console.rows(LOG) == entries
    assert console.rows(f"{LOG}?q={entries[1].event_id}") == [entries[1]]
    assert console.rows(f"{LOG}?q={first.pk}") == entries[2:]
    assert console.rows(f"{LOG}?q={ana.pk}") == entries[2:]
    assert console.rows(f"{LOG}?q=ana") == entries[2:]
    assert console.rows(f"{LOG}?q=%23{entries[3].seq}") == [entries[3]]
    assert console.rows(f"{LOG}?q={uuid.uuid4()}") == []
    assert console.rows(f"{LOG}?q=an") == []
    assert console.rows(f"{LOG}?type=task.deleted") == entries[:1]
    assert console.rows(f"{LOG}?actor_type=user") == entries[2:]
    assert console.rows(f"{LOG}?actor_type=user&type=task.created") == entries[-1:]
    assert console.rows(f"{LOG}?within=hour") == entries
    assert [name for name, _, _ in console.rows(f"{LOG}?q={first.pk}")[0].changed] == ["title"]


def test_a_search_without_an_index_reads_a_window_and_goes_on_from_there(monkeypatch):
    monkeypatch.setattr(admin_entries, "WINDOW", 10)
    Task.objects.create(title="first").delete()
    task_with_versions(25)
    record(messages(waiting()))
    [deleted] = Entry.objects.filter(event_type="task.deleted")
    console, path, pages = Console("auditor"), f"{LOG}?type=task.deleted", []
    while path:
        changelist = console.get(path).context["cl"]
        pages.append(changelist.result_list)
        path = changelist.older and LOG + changelist.older
    assert pages == [[], [], [deleted]]


def test_nobody_changes_the_log_or_the_outbox_from_the_console():
    task_with_versions(2)
    record(messages(waiting())[:1])
    entry, row = Entry.objects.get(), OutboxEvent.objects.get()
    console = Console(is_superuser=True)
    for page, key in ((LOG, entry.seq), (OUTBOX, row.pk)):
        console.get(f"{page}add/", 403)
        console.get(f"{page}{key}/delete/", 403)
        assert console.client.post(f"{page}{key}/delete/", {"post": "yes"}).status_code == 403
        assert console.client.post(f"{page}{key}/change/", {"version": "9"}).status_code == 403
        console.act(page, "delete_selected", [key], post="yes")
    assert (Entry.objects.count(), OutboxEvent.objects.count()) == (1, 1)


def test_held_rows_come_first_on_all_pages():
    task_with_versions(60)
    ids = list(OutboxEvent.objects.order_by("id").values_list("pk", flat=True))
    held = [*ids[10:14], ids[57]]
    hold("too long", pk__in=held)
    expected = held + [key for key in ids if key not in held]
    console = Console("admin")
    first = console.get(OUTBOX).context["cl"]
    assert [row.pk for row in first.result_list] == expected[:50]
    second = console.get(OUTBOX + first.older).context["cl"]
    assert [row.pk for row in second.result_list] == expected[50:]
    back = console.get(OUTBOX + second.newer).context["cl"]
    assert [row.pk for row in back.result_list] == expected[:50]
    assert [row.pk for row in console.rows(f"{OUTBOX}?state=held")] == held


def test_the_outbox_says_how_much_how_old_and_why(monkeypatch):
    monkeypatch.setattr(outbox, "COUNTED", 3)
    task_with_versions(2)
    hold("a value that the log refuses", version=1)
    state = Console("admin").get(OUTBOX).context["outbox"]
    assert (state["pending"], state["held"], state["reasons"]) == (2, 1, ["a value that the log refuses"])
    assert state["oldest_at"] == OutboxEvent.objects.get(version=1).created_at
    task_with_versions(20)
    assert outbox.state()["pending"] == 4  # counted no further


def test_release_lets_a_held_event_go_out_again():
    task = task_with_versions(3)
    hold("too long", version=1)
    console = Console("admin")
    rows = waiting()
    response = console.act(OUTBOX, "release", [row.pk for row in rows])
    assert "1 event released" in response.content.decode()
    released = OutboxEvent.objects.get(version=1)
    assert (released.held_at, released.held_reason, released.published_at) == (None, None, None)
    assert outbox.release([row.pk for row in rows]) == 0
    record(messages(waiting()))
    assert recorded(task.pk) == [(str(task.pk), 1), (str(task.pk), 2), (str(task.pk), 3)]


def test_dead_letters_are_shown_safely():
    bad = '<script>alert(1)</script> \u202e "ü"'.encode()
    record([
        message(bad, headers=[("h<b>", b"\xff\x00")]), message(bytes(range(256)) * 100, key=b"\xff"), message(None, key=None),
        message("é".encode() * 5_000),
    ])  # fmt: skip
    console = Console("auditor")
    text, binary, empty, long = (
        console.get(f"{LETTERS}{letter.pk}/change/").content.decode() for letter in DeadLetter.objects.order_by("id")
    )
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\u202e &quot;ü&quot;" in text
    assert "<script>alert" not in text
    assert "h&lt;b&gt;" in text
    assert "hex: ff 00" in text
    assert "hex: 00 01 02" in binary
    assert f"{25_600 - 4_000:,} more bytes" in binary
    assert "malformed" in empty
    assert "é" * 2_000 + "\n… 6,000 more bytes" in long


def test_the_dead_letters_say_how_many_and_how_old(monkeypatch):
    monkeypatch.setattr(dead_letters, "COUNTED", 3)
    console = Console("auditor")
    page = console.get(LETTERS)
    assert page.context["dead_letters"] == {"count": 0, "oldest_at": None}
    assert "<b>0</b><span>kept</span>" in page.content.decode()
    record([message(b"no event"), message(b"none either")])
    oldest = DeadLetter.objects.order_by("id").first()
    DeadLetter.objects.filter(pk=oldest.pk).update(received_at=timezone.now() - timedelta(days=3, hours=4, minutes=5))
    page = console.get(LETTERS).content.decode()
    assert "<b>2</b><span>kept</span>" in page
    assert "<b>3 d 4 h</b><span>age of the oldest</span>" in page
    record([message(f"number {n}".encode()) for n in range(20)])
    assert dead_letters.state()["count"] == 4  # counted no further


def test_discarding_is_itself_recorded():
    record([message(b"no event"), message(b"none either"), message(b"kept")])
    letters = list(DeadLetter.objects.order_by("id"))
    console = Console("admin")
    page = console.act(LETTERS, "delete_selected", [letter.pk for letter in letters[:2]])
    assert "Are you sure" in page.content.decode()
    assert DeadLetter.objects.count() == 3
    console.act(LETTERS, "delete_selected", [letter.pk for letter in letters[:2]], post="yes")
    assert list(DeadLetter.objects.all()) == letters[2:]
    events = [orjson.loads(bytes(row.payload)) for row in waiting()]
    assert [event["type"] for event in events] == ["audit.dead_letter.discarded"] * 2
    assert {event["actorname"] for event in events} == {console.user.username}
    assert events[0]["data"]["audit.dead_letter"]["value_digest"] == bytes(letters[0].value_digest).hex()
    record(messages(waiting()))
    assert Entry.objects.filter(event_type="audit.dead_letter.discarded").count() == 2
    console.get(LOG)
    assert len(console.rows(f"{LOG}?type=audit.")) == 2
    console.get(f"{LOG}{Entry.objects.first().seq}/change/")
    console.client.post(f"{LETTERS}{letters[2].pk}/delete/", {"post": "yes"})
    assert (DeadLetter.objects.count(), OutboxEvent.objects.count()) == (0, 1)


@pytest.mark.parametrize("page", [LOG, OUTBOX, LETTERS, "/admin/"])
def test_the_cost_of_a_page_does_not_grow_with_its_rows(page):
    console = Console("admin")

    def fill(count):
        for number in range(count):
            Task.objects.create(title=f"{number}", assignee=console.user)
        record(messages(waiting()[::2]) + [message(f"no event {number}".encode()) for number in range(count)])

    fill(10)
    few = console.queries(page)
    fill(90)
    many = console.queries(page)
    assert len(few) == len(many) <= 10
    assert not [sql for sql in many if "OFFSET" in sql or ("COUNT(" in sql.upper() and "LIMIT" not in sql)]
    loaded = ('"task_audit_log"."event_data",', '"audit_dead_letter"."value",', '"tasks_outbox"."payload"')
    assert not [sql for sql in many if any(column in sql for column in loaded)]


def test_the_dashboard_shows_what_waits_and_what_was_recorded():
    console = Console("admin")
    Task.objects.create(title="Mine", assignee=console.user)
    Task.objects.create(title="Done", assignee=console.user, status="completed")
    record([*messages(waiting()[:1]), message(b"no event"), message(json.dumps({"id": "x"}).encode())])
    shown = console.get("/admin/").context
    assert [task.title for task in shown["my_tasks"]] == ["Mine"]
    assert (shown["outbox"]["pending"], shown["log_size"]) == (1, 1)
    assert shown["dead_letters"] == [("malformed", 2)]
    assert [entry.task_name for entry in shown["last_entries"]] == ["Mine"]
