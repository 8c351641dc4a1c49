"""Several bulk requests at once."""

import threading

from django.db import connections

from tasks.models import Task
from tests.api_client import Api, api
from tests.test_api_bulk import create, done, send, update


def test_two_requests_about_the_same_tasks_in_opposite_orders_do_not_deadlock(committed_db, monkeypatch):
    monkeypatch.setattr("tasks.api.writing._TRIES", 1)  # a deadlock is not tried again
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
