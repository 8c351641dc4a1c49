"""`q`: what people type into a search box, as a query of PostgreSQL's full text search. Nothing that is typed is an error.

Words all have to be there, in any order; `"several words"` one after the other; `-word` or `-"some words"` must not be there;
`one or another` either (it binds closer than the space between words); `invo*` begins a word, and so does the last word,
which may not be finished. Case and accents do not matter. What is no letter or digit only parts words: `a-b` is `"a b"`.
A query without a word to be found (empty, or punctuation and negations alone) finds nothing.

So that a word which every task holds costs no more than a rare one, a search finds the newest MATCHES tasks that match, and
ranks these; the places of words and what must not be there are looked at in the newest LOOKED_AT that hold the words.
`tasks.api.search_pages` has the pages of what is found.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are literals)

import re
import uuid
from typing import NamedTuple

from tasks.api import conditions
from tasks.api.filters import Condition, Filters

MATCHES, LOOKED_AT = 1_000, 20_000

# Of what was typed, this many characters and terms count; the rest is not looked for.
_LENGTH, _TERMS = 1_000, 32
_TERM = re.compile(r'(-?)(?:"([^"]*)(?:"|$)|([^\s"]+))')
_HAS_WORD = re.compile(r"[^\W_]")


class Term(NamedTuple):
    text: str
    is_prefix: bool = False
    is_unwanted: bool = False
    # Stands after an `or`.
    is_alternative: bool = False


def terms(typed: str) -> list[Term]:
    """What was typed, in its order. Terms that hold no letter or digit are left out."""
    typed = typed[:_LENGTH].replace("\x00", " ")
    found = [match.groups() for match in _TERM.finditer(typed)]
    found = [(minus, phrase, word) for minus, phrase, word in found if _HAS_WORD.search(phrase or word or "")][:_TERMS]
    result, is_alternative = [], False
    for number, (minus, phrase, word) in enumerate(found):
        is_last = number == len(found) - 1
        if _is_or(found[number]) and result and not result[-1].is_unwanted and not is_alternative and not is_last:
            follows = found[number + 1]
            if not follows[0] and not _is_or(follows):
                is_alternative = True
                continue
        is_prefix = word is not None and (word.endswith("*") or (is_last and not minus and not typed[-1].isspace()))
        result.append(Term(phrase or word, is_prefix, bool(minus), is_alternative))
        is_alternative = False
    return result


def _is_or(part: tuple) -> bool:
    minus, _, word = part
    return not minus and word is not None and word.lower() == "or"


class Query(NamedTuple):
    """SQL expressions of two tsqueries: what is asked for, and the words that it takes in any case. They hold literals, since
    how many tasks hold a word decides on the plan, and of a parameter PostgreSQL's generic plan does not know it: it would
    sort all that hold a frequent one."""

    exact: str
    words: str


def query(typed: str) -> Query:
    wanted, unwanted = [], []
    for term in terms(typed):
        phrase = f"task_phrase({conditions.literal(term.text)}, {'true' if term.is_prefix else 'false'})"
        if term.is_unwanted:
            unwanted.append(phrase)
        elif term.is_alternative:
            wanted[-1] += f" || {phrase}"
        else:
            wanted.append(phrase)
    required = " && ".join(f"({phrase})" for phrase in wanted) or "''::tsquery"
    refused = " || ".join(unwanted) or "''::tsquery"
    # Lexemes are letters and digits: this is the operator.
    return Query(f"task_query({required}, {refused})", f"replace(({required})::text, '<->', '&')::tsquery")


class Frame(NamedTuple):
    """The oldest and the newest task that the first page of a search found, by their ids."""

    oldest: uuid.UUID
    newest: uuid.UUID


def found(typed: str, filters: Filters, frame: Frame | None = None) -> str:
    """A statement for the keys and words of what is found among the tasks that the filters match, without parameters.

    A later page looks within the frame of the first: what was found then is found again, however many tasks match that were
    made since. What begins to match in the frame is found too, so that there is room for as much again.
    """
    where = conditions.matching(filters)
    tasks = f"JOIN tasks_task t ON t.id = s.task_id {where} AND" if where else "WHERE"
    if frame is None:
        return newest(typed, tasks)
    return newest(typed, f"{tasks} s.task_id BETWEEN '{frame.oldest}' AND '{frame.newest}' AND", room=2)


def newest(typed: str, tasks: str, room: int = 1) -> str:
    """The newest that match; `tasks` stands between the table `tasks_search s` and the condition on its words, and restricts it."""
    asked = query(typed)
    return f"""SELECT s.task_id, s.words FROM (
  SELECT s.task_id, s.words FROM tasks_search s {tasks} s.words @@ {asked.words}
  ORDER BY s.task_id DESC LIMIT {LOOKED_AT * room}) s
WHERE s.words @@ {asked.exact} ORDER BY s.task_id DESC LIMIT {MATCHES * room}"""


# An array, so that PostgreSQL begins with it; `rows.with_found` says what is found.
IS_FOUND = Condition("t.id = ANY (ARRAY(SELECT task_id FROM found))", ())
