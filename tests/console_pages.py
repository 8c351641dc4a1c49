"""A person at the console: pages are fetched, forms are read from their HTML and sent back as a browser would."""

from html.parser import HTMLParser

from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.api_client import person

TASKS = "/admin/tasks/task/"
LABELS = "/admin/tasks/label/"
LOG = "/admin/audit/entry/"
OUTBOX = "/admin/tasks/outboxevent/"
LETTERS = "/admin/audit/deadletter/"
TOKENS = "/admin/tasks/apitoken/"


class _Form(HTMLParser):
    """The values of one form: inputs, selects, textareas."""

    def __init__(self, form_id: str):
        super().__init__()
        self.form_id, self.values = form_id, {}
        self._inside, self._select, self._textarea = False, None, None

    def handle_starttag(self, tag, pairs):
        attributes = dict(pairs)
        if tag == "form":
            self._inside = attributes.get("id") == self.form_id
        name = attributes.get("name")
        if not self._inside:
            return
        if tag == "input" and name and attributes.get("type") not in ("submit", "checkbox"):
            self.values[name] = attributes.get("value", "")
        elif tag == "select" and name:
            self._select = name
            self.values[name] = ""
        elif tag == "option" and self._select and "selected" in attributes:
            self.values[self._select] = attributes.get("value", "")
        elif tag == "textarea" and name:
            self._textarea = name
            self.values[name] = ""

    def handle_endtag(self, tag):
        if tag == "form":
            self._inside = False
        elif tag == "select":
            self._select = None
        elif tag == "textarea" and self._textarea:
            # The parser of a browser drops the line end after the tag, and sends each line end as CR LF.
            text = self.values[self._textarea].replace("\r\n", "\n").removeprefix("\n")
            self.values[self._textarea] = text.replace("\n", "\r\n")
            self._textarea = None

    def handle_data(self, data):
        if self._textarea:
            self.values[self._textarea] += data


class Console:
    def __init__(self, role: str | None = None, user: User | None = None, **fields):
        self.user = user or person(role, is_staff=True, **fields)
        self.client = Client()
        self.client.force_login(self.user)

    def get(self, path: str, status: int = 200):
        response = self.client.get(path)
        assert response.status_code == status, response.content[:2000]
        return response

    def form(self, path: str, form_id: str = "task_form") -> dict:
        return self.read(self.get(path), form_id)

    @staticmethod
    def read(response, form_id: str = "task_form") -> dict:
        reader = _Form(form_id)
        reader.feed(response.content.decode())
        assert reader.values, f"no form {form_id}"
        return reader.values

    def send(self, path: str, fields: dict, status: int = 302):
        response = self.client.post(path, {"_continue": "1", **fields})
        assert response.status_code == status, _errors(response)
        return response

    def act(self, path: str, action: str, keys, **more):
        return self.client.post(path, {"action": action, "_selected_action": [str(key) for key in keys], **more}, follow=True)

    def rows(self, path: str) -> list:
        return self.get(path).context["cl"].result_list

    def queries(self, path: str) -> list[str]:
        self.get(path)  # warms what is cached for a process, such as content types
        with CaptureQueriesContext(connection) as captured:
            self.get(path)
        return [query["sql"] for query in captured.captured_queries]


def change_page(task) -> str:
    return f"{TASKS}{task.pk}/change/"


def _errors(response):
    form = response.context and response.context.get("adminform")
    return form.form.errors if form else response.content[:2000]
