"""The OpenAPI document is usable: a typed client made of it, by a generator that knows nothing of us, does a day's work."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from taskpulse.api_documents import DIRECTORY
from tasks.models import ApiToken
from tests.api_client import person
from tests.recording import messages, record, waiting
from tests.web_role import web_role


@pytest.fixture
def client(committed_db, tmp_path, monkeypatch):
    """The generated package's client, signed in at a running web role."""
    settings = tmp_path / "generator.yaml"
    settings.write_text("post_hooks: []\n")
    generator = [
        str(Path(sys.executable).parent / "openapi-python-client"),
        "generate",
        "--meta",
        "none",
        "--config",
        str(settings),
    ]
    made = subprocess.run(
        [*generator, "--path", str(DIRECTORY / "openapi.yaml"), "--output-path", str(tmp_path / "taskpulse_client")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Streams of lines, which it does not know, are the only thing that it leaves out.
    left_out = set(re.findall(r"Unsupported content_type ([^)\s]+)", made.stdout))
    assert made.stdout.count("WARNING") == made.stdout.count("Unsupported content_type"), made.stdout
    assert left_out <= {"application/jsonl", "text/csv"}
    monkeypatch.syspath_prepend(tmp_path)
    from taskpulse_client import AuthenticatedClient

    _, token = ApiToken.issue(person("admin"), "test")
    with web_role(tmp_path, WEB_CONCURRENCY="1") as web:
        yield AuthenticatedClient(base_url=f"http://127.0.0.1:{web.port}", token=token, raise_on_unexpected_status=True)
    for name in [name for name in sys.modules if name.startswith("taskpulse_client")]:
        del sys.modules[name]


def test_a_typed_client_creates_pages_updates_and_reads_history(client):
    from taskpulse_client.api.tasks import tasks_create, tasks_history_list, tasks_list, tasks_retrieve, tasks_update
    from taskpulse_client.models import PatchedTaskChangeRequest, PriorityEnum, Problem, StatusEnum, Task, TaskRequest

    made = []
    for number in range(5):
        answer = tasks_create.sync_detailed(client=client, body=TaskRequest(title=f"task {number}", priority=PriorityEnum.HIGH))
        assert isinstance(answer.parsed, Task)
        assert answer.headers["ETag"].startswith(f'"{answer.parsed.version}-')
        made.append(answer.parsed)

    found, cursor = [], None
    while True:
        page = tasks_list.sync_detailed(client=client, limit=2, **({"cursor": cursor} if cursor else {}))
        assert all(isinstance(task, Task) for task in page.parsed)
        found += page.parsed
        following = re.search(r'<([^>]+)>; rel="next"', page.headers.get("Link", ""))
        if following is None:
            break
        (cursor,) = parse_qs(urlsplit(following[1]).query)["cursor"]
    assert [task.id for task in found] == [task.id for task in reversed(made)]

    first = made[0]
    change = PatchedTaskChangeRequest(status=StatusEnum.COMPLETED)
    changed = tasks_update.sync(first.id, client=client, body=change, if_match='"1"', x_change_reason="done")
    assert isinstance(changed, Task)
    assert (changed.version, changed.status) == (2, StatusEnum.COMPLETED)
    assert changed.completed_at == changed.updated_at

    stale = tasks_update.sync_detailed(first.id, client=client, body=change, if_match='"1"')
    assert (stale.status_code, type(stale.parsed)) == (412, Problem)
    assert stale.headers["ETag"].startswith('"2-')

    wrong = tasks_create.sync(client=client, body=TaskRequest(title=""))
    assert isinstance(wrong, Problem)
    assert [error.pointer for error in wrong.errors] == ["#/title"]

    missing = tasks_retrieve.sync(uuid4(), client=client)
    assert isinstance(missing, Problem)
    assert missing.status == 404

    record(messages(waiting()))
    entries = tasks_history_list.sync(first.id, client=client)
    assert [(entry.event_type, entry.version, entry.reason) for entry in entries] == [
        ("task.updated", 2, "done"),
        ("task.created", 1, None),
    ]


def test_it_sends_many_at_once_and_what_is_wrong_with_each(client):
    from taskpulse_client.api.tasks import tasks_bulk, tasks_create
    from taskpulse_client.models import (
        BulkRequest,
        CreateOperationOpEnum,
        CreateOperationRequest,
        DeleteOperationOpEnum,
        DeleteOperationRequest,
        PatchedTaskChangeRequest,
        Problem,
        TaskRequest,
        UpdateOperationOpEnum,
        UpdateOperationRequest,
    )

    def create(title: str) -> CreateOperationRequest:
        return CreateOperationRequest(op=CreateOperationOpEnum.CREATE, task=TaskRequest(title=title))

    def send(*operations, **options):
        return tasks_bulk.sync(client=client, body=BulkRequest(operations=list(operations), **options))

    changed, removed = (tasks_create.sync(client=client, body=TaskRequest(title=title)) for title in ("changed", "removed"))
    change = PatchedTaskChangeRequest(summary="Paid.")
    results = send(
        create("new"), UpdateOperationRequest(op=UpdateOperationOpEnum.UPDATE, id=changed.id, version=1, task=change),
        DeleteOperationRequest(op=DeleteOperationOpEnum.DELETE, id=removed.id),
    )  # fmt: skip
    assert [(result.index, result.status) for result in results] == [(0, 201), (1, 200), (2, 204)]
    assert (results[0].task.title, results[1].task.summary, results[1].task.version) == ("new", "Paid.", 2)

    stale = UpdateOperationRequest(op=UpdateOperationOpEnum.UPDATE, id=changed.id, version=1, task=change)
    refused = send(create("none"), stale)
    assert isinstance(refused, Problem)
    assert [error.pointer for error in refused.errors] == ["#/operations/1/version"]
    made, refused = send(create("one"), stale, atomic=False)
    assert (made.task.title, refused.status, refused.problem.status) == ("one", 412, 412)


def test_it_comments_watches_labels_and_shows_more(client):
    from taskpulse_client.api.labels import labels_create, labels_list, labels_partial_update
    from taskpulse_client.api.tasks import (
        tasks_comments_create,
        tasks_comments_list,
        tasks_comments_update,
        tasks_create,
        tasks_list,
        tasks_retrieve,
        tasks_subtasks_list,
        tasks_watchers_destroy,
        tasks_watchers_list,
        tasks_watchers_update,
    )
    from taskpulse_client.models import (
        CommentRequest,
        LabelRequest,
        PatchedCommentRequest,
        PatchedLabelChangeRequest,
        StatusEnum,
        TaskRequest,
        TasksListExpandItem,
        TasksRetrieveExpandItem,
    )

    task = tasks_create.sync(client=client, body=TaskRequest(title="a task", labels=["bug"]))
    steps = [
        TaskRequest(title=f"step {status}", parent=task.id, status=status) for status in (StatusEnum.COMPLETED, StatusEnum.PENDING)
    ]
    steps = [tasks_create.sync(client=client, body=step) for step in steps]
    assert {found.id for found in tasks_subtasks_list.sync(task.id, client=client)} == {step.id for step in steps}

    comment = tasks_comments_create.sync(task.id, client=client, body=CommentRequest(body="first"))
    comment = tasks_comments_update.sync(task.id, comment.id, client=client, body=PatchedCommentRequest(body="second"))
    assert (comment.body, comment.version, comment.task) == ("second", 2, task.id)
    assert tasks_comments_list.sync(task.id, client=client) == [comment]

    watcher = tasks_watchers_update.sync(task.id, "me", client=client)
    assert tasks_watchers_list.sync(task.id, client=client) == [watcher]
    assert [found.id for found in tasks_list.sync(client=client, watching=["me"])] == [task.id]
    assert tasks_watchers_destroy.sync_detailed(task.id, "me", client=client).status_code == 204
    assert tasks_list.sync(client=client, watching=["me"]) == []

    label = labels_create.sync(client=client, body=LabelRequest(name="bug", colour="#d73a4a"))
    assert labels_list.sync(client=client) == [label]
    renamed = labels_partial_update.sync("bug", client=client, body=PatchedLabelChangeRequest(name="fault"))
    assert (renamed.name, renamed.colour, renamed.version) == ("fault", "#d73a4a", 2)

    more = [TasksRetrieveExpandItem.PROGRESS, TasksRetrieveExpandItem.LABELS, TasksRetrieveExpandItem.SUBTASKS]
    shown = tasks_retrieve.sync(task.id, client=client, expand=more)
    # A whole task with members more, which the client keeps and has no attributes for.
    assert shown["progress"] == {"completed": 1, "total": 2}
    assert [(found["name"], found["colour"]) for found in shown.labels] == [("fault", "#d73a4a")]
    assert [found["id"] for found in shown["subtasks"]] == [str(step.id) for step in steps]
    (listed,) = tasks_list.sync(client=client, parent=["none"], expand=[TasksListExpandItem.PROGRESS])
    assert listed["progress"] == shown["progress"]
