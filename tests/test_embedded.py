"""The embedded PostgreSQL and broker, and the settings of the Kafka clients."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from taskpulse import kafka
from taskpulse.embedded import broker, unprivileged
from taskpulse.embedded.postgres import EmbeddedPostgres, PostgresError, stop
from tests.mock_cluster import Request
from tests.running_up import free_port

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL, "start_new_session": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A HOME with a data directory; below a directory that only its owner may enter, as pytest makes it."""
    home = tmp_path_factory.mktemp("home")
    EmbeddedPostgres(home, durable=False).prepare()
    return home


@pytest.fixture
def short_home():
    """One whose socket is in it, as with most people."""
    home = Path(tempfile.mkdtemp(prefix="taskpulse-home-"))
    home.chmod(0o711)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def server(data):
    postgres = EmbeddedPostgres(data, durable=False)
    postgres.prepare()
    process = postgres.start(**QUIET)
    postgres.wait_until_ready(process, 60)
    yield postgres, process
    stop(process)


# PostgreSQL.


def test_text_is_utf8_and_ordered_by_code_point(server):
    postgres, _ = server
    postgres.create_database("a/b ü")
    postgres.create_database("a/b ü")
    with psycopg.connect(postgres.url("a/b ü")) as connection:
        assert connection.execute("SELECT current_database(), lower('ÄÉ'), 'Z' < 'a', 'z' < 'é'").fetchone() == (
            "a/b ü",
            "äé",
            True,
            True,
        )
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)


def test_it_listens_on_a_private_socket_alone(server):
    postgres, _ = server
    assert postgres.socket_directory.stat().st_mode & 0o777 == 0o700
    assert postgres.data.stat().st_mode & 0o777 == 0o700
    with psycopg.connect(postgres.url("postgres")) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


@pytest.mark.skipif(os.geteuid() != 0, reason="for root only")
def test_as_root_the_server_is_another_user_and_no_mode_is_changed(data, server):
    _, process = server
    assert os.stat(f"/proc/{process.pid}").st_uid == pwd.getpwnam(unprivileged.USER).pw_uid
    assert any(parent.stat().st_mode & 0o007 == 0 for parent in data.parents), "pytest's directory is private"


@pytest.mark.skipif(os.geteuid() != 0, reason="for root only")
def test_without_a_capability_the_closed_directory_is_named(data, monkeypatch):
    monkeypatch.setattr(unprivileged, "_permitted_capabilities", lambda: 0)
    postgres = EmbeddedPostgres(data)
    postgres.prepare()
    with pytest.raises(PostgresError, match=r"the user nobody cannot enter /.*set TASKPULSE_HOME"):
        postgres.start(**QUIET)


def test_a_home_too_long_for_a_socket_gets_a_short_private_directory(tmp_path):
    home = tmp_path / ("x" * 120)
    home.mkdir()
    postgres = EmbeddedPostgres(home, durable=False)
    postgres.prepare()
    process = postgres.start(**QUIET)
    try:
        postgres.wait_until_ready(process, 60)
        assert len(os.fsencode(postgres.socket_directory)) < 80
        assert postgres.socket_directory.stat().st_mode & 0o777 == 0o700
        assert EmbeddedPostgres(home).socket_directory == postgres.socket_directory
    finally:
        stop(process)
        postgres.socket_directory.rmdir()


def test_after_a_kill_what_was_committed_is_there(data):
    postgres = EmbeddedPostgres(data)
    postgres.prepare()
    process = postgres.start(**QUIET)
    postgres.wait_until_ready(process, 60)
    with psycopg.connect(postgres.url("postgres")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    process.kill()
    process.wait()
    assert (postgres.data / "postmaster.pid").exists()
    postgres.prepare()
    process = postgres.start(**QUIET)
    postgres.wait_until_ready(process, 60)
    with psycopg.connect(postgres.url("postgres")) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
        connection.execute("DROP TABLE kept")
    stop(process)
    assert process.returncode == 0
    assert not (postgres.data / "postmaster.pid").exists()


@pytest.fixture
def somebody_else():
    """A process of the user that the server runs as."""
    name = unprivileged.USER if os.geteuid() == 0 else None
    other = subprocess.Popen(["/bin/sleep", "60"], user=name)
    yield other
    other.kill()
    other.wait()


@pytest.mark.parametrize("text", ["", "{pid}\n{data}\n1\n5432\n\n\n\nready\n"], ids=["empty", "of_somebody_else"])
@pytest.mark.parametrize("name", ["postgres/postmaster.pid", "run/.s.PGSQL.5432.lock"])
def test_the_lock_file_of_a_killed_server_stops_no_other(short_home, somebody_else, name, text):
    """Empty where it was killed between making and writing it; with somebody's number after the machine began anew."""
    postgres = EmbeddedPostgres(short_home, durable=False)
    postgres.prepare()
    lock = short_home / name
    lock.write_text(text.format(pid=somebody_else.pid, data=postgres.data))
    os.chown(lock, postgres.data.stat().st_uid, -1)
    process = postgres.start(**QUIET)
    postgres.wait_until_ready(process, 60)
    stop(process)
    assert somebody_else.poll() is None


def test_a_server_of_an_earlier_run_is_ended_first(data):
    postgres = EmbeddedPostgres(data, durable=False)
    postgres.prepare()
    left = postgres.start(**QUIET)
    postgres.wait_until_ready(left, 60)
    # As init would: a child nobody waits for would stay as a zombie.
    signal.signal(signal.SIGCHLD, lambda *_: left.poll())
    try:
        stop(postgres.start(**QUIET))
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert left.wait(5) == 0


def test_the_server_of_other_data_is_left_alone(data, short_home):
    """Its number may be what a stale file holds."""
    postgres, other = EmbeddedPostgres(data, durable=False), EmbeddedPostgres(short_home, durable=False)
    for one in (postgres, other):
        one.prepare()
    process = other.start(**QUIET)
    other.wait_until_ready(process, 60)
    (data / "postgres" / "postmaster.pid").write_text((short_home / "postgres" / "postmaster.pid").read_text())
    stop(postgres.start(**QUIET))
    assert process.poll() is None
    stop(process)


_BUSY = "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$"


def test_the_data_is_not_shared_with_what_a_killed_server_left(data):
    """A process of it that works on ends only when it next waits."""
    postgres = EmbeddedPostgres(data, durable=False)
    postgres.prepare()
    killed = postgres.start(**QUIET)
    postgres.wait_until_ready(killed, 60)
    connection = psycopg.connect(postgres.url("postgres"), autocommit=True)
    connection.pgconn.send_query(_BUSY.encode())
    time.sleep(0.2)
    killed.kill()
    killed.wait()
    assert postgres.start(**QUIET).wait(30) == 1
    os.kill(connection.info.backend_pid, signal.SIGKILL)
    connection.close()
    process = postgres.start(**QUIET)
    postgres.wait_until_ready(process, 60)
    stop(process)


def test_what_a_kill_left_half_made_is_made_anew(tmp_path):
    half = tmp_path / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    EmbeddedPostgres(tmp_path, durable=False).prepare()
    assert not half.exists()
    assert (tmp_path / "postgres" / "global" / "pg_control").exists()


def test_data_of_another_version_is_left_alone(tmp_path):
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(PostgresError, match="was made by PostgreSQL 17, this is 18"):
        EmbeddedPostgres(tmp_path).prepare()


def test_a_server_that_ends_at_once_is_reported(data):
    postgres = EmbeddedPostgres(data, options={"shared_buffers": "nonsense"})
    postgres.prepare()
    with pytest.raises(PostgresError, match="ended at once"):
        postgres.wait_until_ready(postgres.start(**QUIET), 30)


_PARENT = """
import os, sys
from pathlib import Path
from taskpulse.embedded import broker
from taskpulse.embedded.postgres import EmbeddedPostgres
home = Path(sys.argv[1])
postgres = EmbeddedPostgres(home, durable=False)
postgres.prepare()
server = postgres.start(stdout=2, start_new_session=True)
postgres.wait_until_ready(server, 60)
print(server.pid, broker.start(home, stdout=2, start_new_session=True).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_nothing_outlives_a_parent_that_is_killed(data):
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    end = time.monotonic() + 15
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < end, "a child of a killed parent lives on"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# The broker.


def test_a_broker_tells_its_address_and_ends_on_sigterm(wipeable_broker):
    document = json.loads((wipeable_broker.home / broker.FILE).read_text())
    assert document == {"bootstrap_servers": wipeable_broker.bootstrap_servers, "pid": wipeable_broker.process.pid}
    wipeable_broker.process.terminate()
    assert wipeable_broker.process.wait(10) == 0


def test_a_topic_is_made_on_first_use_with_four_partitions(faulty_broker, settings):
    kafka.ensure_topic(settings.KAFKA_TOPIC)
    metadata = Producer(kafka.producer_settings()).list_topics(settings.KAFKA_TOPIC, 10)
    assert len(metadata.topics[settings.KAFKA_TOPIC].partitions) == 4


def test_a_group_gets_its_first_message_within_a_second_or_so(topic):
    """The broker's own 3 s of waiting for more members are cut short."""
    produce(topic, b"first")
    consumer = Consumer(kafka.consumer_settings("quick"))
    consumer.subscribe([topic])
    began = time.monotonic()
    message = consumer.poll(20)
    waited = time.monotonic() - began
    consumer.close()
    assert message.value() == b"first"
    if kafka.uses_embedded_broker():
        assert waited < 2.5


def produce(topic: str, *values: bytes, **settings) -> list[KafkaError | None]:
    producer, errors = Producer(kafka.producer_settings() | settings), []
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=lambda error, message: errors.append(error))
    producer.flush(20)
    return errors


def test_a_wiped_broker_is_found_again_and_empty(wipeable_broker, settings):
    assert produce(settings.KAFKA_TOPIC, b"lost") == [None]
    before = wipeable_broker.bootstrap_servers
    wipeable_broker.wipe()
    assert wipeable_broker.bootstrap_servers != before
    kafka.ensure_topic(settings.KAFKA_TOPIC)
    consumer = Consumer(kafka.consumer_settings("g"))
    assert consumer.get_watermark_offsets(TopicPartition(settings.KAFKA_TOPIC, 0), 10) == (0, 0)
    consumer.close()


def test_faults_can_be_injected(faulty_broker, settings):
    topic = settings.KAFKA_TOPIC
    faulty_broker.create_topic(topic, 2)
    faulty_broker.answer_with(Request.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)
    assert [error and error.code() for error in produce(topic, b"1")] == [KafkaError.MSG_SIZE_TOO_LARGE]
    faulty_broker.down()
    with pytest.raises(KafkaException):
        Producer(kafka.producer_settings()).list_topics(timeout=0.5)
    faulty_broker.up()
    assert produce(topic, b"1", b"2", b"3") == [None] * 3
    faulty_broker.delay(300)
    began = time.monotonic()
    assert len(Producer(kafka.producer_settings()).list_topics(topic, 10).topics[topic].partitions) == 2
    assert time.monotonic() - began > 0.3


# The clients' settings.


def test_no_broker_says_what_can_be_done(settings, tmp_path):
    settings.KAFKA_BOOTSTRAP_SERVERS, settings.TASKPULSE_HOME = "", tmp_path
    with pytest.raises(kafka.NoBroker, match=r"set KAFKA_BOOTSTRAP_SERVERS, or run `manage.py up`"):
        kafka.bootstrap_servers()
    for content in ("", "[]", "{}", '{"pid": 1}'):
        (tmp_path / kafka.BROKER_FILE).write_text(content)
        with pytest.raises(kafka.NoBroker, match=r"broker\.json: cannot be read"):
            kafka.producer_settings()


def test_the_environment_goes_before_the_embedded_broker(settings):
    settings.KAFKA_BOOTSTRAP_SERVERS = "kafka-1:9092,kafka-2:9092"
    assert not kafka.uses_embedded_broker()
    assert kafka.consumer_settings("g")["bootstrap.servers"] == "kafka-1:9092,kafka-2:9092"
    made_by_us_alone = (kafka.consumer_settings("g"), kafka.producer_settings(), kafka.admin_settings())
    assert [of_client["allow.auto.create.topics"] for of_client in made_by_us_alone] == [False] * 3


def test_nothing_is_committed_unless_the_consumer_says_so(topic):
    produce(topic, b"1")
    consumer = Consumer(kafka.consumer_settings("careful"))
    consumer.subscribe([topic])
    message = consumer.poll(20)
    with pytest.raises(KafkaException) as caught:
        consumer.commit(asynchronous=False)  # of what is stored: being delivered stores nothing
    assert caught.value.args[0].code() == KafkaError._NO_OFFSET
    consumer.store_offsets(message)
    consumer.close()  # with auto-commit this would commit
    after = Consumer(kafka.consumer_settings("careful"))
    assert after.committed([TopicPartition(topic, 0)], 10)[0].offset < 0
    after.close()


def test_librdkafka_speaks_through_logging_and_repeats_itself_seldom(settings, caplog, capfd):
    settings.KAFKA_BOOTSTRAP_SERVERS = f"127.0.0.1:{free_port()}"
    producer, another = Producer(kafka.producer_settings()), Producer(kafka.producer_settings())
    end = time.monotonic() + 10
    while "Connection refused" not in caplog.text and time.monotonic() < end:
        producer.poll(0.1)
    producer.poll(2)  # it goes on trying
    another.poll(1)
    assert [record.name for record in caplog.records if "Connection refused" in record.getMessage()] == ["taskpulse.kafka"]
    assert "rdkafka" not in capfd.readouterr().err


def test_a_topic_that_is_there_is_left_as_it_is(topic):
    kafka.ensure_topic(topic, partitions=7)
    assert len(Producer(kafka.producer_settings()).list_topics(topic, 10).topics[topic].partitions) == 4
