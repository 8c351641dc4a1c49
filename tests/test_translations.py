"""Problems are told in the caller's language, as far as the catalogues in taskpulse/locale go."""

import string
from pathlib import Path

import pytest
from babel.messages import mofile, pofile
from django.conf import settings
from django.utils import translation

import taskpulse
from taskpulse.problem_types import TYPES
from tests.api_client import Api, api, problem

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
def test_both_catalogues_translate_the_same(language):
    assert _catalogue(language, "mo").keys() == _catalogue(_LANGUAGES[0], "mo").keys()


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
