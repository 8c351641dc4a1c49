"""A program that talks to the API: a token of a person with a role, JSON in and out."""

import itertools
import json
import re
from contextlib import contextmanager

from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tasks.models import ApiToken

_numbers = itertools.count(1)
ABSENT = object()


def person(role: str | None = None, **fields) -> User:
    user = User.objects.create(username=f"person-{next(_numbers)}", **fields)
    if role:
        user.groups.add(Group.objects.get(name=role))
    return user


class Api:
    def __init__(self, user: User | None):
        self.user = user
        self.client = Client(raise_request_exception=False)
        self.headers = {}
        if user is not None:
            _, secret = ApiToken.issue(user, "test")
            self.headers["Authorization"] = f"Bearer {secret}"

    def send(self, method: str, path: str, body=ABSENT, content_type="application/json", **headers):
        """`body`: bytes go as they are, anything else as JSON."""
        raw = b"" if body is ABSENT else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.generic(method, path, raw, content_type, headers={**self.headers, **sent})

    def get(self, path: str, **headers):
        return self.send("GET", path, **headers)

    def post(self, body, path: str = "/api/tasks", **headers):
        return self.send("POST", path, body, **headers)

    def patch(self, path: str, body, **headers):
        return self.send("PATCH", path, body, **headers)

    def create(self, **fields) -> dict:
        response = self.post({"title": "a task", **fields})
        assert response.status_code == 201, response.content
        return response.json()


def api(role: str | None = "admin") -> Api:
    return Api(person(role))


def problem(response, status: int) -> dict:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


def links(response) -> dict[str, str]:
    """The URL of each relation of the Link header."""
    return {relation: url for url, relation in re.findall(r'<([^>]+)>; rel="(\w+)"', response.get("Link", ""))}


def walk(caller: Api, path: str, relation: str = "next") -> list[tuple[str, list[dict]]]:
    """The pages, each with its path, from this one to where the relation leads no further."""
    pages = []
    while path:
        assert len(pages) < 100, "the links lead round in a circle"
        response = caller.get(path)
        assert response.status_code == 200, response.content
        pages.append((path, response.json()))
        path = links(response).get(relation)
    return pages


def pointers(response) -> list[str]:
    return sorted(error["pointer"] for error in problem(response, 422)["errors"])


@contextmanager
def statements():
    """The statements of a block, without the savepoints of the test's own transaction (a BEGIN in production)."""
    found = []
    with CaptureQueriesContext(connection) as captured:
        yield found
    found += [q["sql"] for q in captured if not q["sql"].startswith(("SAVEPOINT", "RELEASE", "ROLLBACK"))]
