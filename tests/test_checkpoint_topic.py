"""Reading all checkpoints of the topic, as a verification does."""

from confluent_kafka.admin import AdminClient

from audit.checkpoint import NEXT_KEY, Checkpoint
from audit.checkpoint_topic import CheckpointTopic
from audit.signed_note import Note, SigningKey
from taskpulse import kafka

NAME = "taskpulse/audit"


def note(key: SigningKey, size: int, *extensions: str) -> bytes:
    checkpoint = Checkpoint(NAME, size, bytes(32), extensions)
    return bytes(Note(checkpoint.text, (key.sign(checkpoint.text),)))


def sizes(*keys: SigningKey) -> list[int]:
    return [checkpoint.size for checkpoint, _ in CheckpointTopic().all([key.verifier for key in keys])]


def test_all_are_read_by_the_keys_that_are_known_and_those_they_hand_over_to(topic, monkeypatch):
    monkeypatch.setattr("audit.checkpoint_topic._WINDOW", 2)
    first, second, stranger = (SigningKey.generate(NAME) for _ in range(3))
    CheckpointTopic().publish(
        NAME,
        [
            note(first, 1), b"rubbish", note(second, 2), note(stranger, 3), note(stranger, 4, f"{NEXT_KEY}{stranger.verifier}"),
            note(first, 5, f"{NEXT_KEY}{second.verifier}", f"{NEXT_KEY}nonsense"), note(second, 6),
        ],
    )  # fmt: skip
    assert sizes(first) == [1, 5, 6]
    assert sizes(second) == [2, 6]
    assert sizes() == []


def test_what_is_published_later_is_not_among_them(topic):
    """A verification reads the heads after it: what came meanwhile must not look like a log that was cut."""
    key, publisher = SigningKey.generate(NAME), CheckpointTopic()
    publisher.publish(NAME, [note(key, 1)])
    found = CheckpointTopic().all([key.verifier])
    publisher.publish(NAME, [note(key, 2)])
    assert [checkpoint.size for checkpoint, _ in found] == [1]
    assert sizes(key) == [1, 2]


def test_a_topic_that_is_not_there_is_empty_and_is_not_made(topic, settings):
    assert sizes(SigningKey.generate(NAME)) == []
    assert settings.KAFKA_CHECKPOINT_TOPIC not in AdminClient(kafka.admin_settings()).list_topics(timeout=10).topics
