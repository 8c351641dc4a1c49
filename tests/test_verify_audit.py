"""`manage.py verify_audit`: what it looks at, what it says, and that it only reads."""

import io
import json
import random
import threading
import uuid

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from django.db import connection, connections, transaction
from psycopg import sql

from audit import redaction
from audit.checkpoint import NEXT_KEY, Checkpoint
from audit.checkpoint_topic import CheckpointTopic
from audit.key_ring import KeyRing
from audit.management.commands.verify_audit import Progress
from audit.merkle import Edge
from audit.models import Entry, LogHead
from audit.signed_note import Note, SigningKey
from audit.verification import spans
from audit.verification.verifier import Options, Verifier
from taskpulse import database_roles
from tasks import context, outbox
from tasks.models import Label, Task
from tests.recording import messages, record, task_with_versions, waiting
from tests.rewriting import disable_triggers, move, recompute, rewrite_tiles
from tests.signed_log import Log, execute, grow, make_log, record_all, some_changes, store


@pytest.fixture
def log(db) -> Log:
    log = Log()
    grow(5)
    log.sign()
    task_with_versions(4)
    record_all()
    log.sign()
    return log


def only(report) -> object:
    assert len(report.findings) == 1, [str(finding) for finding in report.findings]
    return report.findings[0]


def command(*arguments) -> tuple[int, str]:
    """Exit code and what was printed."""
    out = io.StringIO()
    try:
        call_command("verify_audit", *arguments, stdout=out)
    except SystemExit as stop:
        return stop.code, out.getvalue()
    except CommandError as error:
        return error.returncode, str(error)
    return 0, out.getvalue()


def test_a_sound_log(log):
    report = log.verify()
    assert report.as_json() | {"seconds": 0} == {
        "result": "sound", "entries": 9, "recomputed": 9, "pinned_until": 9, "first_bad": None, "findings": [], "losses": [],
        "checks": report.as_json()["checks"], "not_proved": report.not_proved, "seconds": 0,
        "pins": [{"origin": "taskpulse/audit", "first_seq": 1, "last_seq": 9, "pinned_until": 9}],
    }  # fmt: skip
    assert {check["result"] for check in report.as_json()["checks"]} == {"sound"}
    assert all(check["rests_on"] and check["detail"] for check in report.as_json()["checks"])
    assert len(report.not_proved) == 1


def test_an_empty_log_is_sound(db):
    report = Log().verify()
    assert not report.tampered
    assert report.entries == 0
    assert [report.checks[name].result for name in ("checkpoints", "outside")] == ["not compared"] * 2


def test_what_is_above_the_last_checkpoint_is_said(log):
    grow(3)
    report = log.verify()
    assert (report.entries, report.pinned) == (12, 9)
    assert any("Entries 10 to 12 can still be cut off" in text for text in report.not_proved)


def test_without_a_checkpoint_from_outside_it_says_so(log):
    report = log.verify(held=[])
    assert not report.tampered
    assert (report.checks["outside"].result, report.pinned) == ("not compared", None)
    assert any("Nothing held outside the database was compared" in text for text in report.not_proved)


def erase(event_id, *seqs: int) -> None:
    cleared = ", ".join(f"{name} = NULL" for name in redaction.CLEARED)
    marker = json.dumps(redaction.marker(event_id))
    execute(f"UPDATE task_audit_log SET event_data = %s::jsonb, {cleared} WHERE seq = ANY (%s)", marker, list(seqs))


def act_of_erasure(spans: list[list[int]], recorded: bool = True):
    """The id of a new event `audit.redacted` that names these entries."""
    act, moment = {"changes": {}, "entries": spans, "reason": "asked for"}, Entry.objects.latest("seq").processed_at
    with transaction.atomic():
        outbox.append([outbox.Change("audit", "log", "redacted", None, moment, None, act, {})])
    event_id = waiting()[-1].event_id
    if recorded:
        record_all()
    return event_id


@pytest.mark.foreign_events
def test_redacted_entries_need_their_event(log):
    disable_triggers()
    event_id = act_of_erasure([[2, 3], [5, 5]], recorded=False)
    erase(event_id, 2, 3, 5)
    assert not log.verify().tampered  # its event still waits
    record_all()
    assert not log.verify().tampered
    execute("UPDATE task_audit_log SET actor_name = 'ana' WHERE seq = 5")
    assert only(log.verify()).seq == 5
    erase(event_id, 4, 5)
    found = only(log.verify())
    assert (found.seq, "no event" in found.detail) == (4, True)


@pytest.mark.foreign_events
def test_no_redaction_is_made_in_advance(log):
    """An event that names what comes after it accounts for nothing."""
    disable_triggers()
    event_id = act_of_erasure([[1, 11]])
    grow(1)
    erase(event_id, 9)
    assert not log.verify().tampered
    erase(event_id, 11)
    assert only(log.verify()).seq == 11


# Drift and versions.


def without_triggers(statement: str, *parameters, table: str = "tasks_task") -> None:
    execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    execute(statement, *parameters)
    execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL")


@pytest.mark.parametrize("pending", [False, True])
def test_a_row_that_was_changed_past_the_log(log, pending):
    task = Task.objects.get(version=4)
    if pending:
        task.title = "waits"
        task.save()
        connection.check_constraints()
    assert not log.verify().tampered
    without_triggers("UPDATE tasks_task SET priority = 'high', title = 'x' WHERE id = %s", task.pk)
    found = only(log.verify())
    assert (found.check, found.seq) == ("drift", 9)
    assert found.detail.startswith(f"task {task.pk}: priority, title of the row: not as its")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE tasks_task SET version = version + 1 WHERE version = 4", "the row is at version 5, its last entry at 4"),
        ("DELETE FROM tasks_task WHERE version = 4", "the task that it created is gone"),
        ("UPDATE tasks_task SET id = uuidv7() WHERE version = 4", "was never recorded"),
    ],
)
def test_rows_that_the_log_does_not_know(log, statement, said):
    without_triggers(statement)
    report = log.verify()
    assert {finding.check for finding in report.findings} == {"drift"}
    assert any(said in finding.detail for finding in report.findings), [str(finding) for finding in report.findings]


def test_a_label_that_went_past_the_log_though_it_is_of_no_task(log):
    kept, deleted, waits, gone = (Label.objects.create(name=name) for name in ("kept", "deleted", "waits", "gone"))
    Label.objects.filter(pk=deleted.pk).delete()
    record_all()
    kept.save()
    waits.delete()  # its event is on the way to the log
    connection.check_constraints()
    assert not log.verify().tampered
    without_triggers("DELETE FROM tasks_label WHERE name = 'gone'", table="tasks_label")
    found = only(log.verify())
    assert (found.check, found.seq) == ("drift", Entry.objects.get(subject_id=str(gone.pk)).seq)
    assert found.detail == "the label that it created is gone, and no deletion is recorded"
    assert not log.verify(from_seq=found.seq + 1).tampered


def test_a_renamed_person_is_no_drift(log, django_user_model):
    ana = django_user_model.objects.create(username="ana")
    Task.objects.create(title="hers", assignee=ana)
    record_all()
    django_user_model.objects.filter(pk=ana.pk).update(username="anna")
    assert not log.verify().tampered


@pytest.mark.parametrize(("version", "before"), [(3, 2), (1, 0)])
def test_a_gap_in_the_versions_above_the_last_checkpoint(log, version, before):
    """All is recomputed, so that only the versions tell."""
    task = task_with_versions(4)
    record_all()
    disable_triggers()
    seq = Entry.objects.get(subject_id=task.pk, version=version).seq
    execute("DELETE FROM task_audit_log WHERE seq = %s", seq)
    move(seq + 1, -1)
    recompute(seq)
    rewrite_tiles()
    report = log.verify()
    assert [(finding.check, finding.seq) for finding in report.findings] == [("versions", seq)], list(map(str, report.findings))


@pytest.mark.parametrize(
    "payload",
    ["5", "[]", "{}", "[1e400]", '{"data": 5, "sequence": "00000000000000000004"}', '{"data": {"task": []}, "sequence": "x"}'],
)
@pytest.mark.parametrize("covered_up", [False, True])
def test_what_is_no_event_is_named_and_stops_nothing(log, payload, covered_up):
    disable_triggers()
    execute("UPDATE task_audit_log SET event_data = %s::jsonb WHERE seq = 9", payload)
    if covered_up and "e400" not in payload:
        recompute(9)
    report = log.verify()
    assert (report.first_bad.check, report.first_bad.seq) == ("entries", 9)
    assert report.checks["drift"].wrong == 1


# Parts of it.


@pytest.mark.foreign_events
def test_from_and_sample_put_all_leaves_into_the_tree(log, monkeypatch):
    monkeypatch.setattr(spans, "BLOCK", 2)
    disable_triggers()
    execute("UPDATE task_audit_log SET event_data = jsonb_set(event_data, '{data,nonce}', '0') WHERE seq = 2")
    assert log.verify(from_seq=1).first_bad.seq == 2
    report = log.verify(from_seq=5)
    assert (report.tampered, report.entries, report.recomputed, report.pinned) == (False, 9, 5, 9)
    assert any("4 entries were not recomputed" in text for text in report.not_proved)
    said = "of the 5 entries that were recomputed, each follows upon the one before; none before entry 5 was looked at"
    assert report.checks["versions"].detail == said
    assert log.verify(from_seq=1).checks["versions"].detail == "each follows upon the one before"
    execute("UPDATE task_audit_log SET leaf_hash = sha256('') WHERE seq = 2")
    assert (log.verify(from_seq=5).first_bad.seq, log.verify(from_seq=5).first_bad.until) == (1, 5)


@pytest.mark.foreign_events
def test_a_sample_is_drawn_anew_and_finds_what_it_meets(log, monkeypatch):
    monkeypatch.setattr(spans, "BLOCK", 1)
    disable_triggers()
    execute("UPDATE task_audit_log SET event_data = jsonb_set(event_data, '{data,nonce}', '0') WHERE seq = 2")
    found = [log.verify(share=0.5) for _ in range(40)]
    part = next(report for report in found if report.recomputed < report.entries)
    said = f"of the {part.recomputed} entries that were recomputed, each follows upon the one before"
    assert part.checks["versions"].detail == said
    assert 0 < sum(report.tampered for report in found) < 40
    assert {finding.seq for report in found for finding in report.findings} == {2}


# Keys.


def test_a_key_that_hands_over(log):
    new = SigningKey.generate(log.key.verifier.name)
    grow(2)
    head = LogHead.objects.get()
    root = Edge.from_bytes(head.size, bytes(head.edge)).root()
    both = Checkpoint(head.origin, head.size, root, (f"{NEXT_KEY}{new.verifier}",))
    note = bytes(Note(both.text, (log.key.sign(both.text), new.sign(both.text))))
    execute("INSERT INTO audit_checkpoint (log, size, root, note) VALUES (1, %s, %s, %s)", both.size, both.root, note)
    grow(2)
    log.sign(new)
    assert not log.verify().tampered
    execute("ALTER TABLE audit_checkpoint DISABLE TRIGGER ALL")
    execute("UPDATE audit_checkpoint SET note = %s WHERE size = %s", bytes(Note(both.text, (new.sign(both.text),))), both.size)
    assert {finding.check for finding in log.verify(held=[]).findings} == {"checkpoints"}  # nobody handed over


def test_without_a_key_it_could_not_check(log):
    code, text = command("--no-topic", "--key", "nonsense")
    assert code == 2
    assert "--key: expected a verifier key" in text
    code, text = command("--no-topic")
    assert (code, "no verifier key: give the log's by --key" in text) == (2, True)


@pytest.mark.parametrize("arguments", [["--sample", "0"], ["--sample", "101"], ["--from", "0"], ["--jobs", "x"]])
def test_wrong_arguments_name_what_was_expected(db, arguments):
    code, text = command(*arguments)
    assert (code, "expected a" in text) == (1, True)


# The command, with a broker, as a role that may only read, by several processes.


def test_progress_is_one_line_that_is_renewed_now_and_then():
    stream = io.StringIO()
    progress = Progress(OutputWrapper(stream))
    for done in range(1, 1_001):
        progress("entries", done * 2, 2_000)
    lines = stream.getvalue().split("\r")
    assert lines[0] == ""
    assert lines[1] == "entries: 2 of 2,000  "
    assert lines[-1] == "entries: 2,000 of 2,000  \n"
    assert len(lines) < 100


@pytest.fixture
def sign_in_as_auditor(committed_db, settings):
    """Makes Django's connection that of the auditor role, with the rights that `database_roles` grants and no others."""
    token = uuid.uuid4().hex[:8]
    names = {kind: f"{kind}_{token}" for kind in database_roles.ROLES}
    for kind, name in names.items():
        setattr(settings, f"{kind.upper()}_ROLE", name)
        setattr(settings, f"{kind.upper()}_ROLE_PASSWORD", token)
    call_command("database_roles", verbosity=0)
    saved = {key: connection.settings_dict[key] for key in ("USER", "PASSWORD")}

    def sign_in():
        connections.close_all()
        connection.settings_dict |= {"USER": names[database_roles.AUDITOR], "PASSWORD": token}

    yield sign_in
    connections.close_all()
    connection.settings_dict |= saved
    with connection.cursor() as cursor:
        for name in map(sql.Identifier, names.values()):
            cursor.execute(sql.SQL("DROP OWNED BY {}").format(name))
            cursor.execute(sql.SQL("DROP ROLE {}").format(name))


def test_the_command_as_the_auditor_by_two_processes(committed_db, topic, sign_in_as_auditor, monkeypatch, tmp_path):
    monkeypatch.setattr(spans, "SPAN", 64)
    log = make_log(random.Random(1), 150, 4)
    key = str(log.key.verifier)
    stored = [bytes(note) for (note,) in execute("SELECT note FROM audit_checkpoint ORDER BY size")]
    publisher = CheckpointTopic()
    code, text = command("--key", key, "--json", "--jobs", "2")
    report = json.loads(text)
    assert (code, report["result"], report["pinned_until"]) == (0, "sound", None)
    assert [check["result"] for check in report["checks"] if check["name"] == "outside"] == ["not compared"]
    publisher.publish(log.held[0].origin, [b"rubbish", *stored])
    sign_in_as_auditor()
    code, text = command("--key", key, "--json", "--jobs", "2")
    report = json.loads(text)
    assert (code, report["result"], report["entries"], report["pinned_until"]) == (0, "sound", log.pinned, log.pinned)
    kept = tmp_path / "checkpoint"
    kept.write_bytes(stored[1])
    code, text = command("--key", key, "--no-topic", "--checkpoint", str(kept))
    assert (code, f"pinned from outside up to entry {log.held[1].size}" in text) == (0, True)
    with psycopg.connect(committed_db) as owner:
        owner.execute("ALTER TABLE task_audit_log DISABLE TRIGGER ALL")
        owner.execute("UPDATE task_audit_log SET actor_name = 'somebody' WHERE seq = 100")
    code, text = command("--key", key, "--jobs", "2")
    assert code == 1
    assert "TAMPERED. First: entries: entry 100: the columns actor_name are not what event_data says" in text


def test_it_could_not_check_without_broker_or_database(committed_db, settings, monkeypatch):
    key = str(make_log(random.Random(1), 10, 1).key.verifier)
    settings.KAFKA_BOOTSTRAP_SERVERS = "localhost:9"
    monkeypatch.setattr("audit.checkpoint_topic._PATIENCE", 0.5)
    code, text = command("--key", key)
    assert (code, "could not be checked" in text) == (2, True)
    assert command("--key", key, "--no-topic")[0] == 0
    execute("ALTER TABLE audit_log RENAME TO audit_log_away")
    code, text = command("--key", key, "--no-topic")
    assert (code, "could not be checked" in text) == (2, True)


def test_no_false_alarm_while_writers_run(committed_db, monkeypatch):
    """Changes, recording and signing go on beside some thirty verifications."""
    monkeypatch.setattr(spans, "SPAN", 256)
    log, stop, failed = make_log(random.Random(1), 270, 2), threading.Event(), []

    def run(work):
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    rng, tasks = random.Random(2), []

    def write():
        with transaction.atomic(), context.use(context.Context(actor=context.Actor("1", "w", "user"))):
            some_changes(rng, tasks, 5)

    def recorder():
        record(messages(waiting()[: rng.randint(1, 40)]))
        if rng.random() < 0.3:
            log.sign()

    threads = [threading.Thread(target=run, args=(work,)) for work in (write, recorder)]
    for thread in threads:
        thread.start()
    reports = []
    try:
        for _ in range(30):
            held = list(log.held)
            reports.append(log.verify(held=held))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert [str(finding) for report in reports for finding in report.findings] == []
    assert reports[-1].entries > reports[0].entries


def test_a_verification_leaves_no_snapshot_behind_and_cannot_write(log, monkeypatch):
    """Each read is a transaction of its own, read only."""
    seen = []
    real = spans.look

    def look(session, work, span):
        seen.append(session.execute("SELECT current_setting('transaction_read_only')").fetchone()[0])
        return real(session, work, span)

    monkeypatch.setattr(spans, "look", look)
    Verifier([log.key.verifier], [], Options()).run()
    assert seen == ["on"]
    assert execute("SELECT current_setting('transaction_read_only')") == [("off",)]


def test_store_is_what_the_checkpointer_stores(log):
    """The tests' own signer makes what the product's does."""
    size, root, note = execute("SELECT size, root, note FROM audit_checkpoint ORDER BY size LIMIT 1")[0]
    work = spans.Work(1, "taskpulse/audit", KeyRing([log.key.verifier]), {})
    assert spans.checkpoint_fault(work, size, bytes(root), bytes(note)) is None
    with pytest.raises(Exception, match="refused"), transaction.atomic():
        store(log.held[0], log.key)
