"""`manage.py archive_audit`: old entries go to a file that proves itself, and the rest goes on without them."""

import gzip
import io
import json
import re
import threading
import uuid

import psycopg
import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import OperationalError, ProgrammingError, connection, transaction

from audit import archive, archive_event, archive_file, last_states
from audit.api import log_views
from audit.export import Selection, bundle
from audit.models import Archive, ArchivedSubject, DeadLetter, Entry, LogHead
from audit.verification import archived as verification_archived
from audit.verification import outside
from tasks.models import Comment, Task
from tests import offline
from tests.api_client import api, problem
from tests.recording import messages, record, recorded, task_with_versions, waiting
from tests.rewriting import disable_triggers
from tests.running_up import wait_until
from tests.signed_log import Log, execute, grow, record_all

END = 10_000_000
PARTITION = "task_audit_log_00000"


@pytest.fixture
def log(committed_db, monkeypatch) -> Log:
    """Its first 300 entries are in the first partition, 300 more in the next; `task`, `gone` and `comment` are in both."""
    execute("UPDATE audit_log SET first_seq = %s", END - 299)
    log = Log()
    log.task, log.gone = task_with_versions(2), task_with_versions(2)
    log.comment = Comment.objects.create(task=log.task, author=User.objects.create(username="ana"), body="before")
    log.rows = waiting()
    record_all()
    grow(295)
    log.task.title = "after the archive"
    log.task.save()
    log.gone.delete()
    log.comment.body = "after the archive"
    log.comment.save()
    record_all()
    grow(297)
    log.sign()
    return log


def command(log: Log, directory) -> str:
    out = io.StringIO()
    call_command("archive_audit", str(directory), "--key", str(log.key.verifier), stdout=out)
    return out.getvalue()


@pytest.fixture
def archived(log, tmp_path) -> Log:
    log.said = command(log, tmp_path)
    log.path = tmp_path / f"{PARTITION}.jsonl.gz"
    return log


def unzipped(path) -> bytes:
    return gzip.decompress(path.read_bytes())


def test_the_entries_are_in_the_file_and_out_of_the_log(archived, tmp_path):
    lines = [json.loads(line) for line in unzipped(archived.path).splitlines()]
    assert [line["seq"] for line in lines if line["kind"] == "entry"] == list(range(END - 299, END + 1))
    assert list(Entry.objects.order_by("seq").values_list("seq", flat=True)) == list(range(END + 1, END + 301))
    noted = Archive.objects.get()
    assert (noted.first_seq, noted.last_seq, noted.file) == (END - 299, END, archived.path.name)
    assert bytes(noted.sha256).hex() in archived.said
    assert f"DROP TABLE {PARTITION}" in archived.said
    assert execute(f"SELECT count(*) FROM {PARTITION}") == [(300,)]  # dropping it is for a person
    assert [path.name for path in tmp_path.iterdir()] == [archived.path.name]


def test_the_file_and_each_of_its_proofs_hold_without_the_service(archived, tmp_path):
    raw = unzipped(archived.path)
    key = ["--key", str(archived.key.verifier)]
    code, report = offline.run(tmp_path, *key, "-", given=raw)
    assert (code, report["result"]) == (0, "sound"), report
    entry = json.loads(raw.splitlines()[5])
    (tmp_path / "entry.tlog-proof").write_text(entry["proof"])
    (tmp_path / "event.json").write_text(json.dumps(entry["event"]))
    code, report = offline.run(tmp_path, *key, "entry.tlog-proof", "--event", "event.json")
    assert (code, report["result"]) == (0, "sound"), report


def test_verification_of_the_rest_is_sound_and_names_what_it_did_not_look_at(archived):
    execute(f"DROP TABLE {PARTITION}")
    report = archived.verify()
    assert not report.tampered, [str(finding) for finding in report.findings]
    assert (report.entries, report.recomputed, report.pinned) == (600, 300, END + 300)
    (said,) = [text for text in report.not_proved if "they are archived" in text]
    assert f"entries {END - 299} to {END}" in said
    assert bytes(Archive.objects.get().sha256).hex() in said
    task_with_versions(3)
    record_all()
    archived.task.title = "and again"
    archived.task.save()
    record_all()
    archived.sign()
    assert not archived.verify(jobs=2).tampered


def test_tampering_with_the_rest_is_found_as_before(archived):
    disable_triggers()
    with transaction.atomic():
        execute("DELETE FROM task_audit_log WHERE seq = %s", END + 1)
        found = archived.verify().first_bad
        assert (found.check, found.seq) == ("entries", END + 1)
        transaction.set_rollback(True)
    with transaction.atomic():  # the leaf of an archived entry
        execute("UPDATE audit_tile SET hashes = overlay(hashes PLACING '\\x00' FROM 70) WHERE level = 0 AND number = 0")
        assert archived.verify().tampered
        transaction.set_rollback(True)
    with transaction.atomic():
        execute("DELETE FROM audit_tile WHERE level = 0 AND number = 0")
        found = archived.verify().first_bad
        assert (found.seq, found.until) == (END - 299, END - 44)
        transaction.set_rollback(True)


def add_archive(first: int, last: int, **columns) -> None:
    """A row as the owner can write one."""
    values = {"file": "x", "sha256": bytes(32), "events_until": "2026-01-01T00:00:00Z"} | columns
    Archive.objects.create(first_seq=first, last_seq=last, **values)


def test_an_archive_hides_nothing_that_was_not_archived(archived):
    """Rows of audit_archive excuse the oldest entries of a log, one file after the other, and no others."""
    for first, last, said in (
        (END + 2, END + 9, "is not what follows upon entry"),
        (END + 1, END + 301, "is not what follows upon entry"),
        (END + 1, END + 9, "does not end where a partition ends"),
    ):
        with transaction.atomic():
            add_archive(first, last)
            found = archived.verify().first_bad
            assert (found.check, found.seq, found.until, said in found.detail) == ("head", first, last, True)
            transaction.set_rollback(True)
    for statement in ("UPDATE audit_archive SET file = 'y'", "DELETE FROM audit_archive", "TRUNCATE audit_archive"):
        with pytest.raises(ProgrammingError, match="append-only"), transaction.atomic():
            execute(statement)


def test_archiving_is_an_act_on_record(archived):
    """Who did it stands in the log, and what the row says."""
    assert [text for text in archived.verify().not_proved if "audit.archived still waits" in text]
    record_all()
    entry, noted = Entry.objects.get(event_type="audit.archived"), Archive.objects.get()
    said = entry.event_data["data"]["audit"]
    assert (noted.event_id, entry.actor_type) == (entry.event_id, "system")
    assert (said["entries"], said["file"], said["sha256"]) == ([[END - 299, END]], noted.file, bytes(noted.sha256).hex())
    archived.sign()
    report = archived.verify()
    assert not report.tampered, [str(finding) for finding in report.findings]
    assert not [text for text in report.not_proved if "waits" in text]


def test_an_archive_without_its_event_hides_nothing(log):
    """Entries deleted, an archive made up for them, and what is kept of their subjects."""
    entry = Entry.objects.get(seq=END - 9)
    note = {"version": entry.version, "seq": entry.seq, "subject_type": "task", "subject_id": entry.subject_id}
    disable_triggers()
    execute("DELETE FROM task_audit_log WHERE seq = %s", entry.seq)
    ArchivedSubject.objects.create(**note)
    some_event = Entry.objects.get(seq=END + 1).event_id
    for event_id in (None, some_event, "01a1fd43-ffb0-720c-9e3d-f63706fd558c"):
        with transaction.atomic():
            add_archive(END - 299, END, event_id=event_id)
            findings = archived_findings(log)
            assert ("head", END - 299, END) in findings
            assert ("entries", END - 9, END - 9) in findings
            transaction.set_rollback(True)


def archived_findings(log) -> list[tuple]:
    return [(finding.check, finding.seq, finding.until) for finding in log.verify().findings]


def test_an_archive_is_what_its_event_says(archived):
    record_all()
    disable_triggers("audit_archive")
    for change in (
        "file = 'y'", "sha256 = sha256('')", "events_until = now()", "event_id = uuidv7()",
        f"last_seq = {END - 1}", f"first_seq = {END - 298}",
    ):  # fmt: skip
        with transaction.atomic():
            execute(f"UPDATE audit_archive SET {change}")
            assert archived.verify().first_bad.seq in (END - 299, END - 298), change
            transaction.set_rollback(True)
    for change in ("version = 9", "document = NULL", "deleted = true", "task_id = NULL"):
        with transaction.atomic():
            execute(f"UPDATE audit_archived_subject SET {change} WHERE subject_id = %s", str(archived.task.pk))
            assert "audit_archived_subject" in " ".join(finding.detail for finding in archived.verify().findings)
            transaction.set_rollback(True)
    assert not archived.verify().tampered


def test_the_event_of_an_archive_must_come_into_the_log(archived):
    disable_triggers("tasks_outbox")
    for kept in ("held_at = now(), held_reason = 'x'", "created_at = now() - interval '1 hour'"):
        with transaction.atomic():
            execute(f"UPDATE tasks_outbox SET {kept} WHERE subject_type = 'audit'")
            assert ("head", END - 299, END) in archived_findings(archived)
            transaction.set_rollback(True)
    with transaction.atomic():
        execute("DELETE FROM tasks_outbox WHERE subject_type = 'audit'")
        assert ("entries", END - 299, END) in archived_findings(archived)
        transaction.set_rollback(True)


def test_the_event_of_an_archive_is_never_erased(archived):
    record_all()
    call_command("redact_audit", "--actor=system:taskpulse", "--reason=x", "--asked-by=y", "--wait=0", stdout=io.StringIO())
    assert "specversion" in Entry.objects.get(event_type="audit.archived").event_data


def test_the_newest_event_accounts_for_older_archives():
    """Theirs may be archived by then, as any entry."""
    until = "2026-01-01T00:00:00.000000Z"
    older, newer = (1, END, "a", "00" * 32, until, None), (END + 1, 2 * END, "b", "11" * 32, until, None)
    event = {"type": "audit.archived", "data": {"audit": archive_event.document([older, newer], "22" * 32)}}
    assert archive_event.accounts_for(event, [older, newer])
    assert not archive_event.accounts_for(event, [(1, END, "other", *older[3:]), newer])
    assert not archive_event.accounts_for(event, [newer])
    assert not archive_event.accounts_for(event, [older])
    assert not archive_event.accounts_for(event | {"type": "audit.redacted"}, [older, newer])


def test_a_part_of_an_archived_span_is_not_here(archived):
    """All of it may be attached again, or none."""
    disable_triggers(PARTITION)
    execute(f"DELETE FROM {PARTITION} WHERE seq = %s", END - 7)
    execute(f"ALTER TABLE task_audit_log ATTACH PARTITION {PARTITION} FOR VALUES FROM (1) TO ({END + 1})")
    report = archived.verify()
    assert [(found.check, found.seq, found.until) for found in report.findings] == [("head", END - 299, END)]
    assert "299 of its 300 entries are here" in report.findings[0].detail


def test_archiving_beside_a_verification_raises_no_alarm(log, tmp_path, monkeypatch):
    """The entries go after the verification has begun, before they are read."""
    done = []

    def archive_first(*arguments):
        if not done:
            done.append(command(log, tmp_path))
        return compare(*arguments)

    compare = outside.compare
    monkeypatch.setattr(outside, "compare", archive_first)
    report = log.verify()
    assert done
    assert [str(finding) for finding in report.findings] == []
    assert [text for text in report.not_proved if f"What entries {END - 299} to {END} say" in text]


def test_nothing_is_archived_while_archives_are_read(log, committed_db):
    """Else entries could be gone, and the row that tells of it not yet seen."""
    with psycopg.connect(committed_db) as reader:
        verification_archived.read(reader)
        with psycopg.connect(committed_db) as other:
            other.execute("SET lock_timeout = '50ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("ALTER TABLE task_audit_log DETACH PARTITION task_audit_log_00000")


def test_rows_are_held_against_the_digest_of_what_is_archived(archived):
    row = Task.objects.get(title="task 5", pk__in=ArchivedSubject.objects.filter(subject_type="task").values("task_id"))
    kept = ArchivedSubject.objects.get(subject_id=str(row.pk))
    assert (kept.version, kept.task_id, kept.deleted) == (1, row.pk, False)
    for statement, said in (
        ("UPDATE tasks_task SET title = 'another' WHERE id = %s", "the row is not as its last entry, archived, says"),
        ("DELETE FROM tasks_task WHERE id = %s", "whose last entry this is, archived, is gone, and no deletion is recorded"),
    ):
        with transaction.atomic():
            execute("ALTER TABLE tasks_task DISABLE TRIGGER USER")
            execute(statement, row.pk)
            (found,) = archived.verify().findings
            assert (found.check, said in found.detail) == ("drift", True), str(found)
            transaction.set_rollback(True)
    row.delete()
    assert not archived.verify().tampered  # its deletion waits
    record_all()
    assert not archived.verify().tampered


def test_a_row_whose_archived_entry_is_its_deletion_is_not_there(log):
    task = Task.objects.get(pk=log.task.pk)
    disable_triggers()
    execute("DELETE FROM task_audit_log WHERE subject_id = %s", str(task.pk))
    ArchivedSubject.objects.create(
        subject_type="task", subject_id=str(task.pk), task_id=task.pk, version=task.version, seq=END - 299, deleted=True
    )
    found = [finding.detail for finding in log.verify().findings if finding.check == "drift"]
    assert f"task {task.pk}: the row is there, and its last entry, archived, is its deletion" in found


def test_a_digest_is_of_who_people_are_and_not_of_their_names():
    before, after = {"id": "1", "name": "ana"}, {"id": "1", "name": "anna"}
    assert last_states.digest({"by": before}, ["by"]) == last_states.digest({"by": after, "new": 1}, ["by"])
    assert last_states.digest({"by": before}, ["by"]) != last_states.digest({"by": before | {"id": "2"}}, ["by"])


def test_an_erased_entry_leaves_no_digest(log, tmp_path):
    """What was erased before it was archived could be guessed from it."""
    call_command("redact_audit", f"--task={log.comment.task_id}", "--reason=x", "--asked-by=y", "--wait=0", stdout=io.StringIO())
    record_all()
    log.sign()
    command(log, tmp_path)
    kept = ArchivedSubject.objects.get(subject_id=str(log.comment.pk))
    assert (kept.document, kept.fields, kept.deleted) == (None, None, False)
    assert [str(finding) for finding in log.verify().findings] == []


def test_versions_and_rows_follow_upon_what_was_archived(archived):
    """Live rows whose last entry is archived are known by their version; a version that is skipped is a gap."""
    row = Task.objects.filter(title="task 5").order_by("created_at").first()
    execute("ALTER TABLE tasks_task DISABLE TRIGGER USER")
    with transaction.atomic():
        execute("UPDATE tasks_task SET version = 2 WHERE id = %s", row.pk)
        found = archived.verify().first_bad
        assert (found.check, "its last entry, archived, at 1" in found.detail) == ("drift", True), str(found)
        transaction.set_rollback(True)
    disable_triggers()
    with transaction.atomic():
        execute("DELETE FROM audit_archived_subject WHERE subject_id = %s", str(archived.task.pk))
        found = archived.verify().first_bad
        assert (found.check, found.seq, "version 3, its subject's first" in found.detail) == ("versions", END + 1, True)
        transaction.set_rollback(True)
    with transaction.atomic():
        execute("DELETE FROM audit_archived_subject WHERE subject_id = %s", str(archived.comment.pk))
        found = archived.verify().first_bad
        assert (found.check, found.seq, "version 2, its subject's first" in found.detail) == ("versions", END + 3, True)
        transaction.set_rollback(True)


def test_a_detached_partition_can_be_brought_back_and_is_looked_at_again(archived):
    execute(f"ALTER TABLE task_audit_log ATTACH PARTITION {PARTITION} FOR VALUES FROM (1) TO ({END + 1})")
    report = archived.verify()
    assert (report.tampered, report.entries, report.recomputed) == (False, 600, 600)
    with pytest.raises(ProgrammingError, match="append-only"), transaction.atomic():
        execute("UPDATE task_audit_log SET version = 9 WHERE seq = %s", END)


def test_late_repeats_of_archived_events_are_absorbed(archived):
    before = recorded()
    record(messages(archived.rows))
    assert recorded() == before
    assert not DeadLetter.objects.exists()


def test_a_change_that_waited_while_older_ones_were_archived_is_recorded(log, tmp_path):
    """What counts is the outbox row, not the event's age."""
    task = Task.objects.create(title="waits")
    rows = waiting(task.pk)
    command(log, tmp_path)
    record(messages(rows))
    assert recorded(task.pk) == [(str(task.pk), 1)]
    record(messages(rows))
    assert not DeadLetter.objects.exists()


def test_what_is_archived_of_a_task_is_410_and_names_the_file(archived):
    """And what is still here, or never was, is answered as before."""
    caller, file = api("viewer"), Archive.objects.get().file
    old = ArchivedSubject.objects.filter(subject_type="task", version=1).first()
    path = f"/api/tasks/{old.task_id}"
    for asked, said in (
        ("?version=1", f"What this task was at version 1 is archived: {file} holds it."),
        ("?as_of=2001-01-01T00:00:00Z", f"is archived: {file} or an archive before it holds it."),
        ("/history", f"The history of this task is archived: {file} or an archive before it holds it."),
    ):
        found = problem(caller.get(path + asked), 410)
        assert (found["type"], said in found["detail"]) == ("/api/problems/archived", True), found
    problem(caller.get(f"{path}?version=2"), 404)
    path = f"/api/tasks/{archived.task.pk}"
    assert f"{file} or an archive before it" in problem(caller.get(f"{path}?version=1"), 410)["detail"]
    assert caller.get(f"{path}?version=3").json()["title"] == "after the archive"
    page = caller.get(f"{path}/history")
    assert [entry["version"] for entry in page.json() if entry["subject"].startswith("task/")] == [3]
    (rest,) = re.findall(r'<http://testserver([^>]+)>; rel="next"', page["Link"])
    said = f"The rest of the history of this task is archived: {file} or an archive before it holds it."
    assert problem(caller.get(rest), 410)["detail"] == said
    problem(caller.get(f"{path}?version=4"), 404)
    problem(caller.get(f"/api/tasks/{uuid.uuid4()}/history"), 404)


def test_the_proof_of_an_entry_that_is_gone_or_has_no_tile_is_a_problem(log, tmp_path, monkeypatch):
    """The entry was found, and then it is archived, or what the proof is made of is not there."""
    entry = Entry.objects.get(seq=END - 9)
    prove = log_views.prove

    def archive_first(*arguments):
        command(log, tmp_path)
        return prove(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(log_views, "prove", archive_first)
        gone = problem(api("auditor").get(f"/api/audit/{entry.event_id}/proof"), 410)
    assert (gone["type"], Archive.objects.get().file in gone["detail"]) == ("/api/problems/archived", True)
    disable_triggers("audit_tile")
    execute("DELETE FROM audit_tile")
    wrong = problem(api("auditor").get(f"/api/audit/{Entry.objects.get(seq=END + 9).event_id}/proof"), 500)
    assert f"Entry {END + 9} has no proof any more" in wrong["detail"]


def test_exports_begin_with_the_oldest_entry_that_is_here(archived):
    kinds = [json.loads(line) for line in bundle(Selection())]
    assert (kinds[0]["from_seq"], kinds[1]["seq"], kinds[-1]) == (
        END + 1, END + 1, {"kind": "end", "entries": 300, "next_seq": END + 301},
    )  # fmt: skip


def nothing_was_archived(directory) -> bool:
    return Entry.objects.count() == 600 and not Archive.objects.exists() and list(directory.iterdir()) == []


def test_a_file_is_named_after_the_commit(log, tmp_path, monkeypatch):
    """A commit that fails leaves no file, and nothing archived."""

    def break_off(span):
        detach(span)
        connection.connection.close()

    detach = archive.detach
    monkeypatch.setattr(archive, "detach", break_off)
    with pytest.raises(CommandError):
        command(log, tmp_path)
    assert nothing_was_archived(tmp_path)


def test_a_part_is_kept_where_nobody_knows_what_was_committed(log, tmp_path, monkeypatch):
    path = tmp_path / f"{PARTITION}.jsonl.gz"
    part = archive_file.part_of(path)
    part.write_bytes(b"x")
    monkeypatch.setattr(Archive.objects, "filter", lambda **_: (_ for _ in ()).throw(OperationalError("gone")))
    archive_file.remove_unless_noted(path, END - 299)
    assert part.exists()
    monkeypatch.undo()
    archive_file.remove_unless_noted(path, END - 299)
    assert not part.exists()


def test_one_that_comes_second_leaves_the_file_of_the_first_alone(log, committed_db, tmp_path):
    part = archive_file.part_of(tmp_path / f"{PARTITION}.jsonl.gz")
    part.write_bytes(b"the first one's")
    with psycopg.connect(committed_db) as first:
        first.execute(f"LOCK TABLE {PARTITION} IN SHARE ROW EXCLUSIVE MODE")
        with pytest.raises(CommandError, match="lock timeout"):
            command(log, tmp_path)
    assert part.read_bytes() == b"the first one's"


def test_what_was_left_between_commit_and_naming_is_named_by_the_next_call(log, tmp_path, monkeypatch):
    path = tmp_path / f"{PARTITION}.jsonl.gz"

    def die(path):
        raise OSError("no more")

    monkeypatch.setattr(archive_file, "name", die)
    with pytest.raises(CommandError, match="no more"):
        command(log, tmp_path)
    assert [left.name for left in tmp_path.iterdir()] == [f".{path.name}.part"]
    assert Archive.objects.get().file == path.name
    monkeypatch.undo()
    with pytest.raises(CommandError, match="nothing to archive"):
        command(log, tmp_path)
    assert [left.name for left in tmp_path.iterdir()] == [path.name]
    assert archive_file.sha256(path) == bytes(Archive.objects.get().sha256)


def test_a_file_that_is_not_sound_is_not_archived(log, tmp_path, monkeypatch):
    disable_triggers()
    execute("""UPDATE task_audit_log SET event_data = jsonb_set(event_data, '{data,task,title}', '"x"') WHERE seq = %s""", END - 9)
    with pytest.raises(CommandError, match=f"entry {END - 9}: the event is not the one that was recorded"):
        command(log, tmp_path)
    assert nothing_was_archived(tmp_path)


def test_a_file_that_lacks_an_entry_or_its_end_is_not_archived(log, tmp_path, monkeypatch):
    lines = list(bundle(Selection(until_seq=END)))
    for cut in (lines[:-1], [*lines[:-2], lines[-1]], []):
        monkeypatch.setattr(archive, "bundle", lambda selection, cut=cut: iter(cut))
        with pytest.raises(CommandError, match=r"the file (does not hold entries|is not sound)"):
            command(log, tmp_path)
        assert nothing_was_archived(tmp_path)


def test_another_key_or_none_archives_nothing(log, tmp_path, settings):
    with pytest.raises(CommandError, match="no signature by a key of taskpulse/audit that you gave"):
        call_command("archive_audit", str(tmp_path), "--key", str(Log().key.verifier))
    settings.AUDIT_SIGNING_KEY = settings.AUDIT_PREVIOUS_SIGNING_KEY = None
    with pytest.raises(CommandError, match="no verifier key"):
        call_command("archive_audit", str(tmp_path))
    assert nothing_was_archived(tmp_path)


def test_a_file_that_is_there_is_left_alone(log, tmp_path):
    (tmp_path / f"{PARTITION}.jsonl.gz").write_bytes(b"somebody's")
    with pytest.raises(CommandError, match="is there already"):
        command(log, tmp_path)
    assert (tmp_path / f"{PARTITION}.jsonl.gz").read_bytes() == b"somebody's"
    assert not Archive.objects.exists()


def test_what_is_not_full_or_not_signed_for_or_the_last_stays(committed_db, tmp_path):
    log = Log()
    grow(3)
    log.sign()
    with pytest.raises(CommandError, match=f"{PARTITION}, ends with entry {END}, the log with 3"):
        command(log, tmp_path)
    LogHead.objects.create(origin="later", first_seq=END - 9)
    grow(10)
    with pytest.raises(CommandError, match=f"ends with entry {END}, the log with {END}"):
        command(log, tmp_path)
    grow(10)
    with pytest.raises(CommandError, match="is not covered by the newest checkpoint yet"):
        command(log, tmp_path)


def test_it_waits_for_a_reader_in_turns_and_lets_others_pass(log, committed_db, tmp_path):
    """Who reads the log keeps it from being detached; while it waits, nobody waits behind it for long."""
    with psycopg.connect(committed_db) as reader:
        reader.execute("SELECT count(*) FROM task_audit_log")
        thread = threading.Thread(target=run_in_a_thread, args=[log, tmp_path])
        thread.start()
        with psycopg.connect(committed_db, autocommit=True) as other:
            other.execute("SET lock_timeout = '2s'")
            waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'task_audit_log'::regclass"
            wait_until(lambda: other.execute(waits).fetchone(), 30, "it waits for the reader")
            assert other.execute("SELECT count(*) FROM task_audit_log").fetchone() == (600,)
            grow(1)
        reader.commit()
        thread.join(30)
    assert Archive.objects.exists()
    assert Entry.objects.count() == 301


def run_in_a_thread(log, directory) -> None:
    try:
        command(log, directory)
    finally:
        connection.close()


def test_nobody_erases_what_is_being_written(log, committed_db, tmp_path, monkeypatch):
    """An erasure in between would leave in the file what it erased."""
    seen = []

    def erase(*arguments):
        with psycopg.connect(committed_db) as session:
            session.execute("SET lock_timeout = '50ms'")
            try:
                session.execute(f"UPDATE {PARTITION} SET actor_name = NULL")
            except psycopg.Error as error:
                seen.append(type(error))
        return check(*arguments)

    check = archive.check
    monkeypatch.setattr(archive, "check", erase)
    command(log, tmp_path)
    assert seen == [psycopg.errors.LockNotAvailable]
