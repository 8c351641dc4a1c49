"""Malformed input of every kind: never a 500, always a problem, nothing written by halves."""

import base64
import json
import string
from datetime import UTC
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskpulse.errors import Problem
from tasks.api import listing, pagination, preconditions
from tasks.api.ordering import ORDERINGS, Position
from tasks.api.validation import RULES
from tasks.models import OutboxEvent, Task
from tests.api_client import api

pytestmark = pytest.mark.django_db
_fuzz = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))

# All of Unicode, lone surrogates and NUL included.
_text = st.text(st.characters(), max_size=80)
_numbers = st.integers() | st.floats() | st.integers(min_value=2**63 - 2, max_value=2**64 + 2)
_values = st.recursive(
    st.none() | st.booleans() | _numbers | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=12,
)
_fields = st.sampled_from([*RULES, "id", "version", "created_by", "x"]) | _text
_near = {
    "title": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=255),
    "priority": st.sampled_from(["low", "high", "LOW"]),
    "status": st.sampled_from(["pending", "completed", "done"]),
    "labels": st.lists(_text, max_size=4),
    "due_at": st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat()) | _text,
    "assignee": st.integers(-1, 2**33) | st.fixed_dictionaries({"id": _values}),
    "parent": st.uuids().map(str),
}
_bodies = (
    st.dictionaries(_fields, _values, max_size=6)
    | st.fixed_dictionaries({"title": _near.pop("title")}, optional=_near)  # often right
    | _values
)
_pairs = st.tuples(st.sampled_from(listing.PARAMETERS) | _text, _text)


def _sound(response) -> None:
    assert response.status_code < 500, (response.status_code, response.content)
    if response.status_code >= 400:
        assert response["Content-Type"] == "application/problem+json"
        assert response.json()["status"] == response.status_code


@pytest.fixture
def caller():
    """At the end every task has an event for its last version: nothing was written by halves."""
    yield (found := api())
    recorded = {row.subject_id: (row.version, json.loads(bytes(row.payload))["type"]) for row in OutboxEvent.objects.order_by("id")}
    there = {key: version for key, (version, kind) in recorded.items() if kind != "task.deleted"}
    assert {str(task.pk): task.version for task in Task.objects.all()} == there
    assert found.get("/api/tasks").status_code == 200


@_fuzz
@given(raw=st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0dD8e1-tnf ', max_size=60).map(str.encode))
def test_any_bytes_as_a_body(caller, raw):
    _sound(caller.post(raw))


@_fuzz
@given(body=_bodies)
def test_any_json_as_a_body(caller, body):
    created = caller.post(json.dumps(body).encode())
    _sound(created)
    path = f"/api/tasks/{caller.create()['id']}"
    changed = caller.patch(path, json.dumps(body).encode())
    _sound(changed)
    if created.status_code == 201:
        # What was taken is shown, and can be sent back.
        task = created.json()
        assert task["title"] == body["title"].strip()
        again = caller.send("PUT", f"/api/tasks/{task['id']}", task)
        assert again.json() == task


@_fuzz
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=100))
def test_any_text_is_kept_as_it_is(caller, text):
    """Control characters too: stored, shown by Python and by PostgreSQL, and recorded, all alike."""
    task = caller.create(description=text, labels=[text[:64]], summary=text, category=text[:64])
    assert (task["description"], task["labels"], task["summary"]) == (text, [text[:64]], text)
    assert caller.get(f"/api/tasks/{task['id']}").json() == task
    assert caller.get("/api/tasks?limit=1").json() == [task]


@pytest.mark.parametrize("opening", ["[", '{"title":', '{"title":[', '[{"\\ud800":'])
@pytest.mark.parametrize("depth", [500, 1_500, 60_000])
def test_deep_json(caller, opening, depth):
    closing = {"[": "]", "{": "}"}
    end = "".join(closing[c] for c in reversed(opening) if c in closing)
    for raw in (opening * depth, opening * depth + "1" + end * depth):
        response = caller.post(raw.encode())
        _sound(response)
        assert response.status_code in {400, 413, 422}


@pytest.mark.parametrize("body", [b'{"title": "a", "title": "b"}', b'{"title": "x", "assignee": ' + b"9" * 5_000 + b"}"])
def test_repeated_keys_and_long_numbers(caller, body):
    _sound(caller.post(body))


@_fuzz
@given(st.lists(_pairs, max_size=5))
def test_any_query_string(caller, pairs):
    def escape(text: str) -> str:
        return quote(text.encode("utf-8", "surrogatepass"))

    query = "&".join(f"{escape(name)}={escape(value)}" for name, value in pairs)
    for path in ("/api/tasks", "/api/audit", "/api/tasks/0199fd0a-facc-7048-a66e-5b1e3b42419c/history"):
        _sound(caller.get(f"{path}?{query}"))


_ODD = ["&" * 2_000, "&".join(f"a{n}=1" for n in range(1_500)), "%", "%zz=%", "status=%ED%A0%80", "\xff=\xfe"]


@pytest.mark.parametrize("query", _ODD, ids=lambda query: query[:10])
def test_odd_query_strings(caller, query):
    _sound(caller.get(f"/api/tasks?{query}"))


_HEADERS = [
    "Authorization",
    "Content-Type",
    "Accept",
    "If-Match",
    "If-None-Match",
    "X-Request-ID",
    "X-Change-Reason",
    "traceparent",
]
# What WSGI servers let through: Latin-1 without line breaks and NUL.
_header = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60) | st.text(
    alphabet='"W/*, =;q.0123application/jsontextBearer-' + string.ascii_lowercase[:3], max_size=60
)

_some_headers = st.dictionaries(st.sampled_from(_HEADERS), _header, max_size=4)


@_fuzz
@given(given_headers=_some_headers, method=st.sampled_from(["GET", "PATCH", "DELETE"]))
def test_any_headers(caller, given_headers, method):
    path = f"/api/tasks/{caller.create()['id']}"
    headers = {name.replace("-", "_"): value for name, value in given_headers.items()}
    content_type = headers.pop("Content_Type", "application/json")
    _sound(caller.send(method, path, b'{"title": "y"}', content_type, **headers))


_KEYS = [pagination.NumberKeys(2**62), *ORDERINGS.values()]
_lengths = st.sampled_from([17, 27])


@_fuzz
@given(
    st.sampled_from(_KEYS),
    st.text(max_size=40) | _lengths.flatmap(lambda n: st.binary(min_size=n, max_size=n)).map(lambda raw: _base64(raw)),
)
def test_a_cursor_is_one_of_ours_or_refused(keys, cursor):
    found = pagination.decode(keys, cursor)
    assert found is None or pagination.encode(keys, *found) == cursor


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@given(st.integers(0, 2**128 - 1), st.booleans())
def test_a_cursor_leads_back_to_its_key(key, backward):
    keys = pagination.NumberKeys(2**128 - 1)
    cursor = pagination.encode(keys, key, backward)
    assert pagination.decode(keys, cursor) == (key, backward)
    assert pagination.decode(pagination.NumberKeys(key - 1), cursor) is None
    # Two bits of the last character mean nothing: only one spelling of a key is ours.
    spellings = [cursor[:-1] + last for last in string.ascii_letters + string.digits + "-_"]
    assert [one for one in spellings if pagination.decode(keys, one) == (key, backward)] == [cursor]


@given(st.sampled_from(list(ORDERINGS.values())), st.data(), st.booleans())
def test_a_cursor_leads_back_to_its_position_in_its_ordering_alone(ordering, data, backward):
    part = data.draw(st.integers(0, len(ordering.parts) - 1))
    moments = st.none() if ordering.parts[part].valued is False else st.datetimes(timezones=st.just(UTC))
    position = Position(part, data.draw(moments), data.draw(st.uuids()))
    cursor = pagination.encode(ordering, position, backward)
    assert [pagination.decode(keys, cursor) for keys in _KEYS if pagination.decode(keys, cursor)] == [(position, backward)]


@given(st.text(alphabet='W/"*, 12', max_size=30))
def test_any_entity_tag_is_read_or_refused_with_400(header):
    class Request:
        META = {"HTTP_IF_MATCH": header}

    status = 200
    try:
        preconditions.check(Request, 1, lambda: '"1"')
    except Problem as refused:
        status = refused.status_code
    matches = '"1"' in [tag.strip() for tag in header.split(",")] or header.strip() == "*"
    assert (status == 200) == matches or status == 400
