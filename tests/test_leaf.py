"""Leaf record v1: the documented vectors, the canonical form, what is refused."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from audit import leaf
from audit.merkle import Edge, leaf_hash
from tasks.events import rfc3339

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "leaf-record.md"
VECTORS = json.loads(re.search(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1])

ENTRY = {
    "origin": "taskpulse/audit",
    "seq": 17,
    "event_id": uuid.UUID("0199a3c4-5d6e-7f80-8123-456789abcdef"),
    "event_type": "task.updated",
    "subject_type": "task",
    "subject_id": "0199a3c4-5d6e-7000-9123-0123456789ab",
    "version": 4,
    "task_id": uuid.UUID("0199a3c4-5d6e-7000-9123-0123456789ab"),
    "actor_id": "7",
    "occurred_at": datetime(2026, 1, 15, 10, 30, 0, 123456, UTC),
    "processed_at": datetime(2026, 1, 15, 10, 30, 0, 150000, UTC),
    "topic": "task-events",
    "partition": 3,
    "offset": 998877,
    "digest": bytes(range(32)),
}


def record(**changes) -> bytes:
    return leaf.record(**(ENTRY | changes))


def from_document(entry: dict) -> dict:
    """The arguments that the documented entry stands for."""
    return entry | {
        "event_id": uuid.UUID(entry["event_id"]),
        "task_id": entry["task_id"] and uuid.UUID(entry["task_id"]),
        "occurred_at": datetime.fromisoformat(entry["occurred_at"]),
        "processed_at": datetime.fromisoformat(entry["processed_at"]),
        "digest": bytes.fromhex(entry["digest"]),
    }


def test_documented_vectors():
    assert len(VECTORS) >= 3
    edge = Edge()
    for vector in VECTORS:
        made = leaf.record(**from_document(vector["entry"]))
        assert made == vector["record"].encode()
        assert leaf_hash(made).hex() == vector["leaf_hash"]
        edge.append(leaf_hash(made))
        assert edge.root().hex() == vector["root"]


def test_documented_order_of_elements():
    named = re.findall(r"^\| (\d+) \| ([a-z ]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in named] == list(range(16))
    elements = json.loads(VECTORS[0]["record"])
    assert elements == [leaf.NAME, *VECTORS[0]["entry"].values()]
    assert [name.replace(" ", "_") for _, name in named[1:]] == list(VECTORS[0]["entry"])


whole = st.integers(0, 2**53 - 1)
zones = st.sampled_from([UTC, ZoneInfo("UTC"), ZoneInfo("Asia/Kathmandu"), timezone(timedelta(hours=-11, minutes=-30))])
instants = st.builds(
    lambda moment, zone: moment.replace(tzinfo=zone),
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)) | st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)).map(
        lambda moment: moment.replace(microsecond=0)
    ),
    zones,
)  # fmt: skip
texts = st.text(max_size=40)


@given(
    st.fixed_dictionaries(
        {
            "origin": texts, "seq": whole, "event_id": st.uuids(), "event_type": texts, "subject_type": texts, "subject_id": texts,
            "version": st.none() | whole, "task_id": st.none() | st.uuids(), "actor_id": st.none() | texts,
            "occurred_at": instants, "processed_at": instants, "topic": texts, "partition": st.integers(0, 2**31 - 1),
            "offset": whole, "digest": st.binary(min_size=32, max_size=32),
        }
    )
)  # fmt: skip
def test_record_is_the_canonical_form_of_its_array(entry):
    """An independent JCS library makes the same bytes, times by `rfc3339`."""
    assert leaf.record(**entry) == rfc8785.dumps(
        [
            "taskpulse-leaf-v1", entry["origin"], entry["seq"], str(entry["event_id"]), entry["event_type"],
            entry["subject_type"], entry["subject_id"], entry["version"],
            None if entry["task_id"] is None else str(entry["task_id"]), entry["actor_id"], rfc3339(entry["occurred_at"]),
            rfc3339(entry["processed_at"]), entry["topic"], entry["partition"], entry["offset"], entry["digest"].hex(),
        ]
    )  # fmt: skip


@pytest.mark.parametrize("field", list(ENTRY))
def test_every_field_is_committed_to(field):
    value = ENTRY[field]
    if isinstance(value, int):
        other = value + 1
    elif isinstance(value, str):
        other = value + "x"
    elif isinstance(value, bytes):
        other = value[::-1]
    elif isinstance(value, datetime):
        other = value + timedelta(microseconds=1)
    else:
        other = uuid.UUID(int=value.int + 1)
    assert record(**{field: other}) != record()


@pytest.mark.parametrize("text", ["1:00:00", "x\nseq 18", '","x', "null"])
def test_text_cannot_pass_for_structure(text):
    """Two entries with another division of the same characters have other records."""
    assert record(subject_type="a" + text, subject_id="b") != record(subject_type="a", subject_id=text + "b")
    assert json.loads(record(subject_id=text))[6] == text


def test_null_is_not_the_text_null():
    assert record(actor_id=None) != record(actor_id="null")
    assert record(task_id=None, version=None)


def test_limit_of_a_tile_bundle():
    room = leaf.MAX_RECORD - len(record(actor_id=""))
    assert leaf.MAX_RECORD == 65_535
    assert len(record(actor_id="a" * room)) == 65_535
    with pytest.raises(ValueError, match="entry 17: 65536 bytes"):
        record(actor_id="a" * (room + 1))
    with pytest.raises(ValueError, match="bytes"):
        record(actor_id="é" * (room // 2 + 1))  # bytes count, not characters


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 2**53},
        {"seq": 2**63},
        {"version": 2**53},
        {"actor_id": "\ud800"},
        {"digest": b"short"},
        {"digest": bytes(33)},
        {"occurred_at": datetime(2026, 1, 15, 10, 30, 0, 1)},
        {"processed_at": datetime(2026, 1, 15, 10, 30)},
        {"occurred_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))},
    ],
)
def test_what_no_record_can_hold_is_refused(changes):
    with pytest.raises(ValueError, match="leaf record"):
        record(**changes)
