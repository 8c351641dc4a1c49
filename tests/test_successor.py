"""A successor log: after a restore that lost what was signed, one log ends and another begins, and says so."""

import base64
import io
import json
import threading
import uuid

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from audit import checkpoint_store, successor
from audit.checkpoint import key_for, open_checkpoint
from audit.checkpoint_topic import CheckpointTopic
from audit.models import Entry, LogHead
from audit.signed_note import SigningKey
from audit.tile_writer import read_head
from tasks.active_lock import ActiveLock
from tests.api_client import api
from tests.recording import add_outbox_row, assert_log_is_whole, grow_log, messages, record, waiting
from tests.running_up import wait_until
from tests.test_checkpointer import KEY, ORIGIN, OTHER, every_entry, refused, signed, sizes, start  # noqa: F401 (fixtures)
from tests.test_log_views import fetch
from tests.test_merkle import tree_head
from tests.test_tiles import edit, leaf_records
from tests.tlog_client import Log

SECOND = "taskpulse/audit/6"


@pytest.fixture(autouse=True)
def signing_key(settings):
    settings.AUDIT_SIGNING_KEY = KEY


def audit_log_new(*arguments) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    wait_until(_lock_is_free, 10, "the lock is free")
    call_command("audit_log", "new", "--reason", "restored the dump of Tuesday", *map(str, arguments), stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def _lock_is_free() -> bool:
    lock = ActiveLock("checkpoints")
    try:
        return lock.acquire()
    finally:
        lock.release()


@pytest.fixture
def restored(start):  # noqa: F811 (a fixture)
    """A log of 5 entries, of which 9 were signed for: the checkpoint of 9 is on the topic. Restarts the checkpointer."""
    grow_log(5)
    worker = start()
    worker.step()
    CheckpointTopic().publish(ORIGIN, [signed(9)])
    grow_log(0)
    worker = start()
    worker.step()
    assert refused() == "fork"
    worker.close_but_database()
    return start


def test_the_entry_that_opens_a_log_is_never_erased(restored):
    audit_log_new()
    opening = Entry.objects.get(seq=6)
    call_command(
        "redact_audit", f"--actor={opening.actor_id}", "--reason=asked", "--asked-by=case 1", "--wait=0", stdout=io.StringIO()
    )
    assert Entry.objects.get(seq=6).event_data == opening.event_data
    assert successor.doubt(read_head(), None) is None
    account = uuid.uuid4()
    event = {"id": str(account), "type": "audit.redacted", "data": {"audit": {"entries": [[6, 6]]}}}
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_outbox DISABLE TRIGGER taskpulse_true")
    add_outbox_row(json.dumps(event).encode(), event_id=account, subject_type="audit", subject_id="log", version=None)
    with pytest.raises(DatabaseError, match="is refused"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE task_audit_log SET event_data = %s, actor_name = NULL, actor_type = NULL, request_id = NULL WHERE seq = 6",
            [json.dumps({"redacted": str(account)})],
        )


def test_the_successor_names_what_was_promised_and_is_signed(restored):
    root = tree_head(leaf_records())
    out, err = audit_log_new()
    assert out.splitlines() == [
        f"{ORIGIN} ended with 5 entries; {SECOND} begins with entry 6",
        f"its verifier key: {KEY.verifier.named(SECOND)}",
    ]
    assert err == ""
    entry = Entry.objects.get(seq=6)
    assert (entry.event_type, entry.subject_type, entry.subject_id) == ("audit.log.opened", "audit.log", SECOND)
    assert (entry.topic, entry.partition, entry.offset, entry.version) == ("", 0, 0, None)
    assert (entry.reason, entry.actor_type) == ("restored the dump of Tuesday", "system")
    assert entry.event_data["data"]["audit.log"] == {
        "origin": SECOND,
        "predecessor": {
            "origin": ORIGIN, "size": 5, "root": base64.b64encode(root).decode(),
            "checkpoint": {"size": 9, "root": base64.b64encode(bytes(32)).decode()},
        },
    }  # fmt: skip
    assert waiting() == []
    grow_log(3)
    assert assert_log_is_whole() == 4
    restored().step()
    assert refused() is None
    checkpoint, _ = open_checkpoint(checkpoint_store.latest(6).note, [KEY.verifier.named(SECOND)])
    assert (checkpoint.origin, checkpoint.size) == (SECOND, 4)
    assert CheckpointTopic().newest(SECOND, [KEY.verifier.named(SECOND)]) == checkpoint
    grow_log(1)
    restored().step()  # the next process
    assert checkpoint_store.latest(6).size == 5
    # Whoever knows the first log's key knows the successor's checkpoints.
    found = [checkpoint for checkpoint, _ in CheckpointTopic().all([KEY.verifier])]
    assert [(checkpoint.origin, checkpoint.size) for checkpoint in found] == [(ORIGIN, 5), (ORIGIN, 9), (SECOND, 4), (SECOND, 5)]
    assert list(CheckpointTopic().all([OTHER.verifier])) == []


def test_both_logs_are_served(restored):
    audit_log_new()
    grow_log(3)
    restored().step()
    auditor = api("auditor")
    get = fetch(auditor)
    assert Log(get, str(KEY.verifier)).check()[0] == 5
    assert auditor.get("/audit/checkpoint")["Link"] == '</audit/6/checkpoint>; rel="successor-version"'
    size, entries = Log(lambda path: get(f"6/{path}"), str(KEY.verifier.named(SECOND))).check()
    assert size == 4
    assert [json.loads(entry)[1:3] for entry in entries] == [[SECOND, seq] for seq in range(6, 10)]
    assert json.loads(entries[0])[12:15] == ["", 0, 0]


def test_what_outlives_the_entries_of_a_closed_log(restored):
    """Its last tile and bundle are stored: no entry will fill them."""
    records = leaf_records()
    audit_log_new()
    edit("DELETE FROM task_audit_log WHERE seq < 6")
    size, entries = Log(fetch(api("auditor")), str(KEY.verifier)).check()
    assert (size, entries) == (5, records)


def test_a_second_successor_follows_the_first(restored):
    audit_log_new()
    restored().step()
    CheckpointTopic().publish(SECOND, [signed(70, key=KEY.named(SECOND), origin=SECOND)])
    grow_log(2)
    worker = restored()
    worker.step()
    assert refused() == "fork"
    worker.close_but_database()
    out, _ = audit_log_new()
    assert out.startswith(f"{SECOND} ended with 3 entries; {ORIGIN}/9 begins with entry 9")
    assert Entry.objects.get(seq=9).event_data["data"]["audit.log"]["predecessor"]["checkpoint"]["size"] == 70
    restored().step()
    assert checkpoint_store.latest(9).size == 1


def test_a_checkpoint_that_was_kept_counts_where_the_topic_is_lost(start, settings, tmp_path):  # noqa: F811 (a fixture)
    grow_log(5)
    kept = tmp_path / "kept"
    kept.write_bytes(signed(12))
    audit_log_new("--checkpoint", kept)
    assert Entry.objects.get(seq=6).event_data["data"]["audit.log"]["predecessor"]["checkpoint"]["size"] == 12
    kept.write_bytes(signed(12, key=OTHER))
    with pytest.raises(CommandError, match="no signature by a known key"):
        audit_log_new("--checkpoint", kept)


def test_where_nothing_is_known_it_says_so(start):  # noqa: F811 (a fixture)
    grow_log(5)
    assert "how many entries were lost cannot be said" in audit_log_new()[1]
    assert Entry.objects.get(seq=6).event_data["data"]["audit.log"]["predecessor"]["checkpoint"] is None


@pytest.mark.foreign_events
def test_a_successor_that_passes_over_what_was_promised_is_not_signed(restored, caplog):
    """As whoever owns the database could begin one."""
    LogHead.objects.create(origin=SECOND, first_seq=6)
    grow_log(2)
    worker = restored()
    worker.step()
    assert sizes() == [5]
    assert "does not begin with the entry that opens it" in caplog.text
    edit("DELETE FROM task_audit_log WHERE seq > 5")
    connection.cursor().execute("ALTER TABLE audit_log DISABLE TRIGGER USER")
    LogHead.objects.filter(first_seq=6).delete()
    successor.open_successor(None, None)
    worker = restored()
    worker.step()
    assert sizes() == [5]
    assert "says that of its predecessor 0 entries were signed for; there is a checkpoint of 9" in caplog.text
    edit("UPDATE task_audit_log SET event_data = replace(event_data::text, 'null', '{\"size\": 9}')::jsonb WHERE seq = 6")
    worker.step()
    assert sizes() == [5]
    assert "is not what its digest says" in caplog.text


def test_what_is_in_the_way_is_said(start, settings):  # noqa: F811 (a fixture)
    with pytest.raises(CommandError, match="the log has no entry"):
        audit_log_new()
    grow_log(2)
    settings.AUDIT_SIGNING_KEY = None
    with pytest.raises(CommandError, match="no verifier key of the log"):
        audit_log_new()
    with pytest.raises(CommandError, match="no verifier key of the log"):
        audit_log_new("--key", SigningKey("another/log", bytes(32)).verifier)
    with pytest.raises(CommandError, match="expected the first log's name"):
        audit_log_new("--key", KEY.verifier, "--origin", "another/log")
    worker = start()
    worker.step()
    with pytest.raises(CommandError, match="a relay is running"):
        call_command("audit_log", "new", "--reason", "x", "--key", str(KEY.verifier))
    worker.close_but_database()
    edit("UPDATE task_audit_log SET actor_id = 'x' WHERE seq = 2")
    with pytest.raises(CommandError, match="entry 2 is not what its leaf hash says"):
        audit_log_new("--key", KEY.verifier)
    assert LogHead.objects.count() == 1


def test_a_recorder_that_waits_appends_to_the_successor(committed_db):
    grow_log(3)
    with transaction.atomic():
        from tasks.models import Task

        Task.objects.create(title="meanwhile")
    batch, done = messages(waiting()), []

    def recorder() -> None:
        record(batch)
        done.append(True)
        connection.close()

    thread = threading.Thread(target=recorder)
    with transaction.atomic():
        successor.open_successor(None, None)
        thread.start()
        wait_until(_somebody_waits, 10, "the recorder waits")
    thread.join(20)
    assert done == [True]
    assert read_head().log == 4
    assert assert_log_is_whole() == 2
    assert waiting() == []


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_locks WHERE NOT granted AND relation = 'audit_log'::regclass")
        return cursor.fetchone() is not None


def test_the_key_of_a_successor_is_the_same_secret_under_its_name():
    assert key_for(KEY, ORIGIN) is KEY
    named = key_for(KEY, SECOND)
    assert named.verifier == key_for(KEY.verifier, SECOND)
    assert named.verifier.public == KEY.verifier.public
    assert named.verifier.key_id != KEY.verifier.key_id
    for origin in ("taskpulse/audit6", "taskpulse", "x/taskpulse/audit/6"):
        assert key_for(KEY, origin) is None
