"""Full-text search of tasks: which words a task has, what finds them, and that nothing typed is an error."""

import re
import unicodedata
from importlib import import_module
from types import SimpleNamespace

import pytest
from django.db import connection
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.api import search
from tasks.models import DESCRIPTION_LENGTH, LABEL_LENGTH, LABELS, SUMMARY_LENGTH, TITLE_LENGTH, Task

pytestmark = pytest.mark.django_db

_NO_DECOMPOSITION = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe"})
_MARKS = re.compile(
    "[\u00ad\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u200b-\u200d\u2060\ufeff]"
)


def words_of(text: str) -> list[str]:
    """The model."""
    text = unicodedata.normalize("NFKD", text).casefold().translate(_NO_DECOMPOSITION)
    text = unicodedata.normalize("NFC", _MARKS.sub("", text))
    text = re.sub("([\u3040-\u30ff\u3400-\u9fff])", r" \1 ", text)
    words = "".join(c if c.isalnum() else " " for c in text).split()
    # PostgreSQL's parser sees a number with an exponent in what begins as one, in a task and in what is looked for alike.
    return " ".join(_EXPONENT.sub(r"\1 ", word) for word in words).split()


_EXPONENT = re.compile("^([0-9]+e[0-9]+)(?=[^0-9])")


def column(sql: str, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone()[0]


WORDS_IN_ORDER = """
SELECT coalesce(string_agg(lexeme, ' ' ORDER BY place), '')
FROM unnest(to_tsvector('simple', task_fold(%s))), unnest(positions) place
"""


def folded(text: str) -> list[str]:
    return column(WORDS_IN_ORDER, text).split()


LETTERS = "abcXYZéÉüßøŁæœñçİıſﬁªΣςάΩйЁжВאבשׁمَةﻻデがﾊ会議東한글กสवन12٣²①"
PUNCTUATION = " \t\n.,;:!?-_/\\@#&+*'\"()<>[]{}|~^`$%=«»“”—…、。·\u00ad\u200b"
TEXT = st.text(alphabet=LETTERS + PUNCTUATION, max_size=30)
ASCII = st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=127), max_size=40)


@given(st.one_of(TEXT, ASCII))
@example("0E0A")
def test_a_text_has_the_words_that_its_letters_and_digits_make(text):
    assert folded(text) == words_of(text)


def test_what_makes_a_task_s_words_is_put_in_its_place():
    """Called one by one, the functions take twice as long as what they do; a write of a text pays it."""
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN VERBOSE SELECT task_words(title, labels, category, summary, description) FROM tasks_task")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "to_tsvector" in plan
    assert not re.search(r"task_(words|fold)\(", plan)


@given(ASCII)
def test_ascii_has_the_same_words_beside_other_letters(text):
    assert folded(text) == folded(f"{text} é")[:-1]


# Queries against a naive model: words of a task with their places, and what was typed, term by term.


def places(task: dict) -> list[str]:
    parts = [task["title"], *task["labels"], task["category"] or "", task["summary"] or "", task["description"]]
    return [word for part in parts for word in words_of(part)]


def holds(words: list[str], term: search.Term) -> bool:
    sought = words_of(term.text)
    if not sought:
        return False
    for start in range(len(words) - len(sought) + 1):
        *firsts, last = words[start : start + len(sought)]
        if firsts == sought[:-1] and (last.startswith(sought[-1]) if term.is_prefix else last == sought[-1]):
            return True
    return False


def model(task: dict, terms: list[search.Term]) -> bool:
    groups, unwanted = [], []
    for term in terms:
        if not words_of(term.text):
            continue
        if term.is_unwanted:
            unwanted.append(term)
        elif term.is_alternative and groups:
            groups[-1].append(term)
        else:
            groups.append([term])
    words = places(task)
    wanted = groups and all(any(holds(words, term) for term in group) for group in groups)
    return bool(wanted) and not any(holds(words, term) for term in unwanted)


def matches(task: dict, typed: str) -> bool:
    exact, words = search.query(typed)
    return column(
        f"SELECT w @@ {exact} AND w @@ {words} FROM task_words(%s, %s::varchar[], %s, %s, %s) w",
        task["title"], task["labels"], task["category"], task["summary"], task["description"],
    )  # fmt: skip


WORDS = [
    "Zürich",
    "zurich",
    "zu",
    "Straße",
    "strasse",
    "łódź",
    "Ответ",
    "ответы",
    "ёж",
    "شكرًا",
    "会議",
    "議",
    "東京都",
    "한국어",
    "한",
    "x",
    "x1",
    "or",
    "café's",
]
SENTENCE = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)
TASK = st.fixed_dictionaries(
    {"title": SENTENCE, "labels": st.lists(st.sampled_from(WORDS), max_size=2), "category": st.none() | st.sampled_from(WORDS),
     "summary": st.none() | SENTENCE, "description": SENTENCE}
)  # fmt: skip
WORD = st.sampled_from(WORDS)
TERM = st.one_of(
    WORD, WORD.map("-{}".format), WORD.map("{}*".format), SENTENCE.map('"{}"'.format), SENTENCE.map('-"{}"'.format),
    st.sampled_from(["or", "zür", "отв", "stra", "-", '"', "!"]),
)  # fmt: skip
TYPED = st.lists(TERM, max_size=5).map(" ".join)


@given(TASK, TYPED, st.sampled_from(["", " "]))
def test_a_query_finds_what_the_model_does(task, typed, end):
    assert matches(task, typed + end) == model(task, search.terms(typed + end))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", []),
        ("invoice", [("invoice", "prefix")]),
        ("invoice ", [("invoice",)]),
        ("the inv", [("the",), ("inv", "prefix")]),
        ("inv* the ", [("inv*", "prefix"), ("the",)]),
        ('"the invoice"', [("the invoice",)]),
        ('"the invoice', [("the invoice",)]),
        ("-paid invoice ", [("paid", "unwanted"), ("invoice",)]),
        ("invoice -pai", [("invoice",), ("pai", "unwanted")]),
        ("invoice -pai*", [("invoice",), ("pai*", "prefix", "unwanted")]),
        ('invoice -"paid late"', [("invoice",), ("paid late", "unwanted")]),
        ("invoice OR bill late ", [("invoice",), ("bill", "alternative"), ("late",)]),
        ('a or "b c" or d* ', [("a",), ("b c", "alternative"), ("d*", "prefix", "alternative")]),
        ("or", [("or", "prefix")]),
        ("or a ", [("or",), ("a",)]),
        ("a or", [("a",), ("or", "prefix")]),
        ("a or or b ", [("a",), ("or",), ("b", "alternative")]),
        ("a or -b", [("a",), ("or",), ("b", "unwanted")]),
        ("-a or b ", [("a", "unwanted"), ("or",), ("b",)]),
        ('a "or" b ', [("a",), ("or",), ("b",)]),
        ("e-mail", [("e-mail", "prefix")]),
        ("& | ! <-> ( ) : * - -- \\ '", []),
        ("a\x00b ", [("a",), ("b",)]),
        ("a " * 40, [("a",)] * 32),
        ("a" * 2000, [("a" * 1000, "prefix")]),
    ],
)
def test_what_is_typed_is_read_as_people_mean_it(typed, expected):
    flags = {"prefix": "is_prefix", "unwanted": "is_unwanted", "alternative": "is_alternative"}
    assert search.terms(typed) == [search.Term(text, **{flags[flag]: True for flag in more}) for text, *more in expected]


@given(
    st.one_of(
        st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.text(alphabet="ab \"'-*:&|!()<>\\orOR\x00", max_size=30)
    )
)
def test_nothing_that_is_typed_is_an_error(typed):
    exact, words = search.query(typed)
    assert column(f"SELECT '' @@ {exact} OR '' @@ {words} OR true")


@pytest.mark.parametrize("typed", ["", "  ", "!!!", "-invoice", '-"the invoice"', '""', "___"])
def test_a_query_without_a_word_to_be_found_finds_nothing(typed):
    assert not matches({"title": "the big one", "labels": [], "category": None, "summary": None, "description": ""}, typed)


# What the trigger keeps.


def kept() -> dict:
    with connection.cursor() as cursor:
        cursor.execute("SELECT s.task_id, words::text FROM tasks_search s")
        return dict(cursor.fetchall())


def test_the_words_follow_the_task():
    task = Task.objects.create(title="Pay the invoice", labels=["billing"], category="office", description="by friday")
    stays = Task.objects.create(title="another")
    assert kept()[task.pk] == "'billing':4B 'by':6 'friday':7 'invoice':3A 'office':5B 'pay':1A 'the':2A"
    task.title, task.summary = "Paid", "it is done"
    task.save()
    assert kept()[task.pk] == "'billing':2B 'by':7 'done':6C 'friday':8 'is':5C 'it':4C 'office':3B 'paid':1A"
    Task.objects.filter(pk=task.pk).update(description="", labels=[], summary=None)
    assert kept()[task.pk] == "'office':2B 'paid':1A"
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_task SET category = NULL WHERE id = %s", [task.pk])
    assert kept()[task.pk] == "'paid':1A"
    task.delete()
    assert kept() == {stays.pk: "'another':1A"}


def test_a_task_with_the_id_of_one_that_was_deleted_has_words_of_its_own():
    first = Task.objects.create(title="first")
    key = first.pk
    first.delete()
    Task.objects.create(id=key, title="second")
    assert kept() == {key: "'second':1A"}
    with connection.cursor() as cursor:
        cursor.execute("WITH gone AS (DELETE FROM tasks_search WHERE task_id = %s) SELECT", [key])
    Task.objects.filter(pk=key).update(title="third")  # a task from before the words were kept
    assert kept() == {key: "'third':1A"}


def test_a_change_of_anything_else_writes_no_words():
    task = Task.objects.create(title="Pay the invoice")
    before = column("SELECT xmin::text || ctid::text FROM tasks_search")
    task.status = "completed"
    task.save()
    assert column("SELECT xmin::text || ctid::text FROM tasks_search") == before


LONGEST = {
    "as many words as fit": lambda size: "".join(f"{chr(0x4E00 + n % 20_000)}" for n in range(size)),
    "short words": lambda size: " ".join(f"{n:x}" for n in range(size))[:size],
    "one word": lambda size: "ß" * size,
    "what grows most": lambda size: "".join(f"\ufdfa{chr(0x3400 + n % 6_000)}" for n in range(size))[:size],
    "four bytes each": lambda size: "".join(f"{chr(0x20000 + n % 40_000)} " for n in range(size))[:size],
    "pairs that grow": lambda size: "".join(f"{chr(0x3300 + n % 88)}{chr(0x20000 + n)}" for n in range(size))[:size],
}


@pytest.mark.parametrize("text", LONGEST.values(), ids=list(LONGEST))
def test_the_longest_texts_can_be_stored(text):
    task = Task.objects.create(
        title=text(TITLE_LENGTH),
        description=text(DESCRIPTION_LENGTH),
        summary=text(SUMMARY_LENGTH),
        labels=[text(LABEL_LENGTH)] * LABELS,
    )
    assert column("SELECT length(words) FROM tasks_search WHERE task_id = %s", task.pk) > 0 or text(1) == "ß"
    assert column("SELECT sum(pg_column_size(words)) FROM tasks_search") < 500_000


def test_tasks_from_before_the_trigger_are_found_too(monkeypatch):
    migration = import_module("tasks.migrations.0008_search_fill")
    monkeypatch.setattr(migration, "BATCH", migration.BATCH.replace("LIMIT 2000", "LIMIT 2"))
    Task.objects.bulk_create(Task(title=f"task {n}", description="old") for n in range(5))
    expected = kept()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tasks_search WHERE task_id IN (SELECT task_id FROM tasks_search OFFSET 1)")
        for _ in range(2):
            migration.fill(None, SimpleNamespace(connection=connection))
    assert len(expected) == 5
    assert kept() == expected
