"""Several bulk requests at once."""

import threading

from django.db import connections

from tasks.api import bulk_views
from tasks.models import Task
from tests.api_client import Api, api, problem
from tests.test_api_bulk import create, done, send, update


def test_two_requests_about_the_same_tasks_in_opposite_orders_do_not_deadlock(committed_db, monkeypatch):
    monkeypatch.setattr("tasks.api.writing._TRIES", 1)  # a deadlock is not tried again
    monkeypatch.setattr(bulk_views, "place", threading.Semaphore(2))  # as in two processes
    callers = [api("member"), api("member")]
    tasks = [result["task"] for result in done(callers[0], *[create() for _ in range(50)])]
    start, answers = threading.Barrier(2), []

    def change(caller: Api, order: list) -> None:
        for n in range(10):
            start.wait(60)
            answers.append(send(caller, *[update(task, title=f"{caller.user.pk} {n}") for task in order]).status_code)
        connections.close_all()

    threads = [threading.Thread(target=change, args=pair) for pair in zip(callers, (tasks, tasks[::-1]), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert answers == [200] * 20
    assert set(Task.objects.values_list("version", flat=True)) == {21}


def test_one_that_waits_too_long_for_another_is_told_to_come_again(db, monkeypatch):
    monkeypatch.setattr(bulk_views, "_WAIT_SECONDS", 0)
    caller = api("member")
    with bulk_views.place:
        refused = send(caller, create())
    assert (problem(refused, 429)["type"], refused["Retry-After"]) == ("/api/problems/too-many-requests", "0")
    assert [result["status"] for result in done(caller, create())] == [201]
