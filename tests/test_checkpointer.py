"""The checkpointer: what it signs, when, that it publishes it, and that it signs nothing that contradicts what it signed."""

import threading

import pytest
from django.db import IntegrityError, connection, transaction

from audit import checkpoint_store, checkpointer, tile_writer
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint_topic import CheckpointTopic
from audit.checkpointer import Checkpointer
from audit.models import Checkpoint as Row
from audit.models import LogHead
from audit.signed_note import Note, SigningKey
from audit.verification.verifier import Options, Verifier
from taskpulse import metrics
from tasks.active_lock import ActiveLock
from tests.recording import grow_log
from tests.running_up import wait_until
from tests.test_merkle import tree_head
from tests.test_tiles import edit, leaf_records

ORIGIN = "taskpulse/audit"
KEY = SigningKey(ORIGIN, bytes(range(32)))
OTHER = SigningKey(ORIGIN, bytes(range(1, 33)))


@pytest.fixture
def start(db, topic):
    """Makes a checkpointer of this log; `step` of it signs what is new. All are closed in the end."""
    made = []

    def checkpointer_of(key=KEY, previous=None) -> Checkpointer:
        while made:
            made.pop().close_but_database()
        made.append(_Checkpointer(key, previous))
        # PostgreSQL may take a moment to see that the one before is gone.
        wait_until(made[0]._lock.acquire, 10, "the lock is free")
        return made[0]

    yield checkpointer_of
    while made:
        made.pop().close_but_database()


class _Checkpointer(Checkpointer):
    def step(self) -> bool:
        """A broker that did not answer in time is asked again: that is not what these tests are about."""
        while (more := super().step()) is False and self._broker_outage.present and not self.patient:
            pass
        return more

    # Whether an outage of the broker is what the test is about.
    patient = False

    def close_but_database(self) -> None:
        """As `close`, but leaves the test's own connection."""
        self._topic.close()
        self._lock.release()


@pytest.fixture(autouse=True)
def every_entry(settings):
    settings.CHECKPOINT_ENTRIES = 1


def newest(key=KEY) -> tuple[Checkpoint, list]:
    return open_checkpoint(checkpoint_store.latest(1).note, [key.verifier])


def on_topic(*keys) -> Checkpoint | None:
    return CheckpointTopic().newest(ORIGIN, [key.verifier for key in keys or (KEY,)])


def signed(size: int, root: bytes = bytes(32), key=KEY, origin=ORIGIN) -> bytes:
    text = Checkpoint(origin, size, root).text
    return bytes(Note(text, (key.sign(text),)))


def sizes() -> list[int]:
    return list(Row.objects.order_by("size").values_list("size", flat=True))


def refused() -> str | None:
    return next((labels[0] for labels in metrics.CHECKPOINT_REFUSED._values), None)


def test_what_is_signed_is_the_logs_tree(start):
    worker = start()
    assert not worker.step()
    assert sizes() == []  # an empty log has nothing to sign
    for more in (1, 4, 300):
        grow_log(more)
        assert not worker.step()
        records = leaf_records()
        checkpoint, (signature,) = newest()
        assert checkpoint == Checkpoint(ORIGIN, len(records), tree_head(records))
        assert signature.key_id == KEY.verifier.key_id
        assert on_topic() == checkpoint
        assert not worker.step()
    assert sizes() == [1, 5, 305]
    assert metrics.CHECKPOINT_SIZE.value("signed") == metrics.CHECKPOINT_SIZE.value("published") == 305


@pytest.mark.parametrize(
    "table", ["audit_tile (log, level, number, hashes) VALUES (1, 0, {}, '')", "audit_bundle VALUES (1, {}, '')"]
)
def test_what_stands_in_the_way_of_a_tile_is_refused_and_not_tried_for_ever(start, caplog, table):
    worker = start()
    grow_log(1)
    worker.step()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO " + table.format(0))
    grow_log(256)
    for _ in range(2):  # another signer could have been faster
        worker.step()
        assert (refused(), worker.pause) == (None, checkpointer.POLL)
    for _ in range(2):
        worker.step()
        assert (refused(), worker.pause) == ("tampered", checkpointer.REFUSED_POLL)
    (said,) = [text for text in caplog.messages if "is in the way" in text]
    assert table.split()[0] in said
    assert (metrics.CHECKPOINT_SIZE.value("recorded"), metrics.CHECKPOINT_SIZE.value("signed")) == (257, 1)
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table.split()[0]} DISABLE TRIGGER USER")
        cursor.execute(f"DELETE FROM {table.split()[0]}")
        cursor.execute(f"ALTER TABLE {table.split()[0]} ENABLE ALWAYS TRIGGER audit_append_only")
    worker.step()
    assert (refused(), sizes()) == (None, [1, 257])
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO " + table.format(1))
    grow_log(256)
    worker.step()
    assert (refused(), worker.pause) == (None, checkpointer.POLL)


def test_what_is_signed_is_told_from_the_start_on(start):
    """Of a process that has nothing to sign too: else all entries would pass for unsigned."""
    grow_log(3)
    start().step()
    metrics.CHECKPOINT_SIZE.replace({})
    start().step()
    assert [metrics.CHECKPOINT_SIZE.value(state) for state in ("recorded", "signed")] == [3, 3]


def test_it_signs_every_n_entries_or_t_seconds(start, settings, monkeypatch):
    settings.CHECKPOINT_ENTRIES, settings.CHECKPOINT_SECONDS = 5, 10
    now = [1000.0]
    monkeypatch.setattr(checkpointer.time, "monotonic", lambda: now[0])
    worker = start()
    grow_log(1)
    worker.step()
    assert sizes() == [1]  # nothing was signed for long
    grow_log(4)
    worker.step()
    now[0] += 9.9
    worker.step()
    assert sizes() == [1]
    grow_log(1)
    worker.step()
    assert sizes() == [1, 6]
    grow_log(1)
    worker.step()
    now[0] += 10
    worker.step()
    assert sizes() == [1, 6, 7]
    now[0] += 100
    worker.step()
    assert sizes() == [1, 6, 7]


def test_a_long_backlog_is_looked_at_in_chunks(start, monkeypatch):
    monkeypatch.setattr(tile_writer, "CHUNK", 10)
    worker = start()
    grow_log(25)
    assert [worker.step() for _ in range(3)] == [True, True, False]
    assert sizes() == [25]
    assert newest()[0].root == tree_head(leaf_records())


def test_the_next_one_goes_on_from_what_is_stored(start):
    worker = start()
    grow_log(3)
    worker.step()
    grow_log(2)
    start().step()
    assert sizes() == [3, 5]
    assert on_topic().size == 5


def test_only_one_is_active(start):
    worker, standby = start(), _Checkpointer(KEY)
    grow_log(1)
    worker.step()
    grow_log(1)
    assert not standby.step()
    assert standby.pause == checkpointer.STANDBY_POLL
    assert sizes() == [1]
    worker.close_but_database()
    wait_until(standby._lock.acquire, 10, "the lock is free")
    standby.step()
    assert sizes() == [1, 2]
    standby.close_but_database()


def test_who_lost_the_lock_tells_nothing_of_the_log_any_more(start):
    worker = start()
    grow_log(2)
    worker.step()
    grow_log(1)
    edit("UPDATE task_audit_log SET actor_id = actor_id || '!' WHERE seq = 3")
    again = start()
    again.step()
    assert refused() == "tampered"
    assert metrics.CHECKPOINT_SIZE.value("signed") == metrics.CHECKPOINT_SIZE.value("published") == 2
    again._lock.release()
    another = ActiveLock(checkpointer.LOCK)
    wait_until(another.acquire, 10, "the lock is free")
    again.step()
    assert refused() is None
    assert metrics.CHECKPOINT_SIZE._values == {}
    another.release()


def test_the_database_takes_no_second_checkpoint_of_a_size_and_none_smaller(start):
    grow_log(5)
    start().step()
    grow_log(1)
    for size in (5, 4, 1, 0, 7):
        with pytest.raises(IntegrityError, match="is refused"), transaction.atomic():
            checkpoint_store.add(1, Checkpoint(ORIGIN, size, bytes(32)), b"")
    checkpoint_store.add(1, Checkpoint(ORIGIN, 6, bytes(32)), b"")


def test_of_two_that_sign_at_once_one_is_refused(committed_db):
    grow_log(3)
    began, outcomes = threading.Barrier(2), []

    def add(root: bytes) -> None:
        try:
            with transaction.atomic():
                began.wait(10)
                checkpoint_store.add(1, Checkpoint(ORIGIN, 3, root), b"")
            outcomes.append("signed")
        except IntegrityError:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=add, args=(bytes([number]) * 32,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["refused", "signed"]
    assert sizes() == [3]


def test_one_that_was_faster_is_no_fault(start):
    worker = start()
    grow_log(1)
    worker.step()
    grow_log(1)
    theirs = Checkpoint(ORIGIN, 2, tree_head(leaf_records()))
    checkpoint_store.add(1, theirs, bytes(Note(theirs.text, (KEY.sign(theirs.text),))))
    assert not worker.step()
    grow_log(1)
    worker.step()
    assert sizes() == [1, 2, 3]


def test_an_edited_entry_is_not_signed(start, caplog):
    worker = start()
    grow_log(5)
    edit("UPDATE task_audit_log SET actor_id = actor_id || '!' WHERE seq = 4")
    for _ in range(2):
        assert not worker.step()
    assert sizes() == []
    assert refused() == "tampered"
    assert worker.pause == checkpointer.REFUSED_POLL
    assert caplog.text.count("no checkpoint is signed: entry 4 is not what its leaf hash says") == 1
    edit("UPDATE task_audit_log SET actor_id = rtrim(actor_id, '!') WHERE seq = 4")
    worker.step()
    assert sizes() == [5]
    assert refused() is None


def test_another_head_is_not_signed(start, caplog):
    grow_log(5)
    edit("UPDATE audit_log SET edge = sha256('') || sha256('')")
    start().step()
    assert sizes() == []
    assert "the entries do not give the tree of the log's head" in caplog.text


def clear_log() -> None:
    edit("DELETE FROM task_audit_log")
    edit("DELETE FROM audit_tile")
    edit("UPDATE audit_log SET size = 0, edge = ''")


def remake_log() -> None:
    """The owner's best try: the log cut and written anew, head and all, with other entries of the same number."""
    count = LogHead.objects.get().size
    clear_log()
    grow_log(count)


def test_a_log_that_was_made_anew_contradicts_its_newest_checkpoint(start, caplog):
    grow_log(6)
    start().step()
    remake_log()
    grow_log(1)
    start().step()
    assert sizes() == [6]
    assert refused() == "fork"
    assert "the newest checkpoint that is stored says otherwise of the first 6 entries" in caplog.text


def test_a_log_that_was_made_anew_with_its_checkpoints_contradicts_the_topic(start, caplog):
    grow_log(6)
    start().step()
    remake_log()
    edit("ALTER TABLE audit_checkpoint DISABLE TRIGGER USER")
    edit("DELETE FROM audit_checkpoint")
    grow_log(1)
    start().step()
    assert sizes() == []
    assert refused() == "fork"
    assert "the newest checkpoint on the topic" in caplog.text
    assert on_topic().size == 6


def test_a_log_that_lost_entries_is_not_signed(start, caplog):
    grow_log(3)
    CheckpointTopic().publish(ORIGIN, [signed(9)])
    start().step()
    assert sizes() == []
    assert refused() == "fork"
    assert "the log has 3 entries" in caplog.text
    assert "audit_log new" in caplog.text
    # Not even when it is as long again.
    grow_log(7)
    start().step()
    assert sizes() == []
    assert "says otherwise of the first 9 entries" in caplog.text


def test_what_others_put_on_the_topic_stops_nothing(start):
    grow_log(2)
    start().step()
    junk = [b"", b"junk", signed(99, key=OTHER), signed(98, key=SigningKey("x", bytes(32)), origin="x"), signed(97)[:-9]]
    CheckpointTopic().publish(ORIGIN, junk)
    assert on_topic().size == 2
    grow_log(1)
    start().step()
    assert sizes() == [2, 3]


def test_the_newest_is_found_behind_any_amount_of_junk(start, monkeypatch):
    monkeypatch.setattr("audit.checkpoint_topic._WINDOW", 5)
    CheckpointTopic().publish(ORIGIN, [signed(7), *[b"junk"] * 23])
    assert on_topic().size == 7
    assert on_topic(OTHER) is None


def test_a_key_hands_over_to_the_next(start, caplog):
    grow_log(1)
    start().step()
    grow_log(1)
    start(OTHER).step()  # without the one before
    assert sizes() == [1]
    assert refused() == "key"
    assert "AUDIT_PREVIOUS_SIGNING_KEY" in caplog.text
    start(OTHER, previous=KEY).step()
    assert sizes() == [1, 2]
    for key in (KEY, OTHER):  # whoever trusts the old key learns the new one of it
        checkpoint, _ = newest(key)
        assert checkpoint.extensions == (f"next-key {OTHER.verifier}",)
    grow_log(1)
    start(OTHER, previous=KEY).step()
    checkpoint, (signature,) = newest(OTHER)
    assert (checkpoint.size, checkpoint.extensions, signature.key_id) == (3, (), OTHER.verifier.key_id)
    with pytest.raises(ValueError, match="no signature by a known key"):
        newest(KEY)
    grow_log(1)
    start(OTHER).step()  # the old key can be thrown away
    assert sizes() == [1, 2, 3, 4]
    assert on_topic(OTHER).size == 4


def test_a_stored_checkpoint_that_was_replaced_is_seen(start, caplog):
    grow_log(2)
    start().step()
    edit("ALTER TABLE audit_checkpoint DISABLE TRIGGER USER")
    edit("UPDATE audit_checkpoint SET note = %s", signed(1))
    grow_log(1)
    start().step()
    assert sizes() == [2]
    assert refused() == "key"


def test_a_key_of_another_log_signs_nothing(start, caplog):
    grow_log(1)
    start(SigningKey("another/log", bytes(32))).step()
    assert sizes() == []
    assert "is of 'another/log', the log is 'taskpulse/audit'" in caplog.text


def test_a_broker_that_is_away_delays_nothing_and_gets_it_later(db, wipeable_broker, caplog, monkeypatch):
    caplog.set_level("INFO")
    worker = _Checkpointer(KEY)
    worker.patient = True
    grow_log(1)
    wait_until(lambda: not worker.step() and on_topic() is not None, 40, "the first one is published")
    wipeable_broker.kill()
    monkeypatch.setattr("audit.checkpoint_topic._DELIVERY_PATIENCE", 0.5)
    for more in (1, 1):
        grow_log(more)
        worker.step()
    assert sizes() == [1, 2, 3]
    assert metrics.CHECKPOINT_SIZE.value("published") == 1
    wipeable_broker.start()
    monkeypatch.setattr("audit.checkpoint_topic._DELIVERY_PATIENCE", 5.0)

    def published() -> bool:
        worker._next_publication = 0
        worker.step()
        return metrics.CHECKPOINT_SIZE.value("published") == 3

    wait_until(published, 40, "what was signed meanwhile is published")
    assert on_topic().size == 3
    assert "publishing checkpoints works again" in caplog.text
    worker.close_but_database()


def test_nothing_is_signed_before_the_topic_was_asked(db, wipeable_broker, monkeypatch):
    monkeypatch.setattr("taskpulse.kafka.REQUEST_TIMEOUT", 3.0)
    worker = _Checkpointer(KEY)
    worker.patient = True
    grow_log(1)
    wipeable_broker.kill()
    assert not worker.step()
    assert sizes() == []
    wipeable_broker.start()
    wait_until(lambda: not worker.step() and sizes() == [1], 40, "the checkpoint is signed")
    worker.close_but_database()


def set_back_to(size: int) -> None:
    """The checkpoints, as by a restore."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_checkpoint DISABLE TRIGGER ALL")
        cursor.execute("DELETE FROM audit_checkpoint WHERE size > %s", [size])
        cursor.execute("ALTER TABLE audit_checkpoint ENABLE TRIGGER ALL")


def test_what_a_restore_lost_of_checkpoints_alone_is_stored_again(start):
    """The dump has all entries that were signed for, and was made before they were; then others were recorded."""
    worker = start()
    for _ in range(4):
        grow_log(2)
        worker.step()
    assert sizes() == [2, 4, 6, 8]
    set_back_to(2)
    grow_log(1)
    start().step()
    assert sizes() == [2, 4, 6, 8, 9]
    report = Verifier([KEY.verifier], CheckpointTopic().all([KEY.verifier]), Options()).run()
    assert (list(map(str, report.findings)), report.pinned) == ([], 9)
    set_back_to(6)
    start().step()  # of all entries there is a checkpoint: none is signed anew
    assert sizes() == [2, 4, 6, 8, 9]


def test_a_checkpoint_on_the_topic_that_the_entries_contradict_is_not_stored_again(start, caplog):
    grow_log(6)
    worker = start()
    worker.step()
    CheckpointTopic().publish(ORIGIN, [signed(7)])
    grow_log(2)
    worker = start()
    CheckpointTopic().publish(ORIGIN, [signed(8, tree_head(leaf_records()))])
    worker.step()
    assert (sizes(), refused()) == ([6], "fork")
    assert "the topic has two histories of the first 7 entries" in caplog.text
