"""Kafka is away for as many changes as people make in an hour: the API does not notice, the outbox holds each change and no
more, and drains in order afterwards.

The hour is compressed: what counts is how many changes wait, not how long. KAFKA_AWAY_CHANGES says how many
(`make kafka-away CHANGES=720000` is an hour at 200 a second); otherwise 20,000.
"""

import itertools
import os
import time

from django.db import connection
from django.utils import timezone

from audit.models import Entry
from tasks.models import OutboxEvent, Task
from tasks.outbox_figures import COUNTED
from tests.api_client import api
from tests.recording import assert_log_is_whole
from tests.running_up import wait_until
from tests.web_role import Answers, Clients, request, web_role
from tests.worker_role import WorkerRole, worker_role

CHANGES = int(os.environ.get("KAFKA_AWAY_CHANGES", "20000"))
_AT_ONCE = 1_000
# Entries a second at the least with which a backlog drains, on a busy machine.
_SLOWEST_DRAIN = 200


def outbox() -> tuple[int, int]:
    """Rows, and bytes with indexes and TOAST."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), pg_total_relation_size('tasks_outbox') FROM tasks_outbox")
        return cursor.fetchone()


def write_changes() -> None:
    """_AT_ONCE of them: half are new tasks, half are their second versions."""
    made = Task.objects.bulk_create([Task(title="an hour of work", labels=["billing"]) for _ in range(_AT_ONCE // 2)])
    Task.objects.filter(id__in=[task.id for task in made]).update(due_at=timezone.now())


def people(web, program) -> Answers:
    """Eight clients for three seconds: creations, and changes of a few tasks again and again."""
    keys = [program.create()["id"] for _ in range(20)]
    create = request("POST", "/api/tasks", program.headers, {"title": "by the API", "labels": ["billing"]})
    numbers = itertools.count()

    def next_request() -> bytes:
        number = next(numbers)
        if number % 2:
            return create
        return request("PATCH", f"/api/tasks/{keys[number % 20]}", program.headers, {"title": f"change {number}"})

    found = Clients(web.port, next_request, 8).run(3)
    assert not found.failed
    assert set(found.statuses()) == {200, 201}
    return found


def assert_the_relay_says_so(relay: WorkerRole, rows: int) -> None:
    """To who balances, who is on call and who restarts: not ready, how much waits and for how long, and nothing to restart.
    A request to the broker that is under way when it goes has 3 s (REQUEST_TIMEOUT) to fail."""
    wait_until(lambda: relay.readiness()[0] == 503, 5, "the relay is not ready")
    status, checks = relay.readiness()
    assert (status, checks["kafka"] != "ok", checks["database"]) == (503, True, "ok")
    found = relay.metrics()
    assert (found["taskpulse_outbox_pending"], found['taskpulse_dependency_up{dependency="kafka"}']) == (rows, 0)
    assert found["taskpulse_outbox_oldest_age_seconds"] > 0
    assert relay.status("/healthz") == 200


def test_the_api_does_not_notice_and_everything_drains_in_order(committed_db, wipeable_broker, tmp_path):
    program = api("member")
    with web_role(tmp_path) as web, worker_role("relay", tmp_path) as relay, worker_role("consumer", tmp_path) as consumer:
        before = people(web, program)
        wait_until(lambda: not OutboxEvent.objects.exists(), 60, "what was written before is recorded")
        recorded = Entry.objects.count()

        wipeable_broker.kill()
        for written in range(_AT_ONCE, CHANGES + 1, _AT_ONCE):
            write_changes()
            assert outbox()[0] == written, "each change waits in the outbox, once"
            if written == 5 * _AT_ONCE:
                assert_the_relay_says_so(relay, written)
        assert Entry.objects.count() == recorded
        at_the_end = people(web, program)
        assert (web.status("/readyz"), web.status("/healthz")) == (200, 200)
        rows, size = outbox()
        # `people` made 20 tasks to work on.
        assert rows == written + 20 + len(at_the_end.answers)
        assert relay.metrics()["taskpulse_outbox_pending"] >= COUNTED

        wipeable_broker.start()
        began = time.monotonic()
        patience = 60 + rows / _SLOWEST_DRAIN
        wait_until(lambda: not OutboxEvent.objects.exists(), patience, f"the outbox is empty\n{consumer.log[-2000:]}")
        drained = time.monotonic() - began
        wait_until(lambda: relay.readiness()[0] == 200, 10, "the relay is ready")
        assert relay.metrics()["taskpulse_outbox_pending"] == 0
        assert [role.process.poll() for role in (relay, consumer)] == [None, None], "a role ended"

    creation, late_creation = before.seconds(201, 0.5), at_the_end.seconds(201, 0.5)
    assert late_creation < 3 * creation + 0.05
    # It finds each subject's versions in order and without a gap, each event once.
    assert assert_log_is_whole() == recorded + rows
    assert relay.log.count("publishing to Kafka failed") == 1, "an outage is said once"
    print(
        f"\n{rows} changes waited, {size / rows:.0f} bytes each in the outbox with its indexes; drained in {drained:.1f} s; "
        f"a creation took {creation * 1000:.1f} ms with Kafka and an empty outbox, {late_creation * 1000:.1f} ms at the end"
    )
