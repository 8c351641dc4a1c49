"""Promise 5 on the stream: whatever arrives, nothing stops, true events are recorded, and the rest is kept as it came."""

import ctypes
import json
import random
import time
from pathlib import Path

import confluent_kafka
from confluent_kafka import Producer
from django.conf import settings as django_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit import dead_letters
from audit.dead_letters import UNREADABLE_NAME
from audit.models import DeadLetter
from audit.recorder import Recorder
from taskpulse import kafka
from taskpulse.event_consumer import EventConsumer
from tests.recording import assert_log_is_whole, message, messages, record, task_with_versions, waiting


def _mutated(source: random.Random, payload: bytes) -> bytes:
    """A true event with something wrong in its bytes or in its meaning."""
    raw = bytearray(payload)
    kind = source.randrange(10)
    place = source.randrange(len(raw))
    if kind == 0:
        raw[place] ^= 1 << source.randrange(8)
    elif kind == 1:
        del raw[place:]
    elif kind == 2:
        raw[place:place] = source.randbytes(source.randrange(1, 40))
    elif kind == 3:
        raw += source.choice([b"\0", b" ", b"\n{}", b"\xff"])
    elif kind == 4:
        raw.replace(b'"title":"', b'"title":"' + source.choice([b"\\u0000", b"\\ud800", b"\xed\xa0\x80", b"\0", b"\xff"]))
    else:
        event = json.loads(payload)
        name = source.choice([*event, "unheard"])
        event[name] = source.choice(
            [None, True, -1, 10**400, 1e308, "", "x", "\0", "\ud800", "9" * 30, [], {}, [[[]]], "9999-12-31T23:59:59-23:59"]
        )
        raw = bytearray(json.dumps(event, ensure_ascii=source.random() < 0.9).encode("utf-8", "surrogatepass"))
    return bytes(raw)


def _noise(source: random.Random) -> bytes | None:
    return source.choice(
        [
            None, b"", b"null", b"{}", b"[]", b'"', b"NaN", b"\0", b"\xff\xfe\0\0", b'{"id":1e999}', b"1" * 5_000,
            source.randbytes(source.randrange(300)),
            b"[" * source.randrange(1, 20_000), b'{"a":' * source.randrange(1, 20_000),
            b'{"id":"\\ud800","type":"\\u0000"}',
        ]
    )  # fmt: skip


def _headers(source: random.Random):
    names = ["content-type", "", "\0", "x\0y", "\\u0000", "é😀", "\ud800", "\uffff", "a" * 3_000, "'; --"]
    return [(source.choice(names), source.choice([None, b"", b"\0\xff", source.randbytes(50)])) for _ in range(source.randrange(4))]


def test_what_fills_the_disk_is_kept_without_its_bytes(db, settings, monkeypatch):
    settings.DEAD_LETTER_MB = 1
    monkeypatch.setattr(dead_letters, "_full_until", 0.0)

    def letters_of(size: int, count: int = 1) -> list[DeadLetter]:
        known = set(DeadLetter.objects.values_list("pk", flat=True))
        record([message(random.randbytes(size), 0, b"key", [("a", b"b")]) for _ in range(count)])
        monkeypatch.setattr(dead_letters, "_full_until", 0.0)
        return list(DeadLetter.objects.exclude(pk__in=known).order_by("pk"))

    (whole,) = letters_of(900_000)  # as long as any true event may be
    assert len(whole.value) == 900_000
    (last,) = letters_of(200_000)
    assert len(last.value) == 200_000
    for cut in letters_of(300_000, 2):
        assert (cut.value, cut.key, cut.headers, cut.reason) == (None, None, [], "malformed")
        assert cut.detail.endswith("; its 300,000 bytes, key and headers are not kept (TASKPULSE_DEAD_LETTER_MB)")
        assert len(bytes(cut.value_digest)) == 32
    task_with_versions(3)
    record(messages(waiting()))
    assert assert_log_is_whole() == 3
    # The files keep their size; what is gone makes room.
    whole.delete()
    (again,) = letters_of(100_000)
    assert len(again.value) == 100_000


def test_ten_thousand_fuzzed_messages(db):
    source = random.Random(20260115)
    tasks = [task_with_versions(5) for _ in range(12)]
    rows = waiting()
    true = messages(rows)
    fuzzed = []
    for _ in range(10_000):
        value = _mutated(source, bytes(source.choice(rows).payload)) if source.random() < 0.7 else _noise(source)
        fuzzed.append(message(value, source.randrange(4), source.choice([None, b"", b"\0\xff", b"key"]), _headers(source)))
    true_bytes = {bytes(row.payload) for row in rows}
    wrong = [one for one in fuzzed if one.value() not in true_bytes]
    assert len(wrong) > 9_000
    # True events anywhere among them, in the order of their versions.
    batch, places = list(fuzzed), sorted(source.sample(range(len(fuzzed)), len(true)))
    for shift, (place, one) in enumerate(zip(places, true, strict=True)):
        batch.insert(place + shift, one)
    handler = Recorder()
    for start in range(0, len(batch), 1_000):
        handler.handle(batch[start : start + 1_000])
    assert waiting() == []
    assert assert_log_is_whole() == 5 * len(tasks)
    letters = {(letter.partition, letter.offset): letter for letter in DeadLetter.objects.all()}
    assert len(letters) == len(wrong)
    for one in wrong:
        letter = letters[one.partition(), one.offset()]
        assert (None if letter.value is None else bytes(letter.value)) == one.value()
        assert (None if letter.key is None else bytes(letter.key)) == one.key()
        assert [raw for _, raw in letter.headers] == [None if raw is None else raw.hex() for _, raw in one.headers() or []]
    # Without a true row or entry nothing can be altered, and nothing is held for what a forger sends.
    assert set(DeadLetter.objects.values_list("reason", flat=True)) >= {"malformed", "altered"}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.none(), st.binary(max_size=200)),
    st.one_of(st.none(), st.binary(max_size=20)),
    st.lists(st.tuples(st.text(st.characters(), max_size=10), st.one_of(st.none(), st.binary(max_size=20))), max_size=3),
)
def test_any_bytes_in_any_part_of_a_message(db, value, key, headers):
    one = message(value, key=key, headers=headers)
    record([one])
    letter = DeadLetter.objects.latest("id")
    assert (letter.reason, letter.offset) == ("malformed", one.offset())
    assert (None if letter.value is None else bytes(letter.value)) == value
    assert (None if letter.key is None else bytes(letter.key)) == key
    assert [raw for _, raw in letter.headers] == [None if raw is None else raw.hex() for _, raw in headers]


def test_a_headers_name_is_kept_as_it_is_where_postgresql_can(db):
    names = ["content-type", "\\u0000", "é😀", ""]
    record([message(b"x", headers=[(name, b"\0\xff") for name in names])])
    assert DeadLetter.objects.get().headers == [[name, "00ff"] for name in names]


# Over the wire: names that are no UTF-8 crash confluent-kafka's own reading.


def _produce_raw_headers(topic: str, value: bytes, headers: list[tuple[bytes, bytes | None]]) -> None:
    """By librdkafka itself, since confluent-kafka encodes names from text."""
    package = Path(confluent_kafka.__file__).parent
    library = next(path for place in ("../confluent_kafka.libs", ".dylibs", ".") for path in (package / place).glob("*rdkafka*.*"))
    kafka_library = ctypes.CDLL(str(library))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(kafka_library, name).restype = ctypes.c_void_p
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    error = ctypes.create_string_buffer(512)
    settings_of_it = kafka_library.rd_kafka_conf_new()
    kafka_library.rd_kafka_conf_set(
        pointer(settings_of_it), b"bootstrap.servers", kafka.bootstrap_servers().encode(), error, size(512)
    )
    producer = kafka_library.rd_kafka_new(0, pointer(settings_of_it), error, size(512))
    made = kafka_library.rd_kafka_headers_new(size(len(headers)))
    for name, raw in headers:
        length = 0 if raw is None else len(raw)
        kafka_library.rd_kafka_header_add(pointer(made), name, ctypes.c_ssize_t(len(name)), raw, ctypes.c_ssize_t(length))
    # rd_kafka_producev: pairs of a tag (1 topic, 4 value, 10 headers, 0 end) and its arguments.
    tag = ctypes.c_int
    sent = kafka_library.rd_kafka_producev(
        pointer(producer), tag(1), ctypes.c_char_p(topic.encode()), tag(4), ctypes.c_char_p(value), size(len(value)), tag(10),
        pointer(made), tag(0),
    )  # fmt: skip
    assert sent == 0
    assert kafka_library.rd_kafka_flush(pointer(producer), 10_000) == 0
    kafka_library.rd_kafka_destroy(pointer(producer))


def test_over_the_wire_nothing_gets_stuck_and_header_names_may_hold_any_bytes(committed_db, topic):
    task_with_versions(3)
    producer = Producer(kafka.producer_settings())
    rows = waiting()
    source = random.Random(7)
    for number in range(600):
        value = _mutated(source, bytes(rows[0].payload)) if number % 2 else _noise(source)
        producer.produce(topic, value, source.choice([None, b"", b"\0"]), headers=[("h", source.randbytes(8)), ("n", None)])
    producer.produce(topic, b"huge headers", headers=[(f"name {number}", b"\xff" * 10_000) for number in range(60)])
    assert producer.flush(20) == 0
    _produce_raw_headers(topic, b"odd names", [(b"\xff\xfe", b"\0\1"), ("é".encode(), b"2"), (b"\xed\xa0\x80", None), (b"", b"")])
    for row in rows:
        producer.produce(topic, bytes(row.payload), partition=3)
    assert producer.flush(20) == 0

    class Hesitant(Recorder):
        """Fails once with the batch of the odd names, whose messages are read a second time."""

        failed = False

        def handle(self, batch):
            super().handle(batch)
            if not self.failed and any(one.value() == b"odd names" for one in batch):
                self.failed = True
                DeadLetter.objects.filter(value=b"odd names").delete()
                raise ConnectionError("once more")

        def is_transient(self, error):
            return isinstance(error, ConnectionError) or super().is_transient(error)

    handler = Hesitant()
    consumer = EventConsumer(handler)
    consumer.open()
    try:
        assert consumer.run_until_caught_up()
    finally:
        consumer.close()
    assert handler.failed
    assert waiting() == []
    assert assert_log_is_whole() == 3
    odd = DeadLetter.objects.get(value=b"odd names")
    assert odd.headers == [[UNREADABLE_NAME, "0001"], ["é", "32"], [UNREADABLE_NAME, ""], ["", ""]] or odd.headers == [
        [UNREADABLE_NAME, "0001"], ["é", "32"], [UNREADABLE_NAME, None], ["", ""]
    ]  # fmt: skip
    huge = DeadLetter.objects.get(value=b"huge headers")
    assert sum(len(raw) // 2 for _, raw in huge.headers) == 600_000


def test_a_flood_of_large_messages_stays_within_bounds(committed_db, topic):
    """What a forger can make a batch hold is bounded in bytes, however large its messages are."""
    producer = Producer(kafka.producer_settings())
    for number in range(12):
        producer.produce(topic, b"%d" % number + b"x" * 900_000, partition=number % 4)
    assert producer.flush(20) == 0
    sizes = []

    class Weigh(Recorder):
        def handle(self, batch):
            sizes.append(sum(map(len, batch)))
            super().handle(batch)

    consumer = EventConsumer(Weigh())
    consumer.open()
    try:
        end = time.monotonic() + 30
        while DeadLetter.objects.count() < 12 and time.monotonic() < end:
            consumer.step(0.5)
    finally:
        consumer.close()
    assert DeadLetter.objects.count() == 12
    assert max(sizes) <= 8_000_000 + 16 * 900_010
    assert django_settings.CONSUMER_BATCH >= 1_000
