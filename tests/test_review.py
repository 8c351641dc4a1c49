"""What people do with held events and dead letters: each act leaves its event, from the console and from the command line."""

import base64
import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from audit.models import DeadLetter, Entry
from tasks import outbox
from tasks.context import Actor, Context, use
from tasks.models import OutboxEvent, Task
from tests.console_pages import LETTERS, OUTBOX, Console
from tests.recording import assert_log_is_whole, message, messages, record, task_with_versions, versions, waiting

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
RAW = b'{"id": "\xff\x1b[31m'


def hold(**chosen) -> list[int]:
    rows = OutboxEvent.objects.filter(**chosen)
    rows.update(held_at=timezone.now(), held_reason="too long")
    return list(rows.order_by("id").values_list("pk", flat=True))


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def acts(kind: str) -> list[dict]:
    return [json.loads(bytes(row.payload)) for row in waiting() if row.subject_type == kind]


@pytest.mark.django_db
def test_a_release_leaves_an_event_for_each_row_and_keeps_the_order():
    task = task_with_versions(4)
    third, second = hold(version__in=[2, 3])[::-1]
    with use(Context(actor=Actor("7", "ana", "user"), reason="mended")):
        assert outbox.release([third, second, 10**12]) == 2
        assert outbox.release([third, second]) == 0
    told = acts("audit.held")
    assert [(event["type"], event["actorname"], event["reason"]) for event in told] == [
        ("audit.held.released", "ana", "mended")
    ] * 2
    assert [event["data"]["audit.held"]["version"] for event in told] == [2, 3]
    assert told[0]["data"]["audit.held"]["reason"] == "too long"
    assert told[0]["subject"] == f"audit.held/{OutboxEvent.objects.get(pk=second).event_id}"
    record(messages(waiting())[::-1])
    assert versions(task.pk) == [1, 2, 3, 4]
    assert assert_log_is_whole() == 6


def test_two_who_release_at_once_leave_one_event(committed_db):
    Task.objects.create(title="One")
    (held,) = hold()
    second = []

    def release_too():
        with psycopg.connect(committed_db, autocommit=True) as session:
            second.append(session.execute("CALL tasks_outbox_release(%s)", [[held]]).fetchone()[0])

    with psycopg.connect(committed_db) as first:
        assert first.execute("CALL tasks_outbox_release(%s)", [[held]]).fetchone()[0] == 1
        thread = threading.Thread(target=release_too)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()  # it waits for the first to commit
    thread.join(20)
    assert second == [0]
    assert len(acts("audit.held")) == 1


@pytest.mark.django_db
def test_held_events_are_listed_shown_and_released_by_the_command(capsysbinary):
    task_with_versions(3)
    first, second = hold(version__in=[1, 2])
    lines = [json.loads(line) for line in run("held", "list", "--json").splitlines()]
    assert [(line["id"], line["version"], line["reason"]) for line in lines] == [(first, 1, "too long"), (second, 2, "too long")]
    assert run("held", "list", f"--after={first}", "--limit=1").startswith(f"{second}  ")
    assert not acts("audit.held")  # a list shows no payload
    payload = bytes(OutboxEvent.objects.get(pk=first).payload)
    assert payload.decode() in run("held", "show", str(first))
    shown = json.loads(run("held", "show", str(first), "--json", "--reason=ticket 7"))
    assert base64.b64decode(shown["payload_base64"]) == payload
    run("held", "show", str(first), "--raw")
    assert capsysbinary.readouterr().out == payload
    assert [event["type"] for event in acts("audit.held")] == ["audit.held.viewed"] * 3
    assert acts("audit.held")[1]["reason"] == "ticket 7"
    assert run("held", "release", str(second), "99999999") == "1 released, 1 was not among the held events\n"
    assert json.loads(run("held", "release", "--all", "--json")) == {"released": 1}
    assert json.loads(run("held", "release", "--all", "--json")) == {"released": 0}
    assert not OutboxEvent.objects.filter(held_at__isnull=False).exists()
    with pytest.raises(CommandError, match="is not among the held events"):
        run("held", "show", str(first))


@pytest.mark.django_db
def test_dead_letters_are_listed_shown_and_discarded_by_the_command(capsysbinary):
    record([message(RAW, key=b"\x00k", headers=[("h", b"\xff")]), message(None, key=None), message(b"kept")])
    first, empty, kept = DeadLetter.objects.order_by("id").values_list("pk", flat=True)
    lines = [json.loads(line) for line in run("dead_letters", "list", "--json").splitlines()]
    assert [(line["id"], line["reason"], line["topic"]) for line in lines] == [
        (key, "malformed", "task-events") for key in (first, empty, kept)
    ]
    shown = json.loads(run("dead_letters", "show", str(first), "--json"))
    assert base64.b64decode(shown["value_base64"]) == RAW
    assert base64.b64decode(shown["key_base64"]) == b"\x00k"
    run("dead_letters", "show", str(first), "--raw")
    assert capsysbinary.readouterr().out == RAW
    text = run("dead_letters", "show", str(first))
    assert RAW.hex(" ") in text
    assert "\x1b" not in text
    assert "value: none" in run("dead_letters", "show", str(empty))
    assert {event["type"] for event in acts("audit.dead_letter")} == {"audit.dead_letter.viewed"}
    assert run("dead_letters", "discard", str(first), str(empty), "--reason=noise") == "2 discarded\n"
    assert run("dead_letters", "discard", str(first)) == "0 discarded, 1 was not among the dead letters\n"
    discarded = [event for event in acts("audit.dead_letter") if event["type"] == "audit.dead_letter.discarded"]
    assert [event["reason"] for event in discarded] == ["noise"] * 2
    assert DeadLetter.objects.get().pk == kept


@pytest.mark.django_db
@pytest.mark.parametrize(
    "arguments", [["held", "release"], ["held"], ["dead_letters", "discard", "x"], ["held", "list", "--limit=0"]]
)
def test_a_wrong_call_is_refused(arguments):
    with pytest.raises(CommandError):
        run(*arguments)


def test_the_command_itself_is_recorded_as_the_actor(committed_db):
    Task.objects.create(title="One")
    hold()
    record([message(b"no event")])
    for arguments in (["held", "release", "--all", "--reason", "mended"], ["dead_letters", "discard", "--all"]):
        subprocess.run([sys.executable, MANAGE, *arguments], check=True, capture_output=True)
    (released,), (discarded,) = acts("audit.held"), acts("audit.dead_letter")
    assert (released["actorid"], released["actortype"], released["reason"]) == ("system:held", "system", "mended")
    assert discarded["actorid"] == "system:dead_letters"


@pytest.mark.django_db
def test_the_console_records_who_released_and_who_looked():
    task_with_versions(2)
    (held,) = hold(version=1)
    record([message(b"no event")])
    console = Console("admin")
    other = OutboxEvent.objects.get(version=2, subject_type="task")
    console.get(f"{OUTBOX}{held}/change/")
    console.get(f"{OUTBOX}{other.pk}/change/")  # no held one
    console.act(OUTBOX, "release", [held])
    console.get(f"{LETTERS}{DeadLetter.objects.get().pk}/change/")
    told = acts("audit.held") + acts("audit.dead_letter")
    assert [event["type"] for event in told] == ["audit.held.viewed", "audit.held.released", "audit.dead_letter.viewed"]
    assert {event["actorname"] for event in told} == {console.user.username}
    record(messages(waiting()))
    assert Entry.objects.filter(subject_type__startswith="audit.").count() == 3
