"""Several recorders at once."""

import threading

from django.db import OperationalError, connections

from audit.models import DeadLetter
from audit.recorder import Recorder
from tests.recording import (
    assert_log_is_whole,
    messages,
    record,
    task_with_versions,
    versions,
    waiting,
)


def in_threads(*batches) -> None:
    errors = []

    def run(parts):
        try:
            handler = Recorder()
            for part in parts:
                while True:
                    try:
                        handler.handle(part)
                        break
                    except OperationalError as error:
                        if not handler.is_transient(error):
                            raise
                        connections.close_all()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[parts]) for parts in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def parts(batch, size):
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def test_recorders_at_once_with_the_same_messages(committed_db):
    task_with_versions(60)
    rows = waiting()
    in_threads(*(parts(messages(rows, partition=number), 7 + number) for number in range(3)))
    assert waiting() == []
    assert not DeadLetter.objects.exists()
    assert assert_log_is_whole() == 60


def test_recorders_at_once_with_different_messages(committed_db):
    tasks = [task_with_versions(10) for _ in range(6)]
    in_threads(*(parts([m for task in tasks[n::2] for m in messages(waiting(task.pk))], 4) for n in range(2)))
    assert waiting() == []
    assert assert_log_is_whole() == 60


def test_recorders_that_each_get_half_of_a_subject_record_what_is_in_order(committed_db):
    task = task_with_versions(20)
    rows = waiting()
    in_threads(parts(messages(rows[::2]), 3), parts(messages(rows[1::2], partition=1), 3))
    for _ in range(20):
        if rows := waiting():
            assert all(row.published_at is None for row in rows)
            record(messages(rows))
    assert versions(task.pk) == list(range(1, 21))
    assert_log_is_whole()
