"""Promise 3, the order: what comes early, twice, or not at all is recorded in version order."""

from audit import recorder
from audit.models import DeadLetter, Entry
from tests.recording import (
    assert_log_is_whole,
    message,
    messages,
    publish_all,
    record,
    recorded,
    task_with_versions,
    versions,
    waiting,
)


def test_a_batch_is_sorted_by_version_within_each_subject(db):
    one, two = task_with_versions(3), task_with_versions(2)
    batch = messages(waiting())
    record(batch[::-1])
    assert recorded() == [(str(two.pk), 1), (str(two.pk), 2), (str(one.pk), 1), (str(one.pk), 2), (str(one.pk), 3)]
    assert_log_is_whole()


def test_an_early_event_is_sent_back_with_all_that_follow_it(db):
    task, other = task_with_versions(4), task_with_versions(2)
    publish_all()
    first, second, third, fourth = waiting(task.pk)
    record(messages([third, *waiting(other.pk)]))
    assert recorded() == [(str(other.pk), 1), (str(other.pk), 2)]
    assert [(row.version, row.published_at) for row in waiting()] == [(1, None), (2, None), (3, None), (4, None)]
    record(messages([first, second, third, fourth]))
    assert versions(task.pk) == [1, 2, 3, 4]
    assert waiting() == []
    assert not DeadLetter.objects.exists()
    assert_log_is_whole()


def test_what_may_be_recorded_of_a_subject_is_and_the_rest_is_sent_back(db):
    task = task_with_versions(4)
    publish_all()
    first, second, third, fourth = waiting(task.pk)
    before = recorder.REORDERED._value.get()
    record(messages([fourth, second, first]))
    assert versions(task.pk) == [1, 2]
    assert [(row.version, row.published_at) for row in waiting()] == [(3, None), (4, None)]
    assert recorder.REORDERED._value.get() == before + 1
    record(messages([third, fourth]))
    assert versions(task.pk) == [1, 2, 3, 4]


def test_sending_back_leaves_other_subjects_alone(db):
    task, other = task_with_versions(2), task_with_versions(2)
    publish_all()
    record(messages(waiting(task.pk)[1:]))
    assert all(row.published_at is not None for row in waiting(other.pk))


def test_a_message_lost_on_the_way(db):
    task = task_with_versions(3)
    publish_all()
    first, second, third = messages(waiting())
    record([first, third])  # the second never came
    assert versions(task.pk) == [1]
    assert [row.published_at for row in waiting()] == [None, None]
    record([second, third])
    assert versions(task.pk) == [1, 2, 3]


def test_partitions_added_later_versions_come_first_by_another_one(db):
    task = task_with_versions(4)
    publish_all()
    rows = waiting()
    record(messages(rows[2:], partition=5))
    assert versions(task.pk) == []
    record(messages(rows[:2], partition=1))
    assert versions(task.pk) == [1, 2]
    record(messages(rows[2:], partition=5))  # the relay sends them again
    assert versions(task.pk) == [1, 2, 3, 4]
    assert_log_is_whole()


def test_a_copy_on_another_partition_is_recorded_once_and_in_order(db):
    task = task_with_versions(3)
    rows = waiting()
    record(messages(rows[2:], partition=2))
    record(messages(rows, partition=0) + messages(rows, partition=2))
    record(messages(rows, partition=1))
    assert versions(task.pk) == [1, 2, 3]
    assert set(Entry.objects.values_list("partition", flat=True)) == {0}
    assert not DeadLetter.objects.exists()


def test_an_altered_message_before_its_successor_holds_the_successor_back(db):
    task = task_with_versions(3)
    publish_all()
    first, second, third = waiting()
    record([*messages([first]), message(bytes(second.payload).replace(b"version 2", b"version X")), *messages([third])])
    assert versions(task.pk) == [1]
    assert DeadLetter.objects.get().reason == "altered"
    assert [(row.version, row.published_at) for row in waiting()] == [(2, None), (3, None)]
    record(messages([second, third]))
    assert versions(task.pk) == [1, 2, 3]
    assert "X" not in Entry.objects.get(version=2).event_data["data"]["task"]["title"]


def test_a_busy_subject_among_others_in_one_batch(db):
    busy = task_with_versions(40)
    quiet = [task_with_versions(2) for _ in range(5)]
    batch = messages(waiting())
    record(batch[::2] + batch[1::2])
    assert versions(busy.pk) == list(range(1, 41))
    assert all(versions(task.pk) == [1, 2] for task in quiet)
    assert_log_is_whole()
