"""Problems are told in the caller's language, as far as the catalogues in taskpulse/locale go."""

import re
import string
from pathlib import Path

import pytest
from babel.messages import mofile, pofile
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_keywords
from django.conf import settings
from django.utils import translation

import taskpulse
from taskpulse.problem_types import TYPES
from tests.api_client import ABSENT, Api, api, problem
from tests.running_up import ROOT

_LANGUAGES = [code for code, _ in settings.LANGUAGES if code != "en"]
_LOCALE = Path(taskpulse.__file__).parent / "locale"


def _catalogue(language: str, suffix: str):
    read = pofile.read_po if suffix == "po" else mofile.read_mo
    with (_LOCALE / language / "LC_MESSAGES" / f"django.{suffix}").open("rb") as file:
        return {message.id: message.string for message in read(file) if message.id}


def _names(text: str) -> set:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("language", _LANGUAGES)
def test_what_is_compiled_is_what_is_translated(language):
    sources, compiled = _catalogue(language, "po"), _catalogue(language, "mo")
    assert compiled == {english: told for english, told in sources.items() if told}, "run `make messages`"
    for english, told in compiled.items():
        assert _names(told) <= _names(english), english


@pytest.mark.parametrize("language", _LANGUAGES)
def test_the_catalogues_translate_what_the_code_says_and_nothing_else(language):
    keywords = parse_keywords(re.findall(r" -k (\S+)", (ROOT / "Makefile").read_text()))
    said = set()
    for directory in ("taskpulse", "tasks", "audit"):
        found = extract_from_dir(ROOT / directory, keywords=keywords)
        said |= {message for _, _, message, _, _ in found if message}
    assert _catalogue(language, "mo").keys() == said, "run `make messages`, and translate what is new"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("accepted", "language", "title", "detail"),
    [
        ("de", "de", "Der Inhalt hat falsche Werte", "erwartet werden 1 bis 255 Zeichen, es sind 0"),
        ("de-AT, en;q=0.5", "de", "Der Inhalt hat falsche Werte", "erwartet werden 1 bis 255 Zeichen, es sind 0"),
        ("fr;q=0.9, de;q=0.1", "fr", "Le contenu a des valeurs fausses", "1 à 255 caractères sont attendus, il y en a 0"),
        ("it", "en", "The body has wrong values", "expected 1 to 255 characters, got 0"),
        ("it, de;q=0.1", "de", "Der Inhalt hat falsche Werte", "erwartet werden 1 bis 255 Zeichen, es sind 0"),
        ("*", "en", "The body has wrong values", "expected 1 to 255 characters, got 0"),
        ("\xff;q=x, ,", "en", "The body has wrong values", "expected 1 to 255 characters, got 0"),
    ],
)
def test_a_problem_is_told_in_the_language_that_is_wanted_most(accepted, language, title, detail):
    refused = api().post({"title": ""}, Accept_Language=accepted)
    document = problem(refused, 422)
    assert (document["title"], document["errors"][0]["detail"]) == (title, detail)
    assert document["type"] == "/api/problems/invalid-body"
    assert refused["Content-Language"] == language
    assert "Accept-Language" in refused["Vary"]
    # The thread's next caller is told in English again.
    assert problem(api().post({"title": ""}), 422)["title"] == "The body has wrong values"


@pytest.mark.django_db
def test_messages_of_django_and_its_libraries_are_told_in_it_too():
    assert (
        problem(Api(None).get("/api/tasks", Accept_Language="de"), 401)["detail"]
        != (problem(Api(None).get("/api/tasks"), 401)["detail"])
    )


@pytest.mark.parametrize("language", _LANGUAGES)
def test_every_title_that_is_translated_is_another(language):
    with translation.override(language):
        told = {translation.gettext(found.title) for found in TYPES}
    assert len(told) == len(TYPES)


def _refusals(caller: Api) -> dict[str, tuple]:
    """Typical refusals: method, path, body and headers of each."""
    done, task = caller.create(status="completed"), caller.create()
    child = caller.create(parent=task["id"])
    caller.post({"name": "bug"}, "/api/labels")
    there, nowhere = f"/api/tasks/{task['id']}", "0199fd0a-facc-7048-a66e-5b1e3b42419c"
    key = {"Idempotency_Key": "once"}
    caller.post({"title": "first"}, **key)
    queries = [
        "/api/tasks?statuss=x", "/api/tasks?zzzzzz=1", "/api/tasks?status=pendin",
        "/api/tasks?status=%7B%7D",
        "/api/tasks?limit=0", "/api/tasks?limit=500&expand=subtasks", "/api/tasks?cursor=x", "/api/tasks?due_before=2026-01-15",
        "/api/tasks?due_before=x", "/api/tasks?due_before=2026-02-31T00:00:00Z", "/api/tasks?overdue=x",
        "/api/tasks?overdue=true&overdue=true", "/api/tasks?parent=x",
        "/api/tasks?assignee=x", "/api/tasks?watching=none", "/api/tasks?label=", "/api/tasks?ordering=titel",
        "/api/tasks?expand=x",
        "/api/tasks?category=" + "x" * 65, "/api/tasks?label=%22a", "/api/tasks?label=" + ",".join(map(str, range(51))),
        f"{there}?version=0", f"{there}?version=9", f"{there}?version=1&as_of=2026-01-15T00:00:00Z", "/api/audit?type=x",
        "/api/audit?since=x", "/api/audit?changed=title", "/api/audit?event=x", "/api/audit/export?from=x", "/api/nothing",
    ]  # fmt: skip
    bodies = [
        {}, {"title": ""}, {"titel": "x"}, {"title": 3}, {"title": "x", "priority": "urgent"},
        {"title": "x", "labels": ["x"] * 501},
        {"title": "x", "labels": "x"}, {"title": "x", "assignee": "me"}, {"title": "x", "assignee": 2**31 - 1},
        {"title": "x", "parent": nowhere}, {"title": "x", "parent": child["id"]}, {"title": "x", "due_at": "2026-01-15"},
        {"title": "x", "due_at": "2026-02-31T00:00:00Z"}, {"title": "x", "assignee": {}}, [],
    ]  # fmt: skip
    move = {"op": "update", "id": task["id"], "task": {"parent": done["id"]}}
    operations = [
        [], "x", [7], [{"op": "x"}], [{"op": "create", "x": 1}], [{"op": "create"}], [{"op": "delete", "id": "x"}],
        [{"op": "delete", "id": nowhere}], [{"op": "delete", "id": task["id"], "version": 0}],
        [{"op": "delete", "id": task["id"], "version": 7}], [{"op": "delete", "id": task["id"]}] * 2, [move],
        [{"op": "update", "id": done["id"], "task": {"status": "pending"}}],
        [{"op": "update", "id": task["id"], "task": {"parent": task["id"]}}],
        [{"op": "delete", "id": done["id"]}, {"op": "create", "task": {"title": "x", "parent": done["id"]}}],
    ]  # fmt: skip
    found = {f"GET {path}": ("GET", path) for path in queries}
    found |= {f"create {body}": ("POST", "/api/tasks", body) for body in bodies}
    found |= {f"bulk {body}": ("POST", "/api/tasks/bulk", {"operations": body}) for body in operations}
    return found | {
        "no JSON": ("POST", "/api/tasks", b"{"),
        "bulk members": ("POST", "/api/tasks/bulk", {"atomic": 1, "x": 1, "operations": []}),
        "transition": ("PATCH", f"/api/tasks/{done['id']}", {"status": "pending"}),
        "key": ("POST", "/api/tasks", {"title": "x"}, {"Idempotency_Key": "a b"}),
        "key of another": ("POST", "/api/tasks", {"title": "x"}, key),
        "tag": ("PATCH", there, {"title": "x"}, {"If_Match": "1"}),
        "stale": ("PATCH", there, {"title": "x"}, {"If_Match": '"9"'}),
        "known": ("PATCH", there, {"title": "x"}, {"If_None_Match": "*"}),
        "Accept": ("GET", there, ABSENT, {"Accept": "text/html"}),
        "CSV": ("GET", "/api/tasks?expand=assignee", ABSENT, {"Accept": "text/csv"}),
        "CSV of a page": ("GET", "/api/tasks?cursor=x&limit=0", ABSENT, {"Accept": "text/csv"}),
        "method": ("DELETE", "/api/tasks"),
        "comment": ("POST", f"{there}/comments", {"body": " "}),
        "no comment": ("POST", f"{there}/comments", {"x": 1}),
        "watcher": ("PUT", f"{there}/watchers/{2**31 - 1}"),
        "label": ("POST", "/api/labels", {"name": "bug"}),
        "no label": ("POST", "/api/labels", {"colour": "red"}),
    }


def _details(response) -> list[str]:
    document = response.json()
    return [document["title"], document["detail"], *(error["detail"] for error in document.get("errors", []))]


@pytest.mark.django_db
@pytest.mark.parametrize("language", _LANGUAGES)
def test_nothing_of_a_refusal_stays_english(language, settings):
    caller, english = api(), []
    refusals = _refusals(caller)
    settings.REQUIRE_IF_MATCH = False
    for what, (method, path, *rest) in refusals.items():
        body, headers = [*rest, ABSENT, {}][0], rest[1] if len(rest) > 1 else {}
        answers = [caller.send(method, path, body, Accept_Language=asked, **headers) for asked in ("en", language)]
        assert answers[0].status_code == answers[1].status_code >= 400, (what, answers[0].content)
        assert answers[1]["Content-Language"] == language
        english += [(what, told) for told in _details(answers[1]) if told in _details(answers[0])]
    assert english == []


@pytest.mark.django_db
def test_what_an_installation_demands_is_told_in_it_too(settings):
    caller = api()
    task = caller.create()
    settings.REQUIRE_IF_MATCH = settings.REQUIRE_IDEMPOTENCY_KEY = True
    operations = {"operations": [{"op": "delete", "id": task["id"]}]}
    missing = problem(caller.post({"title": "x"}, Accept_Language="de"), 400)
    assert missing["detail"].startswith("Idempotency-Key fehlt: erwartet wird ein Schlüssel aus 1 bis 255 ")
    header = {"Accept_Language": "de", "Idempotency_Key": "x"}
    assert problem(caller.patch(f"/api/tasks/{task['id']}", {"title": "x"}, **header), 428)["detail"].startswith("If-Match fehlt")
    refused = problem(caller.post(operations, "/api/tasks/bulk", **header), 428)
    assert refused["errors"][0]["detail"].startswith("fehlt: nennen Sie die gelesene Version")
