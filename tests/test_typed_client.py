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
