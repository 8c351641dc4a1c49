"""How many statements a request to each route makes, from one table: a route or method that it does not name fails the tests.

The caller's token is one of them; a transaction's own (BEGIN, SAVEPOINT) are none. What a list costs does not grow with it:
tests/test_api_lists.py.
"""

from types import SimpleNamespace

import pytest
from django.db import transaction

from tests.api_client import Api, api, statements
from tests.test_permissions import _BODIES as BODIES
from tests.test_permissions import _WRITES as WRITES
from tests.test_permissions import _routes as routes
from tests.test_permissions import objects  # noqa: F401 (a fixture)

pytestmark = pytest.mark.django_db

_TABLE = """
live                 GET     /healthz                                   0
ready                GET     /readyz                                    1
metrics              GET     /metrics                                   1
schema               GET     /api/schema                                0
docs                 GET     /api/docs                                  0
redoc                GET     /api/redoc                                 0
asyncapi             GET     /api/asyncapi                              0
event-schema         GET     /api/schemas/task-event.v1.json            0
problems             GET     /api/problems                              0
problem              GET     /api/problems/not-found                    0
task-list            GET     /api/tasks                                 2
task-list            GET     /api/tasks?q=task&label=a&overdue=true     2
task-list            GET     /api/tasks?expand=subtasks,labels,progress 2
task-list            POST    /api/tasks                                 3
task-bulk            POST    /api/tasks/bulk                            3
task-detail          GET     /api/tasks/{task}                          2
task-detail          GET     /api/tasks/{task}?version=1                2
task-detail          PUT     /api/tasks/{task}                          3
task-detail          PATCH   /api/tasks/{task}                          3
task-detail          DELETE  /api/tasks/{task}                          5
task-subtask-list    GET     /api/tasks/{task}/subtasks                 3
task-history         GET     /api/tasks/{task}/history                  2
task-audited         GET     /api/tasks/{task}/audited                  2
task-comment-list    GET     /api/tasks/{task}/comments                 2
task-comment-list    POST    /api/tasks/{task}/comments                 3
task-comment-detail  GET     /api/tasks/{task}/comments/{comment}       2
task-comment-detail  PUT     /api/tasks/{task}/comments/{comment}       4
task-comment-detail  PATCH   /api/tasks/{task}/comments/{comment}       4
task-comment-detail  DELETE  /api/tasks/{task}/comments/{comment}       5
task-watcher-list    GET     /api/tasks/{task}/watchers                 3
task-watcher-detail  PUT     /api/tasks/{task}/watchers/me              5
task-watcher-detail  DELETE  /api/tasks/{task}/watchers/me              3
task-watcher-detail  PUT     /api/tasks/{task}/watchers/{person}        5
label-list           GET     /api/labels                                2
label-list           POST    /api/labels                                3
label-detail         GET     /api/labels/{label}                        2
label-detail         PUT     /api/labels/{label}                        6
label-detail         PATCH   /api/labels/{label}                        6
label-detail         DELETE  /api/labels/{label}                        7
audit-list           GET     /api/audit                                 2
audit-detail         GET     /api/audit/{event}                         2
audit-export         GET     /api/audit/export                          4
audit-proof          GET     /api/audit/{event}/proof                   4
log-checkpoint       GET     /audit/checkpoint                          2
log-tile             GET     /audit/tile/0/000                          2
"""


def _cells():
    for line in _TABLE.strip().splitlines():
        route, method, path, count = line.split()
        yield SimpleNamespace(route=route, method=method, path=path, count=int(count))


_CELLS = list(_cells())


def test_every_method_of_every_route_names_its_count():
    table: dict[str, set[str]] = {}
    for cell in _CELLS:
        table.setdefault(cell.route, set()).add(cell.method)
    assert table == routes()


def _count(caller: Api, cell, path: str) -> int:
    """Of one request, which is undone."""
    body = BODIES.get(cell.route, {"title": "x"}) if cell.method in WRITES - {"DELETE"} else b""
    with transaction.atomic():
        with statements() as run:
            response = caller.send(cell.method, path, body)
            if response.streaming:
                b"".join(response)
        transaction.set_rollback(True)
    assert response.status_code in {200, 201, 204} or cell.route in {"audit-proof", "log-checkpoint", "log-tile"}, response.content
    return len(run)


@pytest.mark.parametrize("cell", _CELLS, ids=lambda cell: f"{cell.method} {cell.path}")
def test_a_request_makes_so_many_statements(objects, cell):  # noqa: F811
    assert _count(api("admin"), cell, cell.path.format(**vars(objects))) == cell.count
