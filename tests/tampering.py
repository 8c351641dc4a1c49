"""Ways to tamper with a log (tests/signed_log.py): as the table's owner, triggers disabled.

Each way returns the entries that may be named as the first bad one; None where there is no entry to name.
"""

import gzip
import json

from django.db import connection
from psycopg.types.json import Jsonb

from audit import archive_event, merkle, redaction, tile_store, tiles
from audit.checkpoint import Checkpoint
from audit.models import LogHead
from audit.signed_note import Note, SigningKey
from tasks.events import canonical
from tests.recording import add_outbox_row, forged
from tests.rewriting import cover_up, disable_triggers, move, recompute, rewrite_tiles
from tests.signed_log import execute, record_all, some_changes, store


def edit_payload_byte(rng, log) -> set[int]:
    seq = rng.randint(1, log.pinned)
    ((text,),) = execute("SELECT event_data::text FROM task_audit_log WHERE seq = %s", seq)
    while True:
        at = rng.randrange(len(text))
        edited = text[:at] + rng.choice('abc019 -.,:[]{}"\\\u00e9') + text[at + 1 :]
        try:
            if json.loads(edited) != json.loads(text):
                execute("SAVEPOINT edit")
                execute("UPDATE task_audit_log SET event_data = %s::text::jsonb WHERE seq = %s", edited, seq)
                return {seq}
        except Exception:
            if connection.connection.info.transaction_status.name == "INERROR":
                execute("ROLLBACK TO SAVEPOINT edit")


_OTHER = {
    "event_id": "uuidv7()", "event_type": "event_type || 'x'", "subject_type": "'note'", "subject_id": "uuidv7()::text",
    "version": "coalesce(version, 0) + 1", "task_id": "uuidv7()", "actor_id": "coalesce(actor_id, '') || '1'",
    "actor_name": "coalesce(actor_name, '') || '.'", "actor_type": "'model'", "request_id": "coalesce(request_id, '') || 'r'",
    "occurred_at": "occurred_at + interval '1 microsecond'", "processed_at": "processed_at - interval '1 second'",
    "topic": "topic || 's'", "partition": "partition + 1", '"offset"': '"offset" + 1', "digest": "sha256(digest)",
    "leaf_hash": "sha256(leaf_hash)", "event_data": "'{}'",
}  # fmt: skip
_ODDER = {
    "version": "NULL", "task_id": "NULL", "actor_id": "NULL", "occurred_at": "'infinity'", "digest": "''", "leaf_hash": "''",
    "processed_at": "to_timestamp(-2 * 62135596800 - extract(epoch FROM processed_at))", "event_data": "'[1e400]'",
    "subject_id": "''", '"offset"': "9223372036854775807", "partition": "-1", "event_type": "''",
}  # fmt: skip


def edit_column(rng, log) -> set[int]:
    seq = rng.randint(1, log.pinned)
    column, value = rng.choice([*_OTHER.items(), *_ODDER.items()])
    execute(f"UPDATE task_audit_log SET {column} = {value} WHERE seq = %s", seq)
    return {seq}


def before_christ(rng, log) -> set[int]:
    """The same date before the year 1: `to_char` writes it alike."""
    seq = rng.randint(1, log.pinned)
    column = rng.choice(["occurred_at", "processed_at"])
    execute(
        f"UPDATE task_audit_log SET {column} = ({column}::timestamp::text || ' BC')::timestamp AT TIME ZONE 'UTC' WHERE seq = %s",
        seq,
    )
    return {seq}


def edit_and_cover_up(rng, log) -> set[int]:
    seq = rng.randint(1, log.pinned)
    path = rng.choice(["{data,nonce}", "{reason}", "{clientip}", "{sequence}", None])
    if path is None:
        execute("UPDATE task_audit_log SET event_data = %s::jsonb WHERE seq = %s", rng.choice(["5", "[]", "{}", "null"]), seq)
    else:
        execute(f"UPDATE task_audit_log SET event_data = jsonb_set(event_data, '{path}', '\"forged\"') WHERE seq = %s", seq)
    cover_up(rng, seq)
    return {seq}


def swap(rng, log) -> set[int]:
    one, two = sorted(rng.sample(range(1, log.pinned + 1), 2))
    for old, new in ((one, 2_000_000), (two, one), (2_000_000, two)):
        execute("UPDATE task_audit_log SET seq = %s WHERE seq = %s", new, old)
    if rng.random() < 0.5:
        cover_up(rng, one)
    return {one}


def remove(rng, log) -> set[int]:
    seq = rng.randint(1, log.pinned)
    execute("DELETE FROM task_audit_log WHERE seq = %s", seq)
    if rng.random() < 0.5:
        move(seq + 1, -1)
        cover_up(rng, seq)
    return {seq}


def insert(rng, log) -> set[int]:
    """An entry in the midst, later ones moved up, and the chain recomputed."""
    seq = rng.randint(1, log.pinned)
    move(seq, 1)
    ((event,),) = execute(
        "SELECT event_data::text FROM task_audit_log WHERE seq = %s", rng.choice([s for s in range(1, log.pinned) if s != seq])
    )
    event = json.loads(event)
    execute("DROP INDEX task_audit_log_00000_event")
    fresh = rng.random() < 0.5
    if fresh:
        event["id"] = str(execute("SELECT uuidv7()")[0][0])
    execute(
        "INSERT INTO task_audit_log SELECT %s, (%s::jsonb ->> 'id')::uuid, event_type, subject_type, subject_id, version, task_id, "
        "actor_id, actor_name, actor_type, request_id, %s, occurred_at, processed_at, topic, partition, "
        '"offset", digest, leaf_hash FROM task_audit_log '
        "WHERE event_data ->> 'subject' = %s AND event_data ->> 'sequence' = %s LIMIT 1",
        seq, Jsonb(event), Jsonb(event), event["subject"], event["sequence"],
    )  # fmt: skip
    cover_up(rng, seq)
    return {seq}


def insert_beyond(rng, log) -> set[int]:
    """Past the head, which is left as it is."""
    execute("UPDATE task_audit_log SET seq = %s + 5 WHERE seq = %s", log.pinned, log.pinned)
    return {log.pinned}


def cut(rng, log) -> set[int]:
    """The log as it was some time ago, checkpoints and tiles too."""
    size = rng.randint(0, log.pinned - 1)
    back_to(size)
    return {size + 1}


def back_to(size: int) -> None:
    execute("DELETE FROM task_audit_log WHERE seq > %s", size)
    execute("DELETE FROM audit_checkpoint WHERE size > %s", size)
    execute("DELETE FROM audit_tile")
    execute("DELETE FROM audit_bundle")
    edge = merkle.Edge()
    for (leaf_hash,) in execute("SELECT leaf_hash FROM task_audit_log ORDER BY seq"):
        edge.append(bytes(leaf_hash))
    LogHead.objects.update(size=size, edge=edge.to_bytes())


def roll_back_and_go_on(rng, log) -> set[int]:
    """An older dump, in which other things happened then: the log is longer than before."""
    size = rng.randint(log.pinned // 2, log.pinned - 1)
    back_to(size)
    while LogHead.objects.get().size < log.pinned + 3:
        some_changes(rng, [], 40)
        record_all()
    return {size + 1}


def fake_erasure(rng, log) -> set[int]:
    seq = rng.randint(1, log.pinned)
    ((event_id,),) = execute("SELECT event_id FROM task_audit_log WHERE seq = %s", rng.randint(1, log.pinned))
    named = rng.choice([event_id, "01a1fd43-ffb0-720c-9e3d-f63706fd558c", "no id"])
    cleared = ", ".join(f"{name} = NULL" for name in redaction.CLEARED)
    execute(f"UPDATE task_audit_log SET event_data = %s, {cleared} WHERE seq = %s", Jsonb(redaction.marker(named)), seq)
    return {seq}


def erase_by_an_event_that_waits(rng, log) -> set[int]:
    """Its event names the entry, and is kept out of the log: held, or waiting for ever."""
    seq = rng.randint(1, log.pinned)
    ((event_id,),) = execute("SELECT uuidv7()")
    event = json.loads(forged(id=str(event_id), type=redaction.EVENT_TYPE, data={"audit": {"entries": [[seq, seq]]}}))
    add_outbox_row(canonical(event), event_id=event_id, subject_type="audit", subject_id="log", version=None)
    disable_triggers("tasks_outbox")
    kept = rng.choice(["held_at = now(), held_reason = 'x'", "created_at = now() - interval '1 day'", "created_at = 'infinity'"])
    execute(f"UPDATE tasks_outbox SET {kept} WHERE event_id = %s", event_id)
    cleared = ", ".join(f"{name} = NULL" for name in redaction.CLEARED)
    execute(f"UPDATE task_audit_log SET event_data = %s, {cleared} WHERE seq = %s", Jsonb(redaction.marker(event_id)), seq)
    return {seq}


def hide_in_an_archive(rng, log) -> set[int]:
    """An entry deleted, and an archive made up, whose tiles stand for it; with an event, of whatever kind, or without."""
    seq = rng.randint(1, log.pinned)
    last = rng.choice([log.pinned, rng.randint(seq, log.pinned), 10_000_000])
    row = [(1, last, "x", "00" * 32, "2026-01-01T00:00:00.000000Z")]
    ((event_id,),) = execute(
        rng.choice(["SELECT uuidv7()", "SELECT NULL::uuid", "SELECT event_id FROM task_audit_log WHERE seq = 1"])
    )
    execute(
        "INSERT INTO audit_archived_subject (subject_type, subject_id, task_id, version, seq) SELECT subject_type, subject_id, "
        "task_id, version, seq FROM task_audit_log WHERE seq = %s", seq,
    )  # fmt: skip
    if rng.random() < 0.5:
        ((event_id,),) = execute("SELECT uuidv7()")
        told = {"audit": archive_event.document(row, archive_event.subjects_digest(connection.connection))}
        event = canonical(json.loads(forged(id=str(event_id), type=archive_event.EVENT_TYPE, data=told)))
        add_outbox_row(event, event_id=event_id, subject_type="audit", subject_id="log", version=None)
    execute("DELETE FROM task_audit_log WHERE seq = %s", seq)
    execute(
        "INSERT INTO audit_archive (first_seq, last_seq, file, sha256, events_until, event_id) VALUES (%s, %s, %s, %s, %s, %s)",
        *row[0][:3], bytes(32), row[0][4], event_id,
    )  # fmt: skip
    return {seq}


def replace_checkpoint(rng, log) -> None:
    one, two = rng.sample(log.held, 2)
    way = rng.randrange(5)
    if way == 0:
        execute("UPDATE audit_checkpoint SET root = sha256(root) WHERE size = %s", one.size)
    elif way == 1:
        execute(
            "UPDATE audit_checkpoint SET note = (SELECT note FROM audit_checkpoint WHERE size = %s) WHERE size = %s",
            two.size,
            one.size,
        )
    elif way == 2:
        execute(
            "UPDATE audit_checkpoint SET note = set_byte(note, %s, get_byte(note, %s) # 1) WHERE size = %s",
            *[rng.randrange(60)] * 2,
            one.size,
        )
    elif way == 3:
        execute("DELETE FROM audit_checkpoint WHERE size = %s", one.size)
    else:
        execute("DELETE FROM audit_checkpoint")
    return None


def sign_with_another_key(rng, log) -> set[int] | None:
    """All covered up and signed anew, by a key of the same name."""
    key, changed = SigningKey.generate("taskpulse/audit"), None
    if rng.random() < 0.7:
        changed = edit_and_cover_up(rng, log)
    execute("DELETE FROM audit_checkpoint")
    edge, sizes = merkle.Edge(), {checkpoint.size for checkpoint in log.held}
    for (leaf_hash,) in execute("SELECT leaf_hash FROM task_audit_log ORDER BY seq"):
        edge.append(bytes(leaf_hash))
        if edge.size in sizes:
            store(Checkpoint("taskpulse/audit", edge.size, edge.root()), key)
    return changed


def sign_with_the_retired_key(rng, log) -> None:
    """What was signed since the hand-over, signed anew by the key that handed over."""
    for checkpoint in log.held:
        if checkpoint.size > log.retired_at:
            note = bytes(Note(checkpoint.text, (log.key.sign(checkpoint.text),)))
            execute("UPDATE audit_checkpoint SET note = %s WHERE size = %s", note, checkpoint.size)
    return None


def edit_tile(rng, log) -> set[int]:
    at = rng.randrange(256)
    execute(
        "UPDATE audit_tile SET hashes = set_byte(hashes, %s, get_byte(hashes, %s) # 1) WHERE level = 0 AND number = 0",
        at * 32,
        at * 32,
    )
    return {at + 1}


def edit_tile_root(rng, log) -> set[int]:
    execute("UPDATE audit_tile SET root = sha256(root) WHERE number = 0")
    return {rng.randint(1, 256)}


def edit_bundle(rng, log) -> set[int]:
    """A record of it, or that it is one (gzip's fourth byte, its flags, is 0 as it is)."""
    if rng.random() < 0.3:
        execute("UPDATE audit_bundle SET records = set_byte(records, %s, 0) WHERE number = 0", rng.choice([0, 1, 2]))
        return {rng.randint(1, 256)}
    at = rng.randrange(256)
    records = tiles.records_of(gzip.decompress(execute("SELECT records FROM audit_bundle WHERE number = 0")[0][0]))
    records[at] = records[at][:-3] + b'0"]' if records[at][-3:] != b'0"]' else records[at][:-3] + b'1"]'
    execute("UPDATE audit_bundle SET records = %s WHERE number = 0", tile_store.compress(tiles.bundle(records)))
    return {at + 1}


def add_a_tile(rng, log) -> None:
    """Ahead of who will write it, or above what there is."""
    level, number = rng.choice([(0, 2), (0, 900), (1, 0), (2, 3)])
    root = rng.choice(["root", "NULL"])
    execute(f"INSERT INTO audit_tile SELECT 1, %s, %s, hashes, {root} FROM audit_tile WHERE number = 0", level, number)


def forge_a_cosignature(rng, log) -> None:
    size = rng.choice(log.held).size + rng.choice([0, 0, 100_000])
    line = rng.choice(["", "x\n", "— w AAAA\n", "— v " + "A" * 100 + "\n"])
    execute("INSERT INTO audit_cosignature (log, size, witness, line) VALUES (1, %s, 'w', %s)", size, line)


def edit_head(rng, log) -> set[int] | None:
    way = rng.randrange(4)
    if way == 0:
        execute("UPDATE audit_log SET edge = set_byte(edge, 3, get_byte(edge, 3) # 1)")
        return None
    if way == 1:
        execute("UPDATE audit_log SET size = size + 1")
        return {log.pinned + 1}
    if way == 2:
        execute("UPDATE audit_log SET size = size - 1")
        return {log.pinned}
    execute("UPDATE audit_log SET origin = 'another'")
    return {1}


WAYS = [
    edit_payload_byte, edit_column, before_christ, edit_and_cover_up, swap, remove, insert, insert_beyond, cut, roll_back_and_go_on,
    fake_erasure, erase_by_an_event_that_waits, hide_in_an_archive, replace_checkpoint, sign_with_another_key,
    sign_with_the_retired_key, edit_tile, edit_tile_root, edit_bundle, add_a_tile, forge_a_cosignature, edit_head,
]  # fmt: skip


# Above the last checkpoint that anybody holds: all is remade, as only who knows how could.


def _remake(first: int) -> None:
    recompute(first)
    rewrite_tiles()


def edit(rng, first: int, last: int) -> None:
    """The title of an entry of a task, created or updated."""
    seq = rng.randint(first, last)
    execute("UPDATE task_audit_log SET event_data = jsonb_set(event_data, '{data,task,title}', '\"forged\"') WHERE seq = %s", seq)
    _remake(seq)


def remove_the_midst(rng, first: int, last: int) -> None:
    """An entry that has a later one of its task."""
    rows = execute(
        "SELECT e.seq FROM task_audit_log e WHERE e.seq BETWEEN %s AND %s AND EXISTS (SELECT FROM task_audit_log n "
        "WHERE n.subject_id = e.subject_id AND n.seq > e.seq)", first, last,
    )  # fmt: skip
    _remove(rng.choice(rows)[0])


def remove_the_last(rng, first: int, last: int) -> None:
    """The last entry of a task, be it live or deleted."""
    rows = execute(
        "SELECT max(seq) FROM task_audit_log GROUP BY subject_id HAVING max(seq) BETWEEN %s AND %s AND count(*) > 1", first, last
    )
    _remove(rng.choice(rows)[0])


def _remove(seq: int) -> None:
    execute("DELETE FROM task_audit_log WHERE seq = %s", seq)
    move(seq + 1, -1)
    _remake(seq)


def swap_within_a_task(rng, first: int, last: int) -> None:
    rows = execute(
        "SELECT array_agg(seq ORDER BY seq) FROM task_audit_log WHERE seq BETWEEN %s AND %s "
        "GROUP BY subject_id HAVING count(*) > 1", first, last,
    )  # fmt: skip
    one, two = sorted(rng.sample(rng.choice(rows)[0], 2))
    for old, new in ((one, 2_000_000), (two, one), (2_000_000, two)):
        execute("UPDATE task_audit_log SET seq = %s WHERE seq = %s", new, old)
    _remake(one)


def cut_the_end(rng, first: int, last: int) -> None:
    execute("DELETE FROM task_audit_log WHERE seq > %s", rng.randint(first, last - 1))
    _remake(first)


ABOVE = [edit, remove_the_midst, remove_the_last, swap_within_a_task, cut_the_end]
