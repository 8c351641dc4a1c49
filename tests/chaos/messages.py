"""Messages that nobody's change made: copies of true events, and forgeries that must be set aside."""

import hashlib
import json
import random
import uuid

import psycopg
from confluent_kafka import KafkaError, KafkaException, Producer

from tasks import events

# True events: those that wait, and some that are recorded already. JSONB gives the canonical bytes back.
_WAITING = "SELECT payload FROM tasks_outbox ORDER BY random() LIMIT %s"
_RECORDED = (
    "SELECT event_data FROM task_audit_log WHERE seq > (SELECT size FROM audit_log ORDER BY first_seq DESC LIMIT 1) - %s LIMIT %s"
)
# Seconds for a delivery report; after that it is not known whether a message is in the topic.
_DELIVERY = 4.0


class Messages:
    """Produces to the topic, and keeps the SHA-256 of each forgery: `certain` are those that the topic acknowledged."""

    def __init__(self, seed: str, topic: str, bootstrap_servers, database_url: str):
        self._random = random.Random(seed)
        self._topic, self._bootstrap_servers, self._database_url = topic, bootstrap_servers, database_url
        self._delayed: list[bytes] = []
        self.forged: set[bytes] = set()
        self.certain: set[bytes] = set()
        self.copies = 0

    def forget_certainty(self) -> None:
        """The broker lost its disk: of what it acknowledged, only the dead letters know what was read."""
        self.certain.clear()

    def copy(self, session: psycopg.Connection) -> str:
        """Copies of true events to any partition: waiting ones overtake, recorded ones repeat, some come later."""
        true = [bytes(payload) for (payload,) in session.execute(_WAITING, [self._random.randrange(1, 30)])]
        true += [events.canonical(document) for (document,) in session.execute(_RECORDED, [self._random.randrange(1, 3000), 20])]
        self._random.shuffle(true)
        later, self._delayed = self._delayed, true[: len(true) // 3]
        batch = later + true[len(true) // 3 :] + true[-3:]
        produced = self._produce(batch)
        self.copies += len(produced)
        return f"{len(produced)} copies"

    def forge(self, session: psycopg.Connection, count: int = 12) -> str:
        """Altered, forged, foreign and malformed messages."""
        true = [bytes(payload) for (payload,) in session.execute(_WAITING, [5])]
        true += [events.canonical(document) for (document,) in session.execute(_RECORDED, [500, 5])]
        batch = [self._forgery(true) for _ in range(count)]
        self.forged |= {_digest(value) for value in batch}
        produced = self._produce(batch)
        self.certain |= {_digest(value) for value in produced}
        return f"{len(produced)} forgeries"

    def _forgery(self, true: list[bytes]) -> bytes | None:
        kind = self._random.randrange(8)
        if kind == 0 or not true:
            return self._random.choice((None, b"", b"\x00", b"null", b"[" * 3_000, b'{"id":' * 500, self._random.randbytes(200)))
        original = self._random.choice(true)
        if kind < 3:  # a flipped bit, wherever it falls
            place = self._random.randrange(len(original))
            return original[:place] + bytes([original[place] ^ 1 << self._random.randrange(8)]) + original[place + 1 :]
        if kind == 3:
            return original[: self._random.randrange(len(original))]
        document = json.loads(original)
        if kind == 4:  # a true event that names another actor
            document["actorname"] = "somebody else"
        elif kind == 5:  # another encoding of a true event
            return original + b" "
        elif kind == 6:  # an event that no change made, in the place of the next version
            document["id"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
            document["sequence"] = f"{int(document['sequence']) + 1:020d}"
        else:
            document["id"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
            document["source"] = "/somewhere/else"
        return events.canonical(document)

    def _produce(self, values: list[bytes | None]) -> list[bytes | None]:
        """Returns those that the broker acknowledged."""
        try:
            producer = Producer(
                {"bootstrap.servers": self._bootstrap_servers(), "message.timeout.ms": int(_DELIVERY * 1000), "log_level": 0}
            )
            count = len(producer.list_topics(self._topic, timeout=_DELIVERY).topics[self._topic].partitions)
        except (KafkaException, OSError):
            return []
        acknowledged: list[bytes | None] = []
        for value in values if count else ():

            def report(error: KafkaError | None, _message, value=value) -> None:
                if error is None:
                    acknowledged.append(value)

            key = self._random.choice((None, b"", b"key", self._random.randbytes(8)))
            headers = self._random.choice(([], [("content-type", b"application/cloudevents+json")], [("x", None)]))
            partition = self._random.randrange(count)
            producer.produce(self._topic, value, key, partition=partition, headers=headers, on_delivery=report)
        producer.flush(_DELIVERY + 1)
        producer.purge()
        return acknowledged


def _digest(value: bytes | None) -> bytes:
    return hashlib.sha256(value or b"").digest()
