"""`Idempotency-Key`: what is sent again is answered again and not done again; what was refused may be tried again."""

import io
import json
import threading
import uuid
from datetime import timedelta

import pytest
import yaml
from django.db import OperationalError, connection, connections, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from taskpulse.env import BASE_DIR
from taskpulse.errors import Problem
from tasks import kept_answers
from tasks.api import idempotency, writing
from tasks.models import ApiToken, KeptAnswer, OutboxEvent, Task
from tests.api_client import Api, api, problem, statements

REPLAYED = "Idempotent-Replayed"


def key() -> str:
    return f'"{uuid.uuid4()}"'


# -- the same request


@pytest.mark.django_db
def test_each_unsafe_request_is_answered_again_as_it_was():
    caller = api("member")
    path = f"/api/tasks/{caller.create()['id']}"
    for method, where, body in (
        ("POST", "/api/tasks", {"title": "new"}), ("PUT", path, {"status": "completed"}), ("PATCH", path, {"title": "other"}),
        ("DELETE", path, None),
    ):  # fmt: skip
        sent = {"method": method, "path": where, "Idempotency_Key": key()} | ({} if body is None else {"body": body})
        first, second = caller.send(**sent), caller.send(**sent)
        assert first.status_code in (200, 201, 204), first.content
        assert (second.status_code, second.content) == (first.status_code, first.content)
        assert REPLAYED not in first
        assert second[REPLAYED] == "true"
        for name in ("ETag", "Location", "Content-Type"):
            assert second.get(name) == first.get(name), (method, name)
        assert first["X-Request-ID"] != second["X-Request-ID"]
    assert Task.objects.count() == 1
    assert OutboxEvent.objects.count() == 5  # created twice, changed twice, deleted


@pytest.mark.django_db
def test_an_answer_stays_what_it_was_though_the_task_changed_since():
    caller = api("member")
    sent = {"body": {"title": "first"}, "Idempotency_Key": key()}
    first = caller.post(**sent)
    caller.patch(f"/api/tasks/{first.json()['id']}", {"title": "second"})
    again = caller.post(**sent)
    assert (again.json()["title"], again["ETag"]) == ("first", first["ETag"])


@pytest.mark.django_db
def test_a_body_without_a_length_is_told_from_another():
    caller = api("member")
    headers = caller.headers | {"Idempotency-Key": key(), "Transfer-Encoding": "chunked"}

    def post(title: str):
        chunks = io.BytesIO(json.dumps({"title": title}).encode())  # as gunicorn gives them: decoded
        given = {"wsgi.input": chunks, "CONTENT_TYPE": "application/json"}
        return caller.client.generic("POST", "/api/tasks", headers=headers, **given)

    assert post("one").status_code == 201
    assert post("one")[REPLAYED] == "true"
    assert post("two").status_code == 422


# -- another request


@pytest.mark.django_db
@pytest.mark.parametrize(
    "other",
    [
        {"body": b'{"title":  "a"}'}, {"method": "PATCH"}, {"path": "/api/tasks/"}, {"If_Match": '"1"'}, {"If_None_Match": '"9"'},
        {"content_type": "application/json; charset=utf-8"},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_a_key_of_another_request_is_refused(other):
    caller = api("member")
    path = f"/api/tasks/{caller.create()['id']}"
    sent = {"method": "PUT", "path": path, "body": b'{"title": "a"}', "Idempotency_Key": key()}
    assert caller.send(**sent).status_code == 200
    different = sent | ({"path": path + "/"} if "path" in other else other)
    refused = problem(caller.send(**different), 422)
    assert "another request" in refused["detail"]
    assert Task.objects.get(pk=path.rpartition("/")[2]).version == 2
    assert caller.send(**sent)[REPLAYED] == "true"


@pytest.mark.django_db
def test_a_query_belongs_to_the_request():
    """No unsafe request takes one as yet; the fingerprint must not wait for the first that does."""
    meta = {"PATH_INFO": "/x", "CONTENT_TYPE": "", "wsgi.input": None}
    request = type("Request", (), {"method": "DELETE", "_body": b"", "body": b""})
    prints = set()
    for query in ("", "a=1", "a=2"):
        request.META = meta | {"QUERY_STRING": query}
        prints.add(idempotency._fingerprint(request))
    assert len(prints) == 3


@pytest.mark.django_db
def test_a_key_belongs_to_the_person_whatever_the_token():
    ana = api("member")
    other_token, other_person = Api(ana.user), api("member")
    sent = {"body": {"title": "x"}, "Idempotency_Key": key()}
    first = ana.post(**sent)
    assert other_token.post(**sent).content == first.content
    theirs = other_person.post(**sent)
    assert theirs.json()["id"] != first.json()["id"]
    assert Task.objects.count() == 2


@pytest.mark.django_db
def test_who_may_no_longer_write_is_not_answered_again():
    caller = api("member")
    sent = {"body": {"title": "x"}, "Idempotency_Key": key()}
    assert caller.post(**sent).status_code == 201
    caller.user.groups.clear()
    assert caller.post(**sent).status_code == 403
    ApiToken.objects.all().delete()
    assert caller.post(**sent).status_code == 401


# -- what was not done leaves no key


@pytest.mark.django_db
def test_a_refusal_is_not_kept():
    caller, name = api("member"), key()
    problem(caller.post({"title": ""}, Idempotency_Key=name), 422)
    problem(caller.post({"title": "x", "parent": str(uuid.uuid4())}, Idempotency_Key=name), 422)
    assert not KeptAnswer.objects.exists()
    task = caller.post({"title": "x"}, Idempotency_Key=name).json()
    path, name = f"/api/tasks/{task['id']}", key()
    problem(caller.patch(path, {"title": "y"}, If_Match='"2"', Idempotency_Key=name), 412)
    caller.patch(path, {"title": "z"})
    assert caller.patch(path, {"title": "y"}, If_Match='"2"', Idempotency_Key=name).status_code == 200
    problem(caller.send("DELETE", f"/api/tasks/{uuid.uuid4()}", Idempotency_Key=key()), 404)
    assert KeptAnswer.objects.count() == 2


@pytest.mark.django_db
def test_an_answer_that_cannot_be_kept_undoes_the_write(monkeypatch):
    """One transaction: no task without its key."""
    monkeypatch.setattr(idempotency, "_KEEP", "SELECT %s, %s, %s, %s, %s, %s, 1/0")
    caller = api("member")
    problem(caller.post({"title": "x"}, Idempotency_Key=key()), 422)
    assert not Task.objects.exists()
    assert not OutboxEvent.objects.exists()


# -- under way


def test_while_the_first_is_under_way_the_second_is_told_at_once(committed_db, monkeypatch):
    caller, name = api("member"), key()
    sent = {"body": {"title": "x"}, "Idempotency_Key": name}
    at_work, may_end = threading.Event(), threading.Event()
    assign = writing.assign
    answers = []

    def slow(*arguments):
        assign(*arguments)
        at_work.set()
        assert may_end.wait(30)

    def send():
        answers.append(caller.post(**sent))
        connections.close_all()

    monkeypatch.setattr(writing, "assign", slow)
    first = threading.Thread(target=send)
    first.start()
    try:
        assert at_work.wait(30)
        refused = caller.post(**sent)
        elsewhere = caller.post({"title": "y"}, Idempotency_Key=name)
    finally:
        may_end.set()
        first.join()
    assert problem(refused, 409)
    assert int(refused["Retry-After"]) >= 1
    assert elsewhere.status_code == 409  # nobody knows yet what the first will be
    assert answers[0].status_code == 201
    assert caller.post(**sent).content == answers[0].content
    assert Task.objects.count() == 1


def test_who_looked_before_the_other_was_done_does_nothing(committed_db, monkeypatch):
    """The look-up's snapshot may be older than its lock: the table's key is what decides."""
    caller = api("member")
    sent = {"body": {"title": "x"}, "Idempotency_Key": key()}
    first = caller.post(**sent)
    monkeypatch.setattr(idempotency, "_look", lambda digest: None)
    assert problem(caller.post(**sent), 409)
    assert Task.objects.count() == OutboxEvent.objects.count() == 1
    monkeypatch.undo()
    assert caller.post(**sent).content == first.content


# -- the header


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('"8e03978e-40d5-43e8-bc93-6894a57f9324"', "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        (' "a" ', "a"), ('"with space"', "with space"), (r'"a \"b\" \\ c"', r'a "b" \ c'), ("a/b:c=d", "a/b:c=d"),
        (f'"{"x" * 255}"', "x" * 255), ('"a,b;c"', "a,b;c"),
    ],
)  # fmt: skip
def test_a_key_is_quoted_or_bare(header, expected):
    assert idempotency.read_key(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        "",
        '""',
        '"',
        "a b",
        '"a',
        'a"',
        '"a" "b"',
        '"a", "b"',
        "a,b",
        '"a";p=1',
        "x" * 256,
        f'"{"x" * 256}"',
        r'"\a"',
        "é",
        '"é"',
        "a\\b",
    ],
)
def test_a_malformed_key_is_refused_and_what_is_expected_is_said(header):
    with pytest.raises(Problem, match="1 to 255 printable ASCII") as raised:
        idempotency.read_key(header)
    assert raised.value.status_code == 400


@pytest.mark.django_db
def test_a_malformed_key_writes_nothing():
    caller = api("member")
    assert "Idempotency-Key" in problem(caller.post({"title": "x"}, Idempotency_Key="a b"), 400)["detail"]
    assert not Task.objects.exists()


@pytest.mark.django_db
def test_an_installation_may_demand_a_key(settings):
    settings.REQUIRE_IDEMPOTENCY_KEY = True
    caller = api("member")
    assert "Idempotency-Key is missing" in problem(caller.post({"title": "x"}), 400)["detail"]
    path = f"/api/tasks/{caller.post({'title': 'x'}, Idempotency_Key=key()).json()['id']}"
    problem(caller.patch(path, {"title": "y"}), 400)
    assert caller.send("PUT", path, {"title": "y"}).status_code == 200
    assert caller.send("DELETE", path).status_code == 204


def test_the_description_tells_every_unsafe_operation_of_it():
    document = yaml.safe_load((BASE_DIR / "docs" / "api" / "openapi.yaml").read_text())
    unsafe = [
        operation
        for operations in document["paths"].values()
        for method, operation in operations.items()
        if method in ("post", "put", "patch", "delete")
    ]
    assert len(unsafe) > 10
    for operation in unsafe:
        names = {parameter["name"] for parameter in operation["parameters"]}
        assert "Idempotency-Key" in names, operation["operationId"]
        assert {"400", "409", "422"} <= set(operation["responses"]), operation["operationId"]
        assert ("If-Match" not in names) or "428" in operation["responses"], operation["operationId"]


# -- the cost


@pytest.mark.django_db
def test_a_key_costs_one_statement_before_the_write_and_one_after():
    caller = api("member")
    path = f"/api/tasks/{caller.create()['id']}"
    for method, where, body in (("POST", "/api/tasks", {"title": "x"}), ("PATCH", path, {"title": "y"}), ("DELETE", path, None)):
        sent = {"method": method, "path": where} | ({} if body is None else {"body": body})
        with transaction.atomic(), statements() as without:
            assert caller.send(**sent).status_code < 300
            transaction.set_rollback(True)
        sent["Idempotency_Key"] = key()
        with statements() as first:
            caller.send(**sent)
        with statements() as again:
            caller.send(**sent)
        extra = [statement for statement in first if "tasks_kept_answer" in statement]
        assert [statement.split()[0] for statement in extra] == ["SELECT", "INSERT"]
        assert len(first) == len(without) + 2
        assert len([statement for statement in again if "tasks_" in statement and "tasks_apitoken" not in statement]) == 1


# -- any sequence

REQUESTS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 2), st.sampled_from(["a", "b", ""]), st.booleans()), min_size=1, max_size=12
)


@pytest.mark.django_db
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS)
def test_any_sequence_of_keys_bodies_and_callers_is_what_a_dictionary_says(requests):
    """Per caller and key the first title that is valid is made; that title is answered again, another refused."""
    with transaction.atomic():
        callers = [api("member"), api("member")]
        known: dict[tuple, tuple[str, bytes]] = {}
        made = []
        for who, number, title, quoted in requests:
            header = f'"key-{number}"' if quoted else f"key-{number}"
            answer = callers[who].post({"title": title}, Idempotency_Key=header)
            kept = known.get((who, number))
            if title == "":
                expected = 422
            elif kept is None:
                expected = 201
                known[who, number] = (title, answer.content)
                made.append(title)
            else:
                expected = 201 if kept[0] == title else 422
            assert answer.status_code == expected
            assert (REPLAYED in answer) == (expected == 201 and kept is not None)
            if expected == 201:
                assert answer.content == known[who, number][1]
        assert sorted(Task.objects.values_list("title", flat=True)) == sorted(made)
        assert OutboxEvent.objects.count() == len(made)
        transaction.set_rollback(True)


# -- how long it is kept


@pytest.mark.django_db
def test_answers_are_swept_after_a_day_in_batches(monkeypatch):
    monkeypatch.setattr(kept_answers, "BATCH", 2)
    caller = api("member")
    names = [key() for _ in range(6)]
    for name in names:
        caller.post({"title": "x"}, Idempotency_Key=name)
    past = timezone.now() - timedelta(hours=24, seconds=1)
    KeptAnswer.objects.exclude(digest=KeptAnswer.objects.first().digest).update(created_at=past)
    before = REGISTRY.get_sample_value("taskpulse_idempotency_answers_swept_total")
    sweeper = kept_answers.Sweeper()
    assert [sweeper.step() for _ in range(3)] == [True, True, False]
    assert KeptAnswer.objects.count() == 1
    assert REGISTRY.get_sample_value("taskpulse_idempotency_answers_swept_total") == before + 5
    statuses = [caller.post({"title": "x"}, Idempotency_Key=name) for name in names]
    assert sum(REPLAYED in answer for answer in statuses) == 1  # the others are new again


def test_the_sweeper_waits_for_the_database_and_goes_on(monkeypatch, caplog):
    sweeper = kept_answers.Sweeper()

    def away():
        raise OperationalError("away")

    with monkeypatch.context() as patched:
        patched.setattr(connection, "cursor", away)
        assert [sweeper.step(), sweeper.step()] == [False, False]
    assert 0 < sweeper.pause <= sweeper.PAUSE
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


# -- erasure


@pytest.mark.django_db
def test_what_is_erased_is_in_no_kept_answer():
    ana, bruno = api("member"), api("member")
    of_ana = ana.post({"title": "by ana"}, Idempotency_Key=key()).json()
    of_bruno = bruno.post({"title": "by bruno", "assignee": ana.user.pk}, Idempotency_Key=key()).json()
    bruno.post({"title": "below", "parent": of_bruno["id"]}, Idempotency_Key=key())
    bruno.send("DELETE", f"/api/tasks/{of_ana['id']}", Idempotency_Key=key())
    with connection.cursor() as cursor:
        for arguments, forgotten in (([None, of_bruno["id"]], 2), ([str(ana.user.pk), None], 1), ([str(ana.user.pk), None], 0)):
            cursor.execute("SELECT tasks_forget_answers(%s, %s)", arguments)
            assert cursor.fetchone()[0] == forgotten
    assert KeptAnswer.objects.get().status == 204  # it tells nothing
