"""What is not true is kept apart as a dead letter, and stops nothing."""

import json

import pytest

from audit.models import DeadLetter, Entry
from tasks.models import Task
from tests.recording import (
    assert_log_is_whole,
    forged,
    message,
    messages,
    record,
    recorded,
    task_with_versions,
    versions,
    waiting,
)


@pytest.mark.parametrize("forgery_first", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_a_forgery_with_a_true_id_never_removes_the_true_row(db, forgery_first, together):
    Task.objects.create(title="true")
    (row,) = waiting()
    true, false = message(bytes(row.payload)), message(bytes(row.payload).replace(b"true", b"lie!"))
    order = [false, true] if forgery_first else [true, false]
    for batch in [order] if together else [[one] for one in order]:
        record(batch)
        if batch == [false] and forgery_first:
            assert waiting() == [row]
    assert Entry.objects.get().event_data["data"]["task"]["title"] == "true"
    letter = DeadLetter.objects.get()
    assert letter.reason == "altered"
    assert bytes(letter.value) == false.value()
    assert_log_is_whole()


def test_bytes_that_say_the_same_in_another_form_are_altered(db):
    Task.objects.create(title="true")
    (row,) = waiting()
    record([message(bytes(row.payload) + b" "), message(json.dumps(json.loads(bytes(row.payload))).encode())])
    assert list(DeadLetter.objects.values_list("reason", flat=True)) == ["altered", "altered"]
    assert waiting() == [row]
    assert recorded() == []


def test_what_no_change_made_is_forged(db):
    record([message(forged())])
    letter = DeadLetter.objects.get()
    assert (letter.reason, recorded()) == ("forged", [])


def test_a_forgery_of_a_live_subjects_next_version_holds_nothing_up(db):
    task = task_with_versions(2)
    rows = waiting()
    fake = forged(subject=f"task/{task.pk}", taskid=str(task.pk), sequence="00000000000000000003")
    record([message(fake), *messages(rows)])
    assert versions(task.pk) == [1, 2]
    assert DeadLetter.objects.get().reason == "forged"


def test_an_event_of_another_source_is_foreign(db):
    record([message(forged(source="/elsewhere"))])
    assert DeadLetter.objects.get().reason == "foreign"


def test_what_cannot_be_read_is_malformed_and_its_bytes_are_kept(db):
    Task.objects.create(title="true")
    values = [b"", None, b"\xff\xfe", b"{}", b"[1]", b'{"id": 1}', forged(time="yesterday"), forged(time="2026-01-15T10:30:00")]
    values += [forged(sequence="1" * 21), forged(sequence="-1"), forged(specversion="2.0"), b"[" * 100_000]
    record([message(value) for value in values] + messages(waiting()))
    letters = DeadLetter.objects.order_by("id")
    assert {letter.reason for letter in letters} == {"malformed"}
    assert [None if letter.value is None else bytes(letter.value) for letter in letters] == values
    assert all(letter.detail for letter in letters)
    assert len(recorded()) == 1


@pytest.mark.parametrize(
    "attributes",
    [
        {"sequence": "9" * 20},
        {"time": "0001-01-01T00:00:00+14:00"},
        {"time": "9999-12-31T23:59:59-14:00"},
        {"subject": "x" * 900_000},
        {"actorid": "\udcff"},
        {"subject": "task/\x00"},
        {"taskid": "00000000-0000-0000-0000-000000000000"},
    ],
    ids=str,
)
def test_a_forgery_of_extreme_values_is_a_dead_letter(db, attributes):
    record([message(forged(**{name: value[:900_000] for name, value in attributes.items()}))])
    assert DeadLetter.objects.get().reason in {"forged", "malformed"}


def test_the_same_dead_letter_is_kept_once(db):
    letter = message(b"no event")
    record([letter])
    record([letter])
    assert DeadLetter.objects.count() == 1
    record([message(b"no event")])  # the same bytes at another offset
    assert DeadLetter.objects.count() == 2
