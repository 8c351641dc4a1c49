"""Examples for the OpenAPI document: requests and their real answers, with stable values for what differs each time."""

import itertools
import json
import re

from django.contrib.auth.models import Group, User

from tests.api_client import Api
from tests.recording import messages, record, waiting

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_HEX = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
# What was asked for and is not of this day stays as it is.
_KEPT = {"2026-02-01T09:00:00.000000Z"}


class Examples:
    """Requests by `operation` are sent, and kept with their answers: by operation id, then `request` or the status."""

    def __init__(self):
        self.found: dict[str, dict] = {}
        self._uuids, self._times = itertools.count(1), itertools.count(1)
        self._stable: dict[str, str] = {}
        self.ana, self.bo = (User.objects.create(username=name) for name in ("ana", "bo"))
        self.ana.groups.add(Group.objects.get(name="admin"))
        self.program = Api(self.ana)

    def send(self, operation: str, method: str, path: str, body=None, **headers):
        kept = self.found.setdefault(operation, {})
        if body is not None:
            kept.setdefault("request", self._with_stable_values(body))
        answer = self.program.send(method, path, *([] if body is None else [body]), X_Request_ID="req-2217", **headers)
        if answer.content:
            kept.setdefault(str(answer.status_code), self._with_stable_values(answer.json()))
        return answer

    def _with_stable_values(self, value, key: str = ""):
        if isinstance(value, dict):
            return {name: self._with_stable_values(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._with_stable_values(inner, key) for inner in value]
        if isinstance(value, int) and key == "assignee":
            return int(self._person(str(value)))
        return self._text(value, key) if isinstance(value, str) else value

    def _person(self, written: str) -> str:
        return {str(self.ana.pk): "7", str(self.bo.pk): "8"}.get(written, written)

    def _text(self, value: str, key: str) -> str:
        if key in {"id", "actorid"} and value.isdigit():
            return self._person(value)
        if key == "authid":
            return "31"
        if _HEX.fullmatch(value):
            return "5f" * (len(value) // 2)
        value = _UUID.sub(lambda found: self._same(found[0], lambda: f"0199fd0a-facc-7048-a66e-{next(self._uuids):012x}"), value)
        return _TIME.sub(lambda found: self._same(found[0], lambda: f"2026-01-15T10:30:{next(self._times):02d}.123456Z"), value)

    def _same(self, found: str, make) -> str:
        if found not in self._stable and found not in _KEPT:
            self._stable[found] = make()
        return self._stable.get(found, found)


def recorded() -> dict[str, dict]:
    """What programs do in a day, request by request; needs a database that is rolled back."""
    made = Examples()
    wanted = {"title": "Pay the invoice", "priority": "high", "labels": ["billing"], "assignee": made.bo.pk}
    wanted["due_at"] = "2026-02-01T09:00:00.000000Z"
    task = made.send("tasks_create", "POST", "/api/tasks", wanted, X_Change_Reason="invoice 2217").json()
    path = f"/api/tasks/{task['id']}"
    made.send("tasks_create", "POST", "/api/tasks", {"title": "", "priority": "urgent"})
    made.send("tasks_list", "GET", "/api/tasks?status=pending&priority=high")
    made.send("tasks_list", "GET", "/api/tasks?status=open")
    made.send("tasks_retrieve", "GET", path)
    made.send("tasks_retrieve", "GET", "/api/tasks/0199fd0a-facc-7048-a66e-5b1e3b42419c")
    made.send("tasks_update", "PUT", path, {"status": "in_progress"}, If_Match='"1"')
    made.send("tasks_update", "PUT", path, {"status": "in_progress"}, If_Match='"1"')
    made.send("tasks_partial_update", "PATCH", path, {"status": "completed", "assignee": None})
    subtask = {"title": "Find the receipt", "parent": task["id"]}
    operations = [
        {"op": "create", "task": subtask},
        {"op": "update", "id": task["id"], "task": {"summary": "Paid."}},
    ]
    made.send("tasks_bulk", "POST", "/api/tasks/bulk", {"operations": operations})
    made.send("tasks_subtasks_list", "GET", f"{path}/subtasks")
    _around(made, path)
    record(messages(waiting()))
    entries = made.send("tasks_history_list", "GET", f"{path}/history?limit=2").json()
    made.send("tasks_audited_retrieve", "GET", f"{path}/audited")
    made.send("audit_list", "GET", "/api/audit?type=task.updated&since=2026-01-01T00:00:00Z&limit=1")
    made.send("audit_retrieve", "GET", f"/api/audit/{entries[-1]['event_id']}")
    made.send("tasks_destroy", "DELETE", path, If_Match='"1"')
    return made.found


def _around(made: Examples, path: str) -> None:
    comment = made.send("tasks_comments_create", "POST", f"{path}/comments", {"body": "Paid by card."}).json()
    made.send("tasks_comments_list", "GET", f"{path}/comments")
    made.send("tasks_comments_retrieve", "GET", f"{path}/comments/{comment['id']}")
    made.send("tasks_comments_update", "PUT", f"{path}/comments/{comment['id']}", {"body": "Paid by card on Friday."})
    made.send("tasks_comments_partial_update", "PATCH", f"{path}/comments/{comment['id']}", {"body": "Paid on Friday."})
    made.send("tasks_watchers_update", "PUT", f"{path}/watchers/{made.bo.pk}")
    made.send("tasks_watchers_update", "PUT", f"{path}/watchers/{made.bo.pk}")
    made.send("tasks_watchers_list", "GET", f"{path}/watchers")
    label = {"name": "billing", "colour": "#0d7264", "description": "Whatever costs money."}
    made.send("labels_create", "POST", "/api/labels", label)
    made.send("labels_list", "GET", "/api/labels")
    made.send("labels_retrieve", "GET", "/api/labels/billing")
    made.send("labels_update", "PUT", "/api/labels/billing", {"colour": "#115e54"})
    made.send("labels_partial_update", "PATCH", "/api/labels/billing", {"description": "Invoices and payments."})


def written(examples: dict) -> str:
    return json.dumps(examples, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
