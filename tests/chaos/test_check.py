"""The checks of a chaos run find what they are there for: each kind of damage, done to a log that is whole."""

import hashlib
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from audit import leaf, merkle
from tasks import events
from tests.chaos import check
from tests.chaos.check import Head, LoggedEntry, Problems
from tests.chaos.record import Change, Record

ORIGIN = "test/log"
BEGIN = datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=UTC)
FIRST, SECOND = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


def entry(
    seq: int, subject: str, version: int, kind: str = "task.updated", title: str = "a", request: str | None = None
) -> LoggedEntry:
    task = {"id": subject, "title": title, "version": version}
    event_id = uuid.UUID(int=seq + 1000)
    document = {"data": {"task": task}, "id": str(event_id), "type": kind}
    payload = events.canonical(document)
    digest = hashlib.sha256(payload).digest()
    moment = BEGIN + timedelta(seconds=seq)
    place = ("topic", 0, seq)
    record = leaf.record(
        ORIGIN, seq, event_id, kind, "task", subject, version, uuid.UUID(subject), "7", moment, moment, *place, digest
    )  # fmt: skip
    return LoggedEntry(
        seq, event_id, kind, "task", subject, version, uuid.UUID(subject), "7", request, moment, moment, *place, digest,
        merkle.leaf_hash(record), payload, document,
    )  # fmt: skip


def whole() -> list[LoggedEntry]:
    return [
        entry(1, FIRST, 1, "task.created", request="r1"),
        entry(2, SECOND, 1, "task.created", request="r2"),
        entry(3, FIRST, 2, title="b", request="r3"),
        entry(4, SECOND, 2, "task.deleted", request="r4"),
        entry(5, FIRST, 3, title="c", request="r5"),
    ]


def seen() -> Record:
    record = Record()
    record.acknowledge([Change(FIRST, 1, "task.created", "r1")], "r1", 1)
    record.acknowledge([Change(SECOND, 1, "task.created", "r2")], "r2", 1)
    record.acknowledge([Change(FIRST, 2, "task.updated", "r3")], "r3", 1)
    record.acknowledge([Change(SECOND, None, "task.deleted", "r4")])
    record.acknowledge([Change(FIRST, 3)])
    record.doubt("r6", 1)
    return record


ROWS = {FIRST: {"id": FIRST, "title": "c", "version": 3}}


def head_of(entries) -> Head:
    edge = merkle.Edge()
    for one in entries:
        edge.append(bytes(one.leaf_hash))
    return Head(ORIGIN, 1, edge.size, edge.to_bytes())


def problems(entries=None, record=None, rows=None, head=None) -> set[str]:
    entries = whole() if entries is None else entries
    found = Problems()
    ledger = check.Ledger(head or head_of(entries), found)
    ledger.read(entries)
    check.acknowledged(ledger, record or seen(), found)
    check.replayed(ledger, ROWS if rows is None else rows, found)
    return set(found.counts)


def renumbered(entries) -> list[LoggedEntry]:
    """As a writer would have made them in this order: damage that the tree alone does not show."""
    return [
        entry(number, one.subject_id, one.version, one.event_type, one.document["data"]["task"]["title"], one.request_id)
        for number, one in enumerate(entries, 1)
    ]


def test_a_whole_log_has_no_problems():
    assert problems() == set()


@pytest.mark.parametrize("missing", range(5))
def test_a_change_that_was_lost(missing):
    entries = whole()
    del entries[missing]
    assert "lost" in problems(renumbered(entries))


def test_a_change_that_is_there_twice():
    assert "twice" in problems(renumbered([*whole(), whole()[4]]))


def test_an_event_that_is_there_twice_as_another_version():
    again = whole()[4]._replace(seq=6, version=4)
    assert "twice" in problems([*whole(), again])


def test_versions_out_of_order():
    first, second, third, fourth, fifth = whole()
    assert "out of order" in problems(renumbered([first, second, fifth, fourth, third]))


def test_a_gap_in_seq():
    entries = whole()
    del entries[2]
    assert "seq gap" in problems(entries)


def test_an_edited_event():
    entries = whole()
    entries[2] = entries[2]._replace(payload=b"{}")
    assert "digest" in problems(entries)


def test_an_edited_column():
    entries = whole()
    entries[2] = entries[2]._replace(actor_id="8")
    assert "leaf" in problems(entries)


def test_a_head_of_another_tree():
    good = head_of(whole())
    assert "tree" in problems(head=good._replace(size=4, edge=head_of(whole()[:4]).edge))
    assert "tree" in problems(head=good._replace(edge=bytes(len(good.edge))))


def test_rows_that_the_log_does_not_explain():
    assert "replay" in problems(rows={})
    assert "replay" in problems(rows={FIRST: {**ROWS[FIRST], "title": "z"}})
    assert "replay" in problems(rows={**ROWS, SECOND: {"id": SECOND}})


def test_another_request_than_the_one_that_was_answered():
    record = seen()
    record.acknowledge([Change(FIRST, 3, "task.updated", "r7")])
    assert "other change" in problems(record=record)


def test_a_request_that_was_carried_out_in_part():
    record = seen()
    record.requests["r1"] = 2
    assert "lost" in problems(record=record)
    record = seen()
    record.doubt("r5", 2)
    assert "torn" in problems(record=record)


def test_dead_letters_are_the_forgeries():
    for found, forged, certain in (({b"1"}, {b"1", b"2"}, {b"1"}), (set(), {b"1"}, set())):
        good = Problems()
        check.dead_letters(found, forged, certain, good)
        assert not good
    bad = Problems()
    check.dead_letters({b"true"}, {b"1"}, {b"1"}, bad)
    assert set(bad.counts) == {"dead letter of a true event", "forgery not set aside"}
