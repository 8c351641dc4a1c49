"""`q`: what people type into a search box, as a query of PostgreSQL's full text search. Nothing that is typed is an error.

Words all have to be there, in any order; `"several words"` one after the other; `-word` or `-"some words"` must not be there;
`one or another` either (it binds closer than the space between words); `invo*` begins a word, and so does the last word,
which may not be finished. Case and accents do not matter. What is no letter or digit only parts words: `a-b` is `"a b"`.
A query without a word to be found (empty, or punctuation and negations alone) finds nothing.

So that a word which every task holds costs no more than a rare one, a search finds the newest MATCHES tasks that match, and
ranks these; the places of words and what must not be there are looked at in the newest LOOKED_AT that hold the words.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import re
import struct
import uuid
from typing import NamedTuple

from tasks.api import rows
from tasks.api.filters import Condition, Filters
from tasks.api.ordering import Part
from tasks.api.pagination import Page

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
    """SQL expressions of two tsqueries with their parameters: what is asked for, and the words that it takes in any case."""

    exact: rows.Sql
    words: rows.Sql


def query(typed: str) -> Query:
    wanted, unwanted, parameters = [], [], {True: [], False: []}
    for term in terms(typed):
        phrase = f"task_phrase(%s, {'true' if term.is_prefix else 'false'})"
        parameters[term.is_unwanted].append(term.text)
        if term.is_unwanted:
            unwanted.append(phrase)
        elif term.is_alternative:
            wanted[-1] += f" || {phrase}"
        else:
            wanted.append(phrase)
    required = " && ".join(f"({phrase})" for phrase in wanted) or "''::tsquery"
    refused = " || ".join(unwanted) or "''::tsquery"
    return Query(
        rows.Sql(f"task_query({required}, {refused})", parameters[False] + parameters[True]),
        # Lexemes are letters and digits: this is the operator.
        rows.Sql(f"replace(({required})::text, '<->', '&')::tsquery", parameters[False]),
    )


def _found(typed: str, filters: Filters) -> rows.Sql:
    """A statement for the keys and words of what is found."""
    asked, where = query(typed), rows.matching(filters)
    tasks = f"JOIN tasks_task t ON t.id = s.task_id {where.text} AND" if where.text else "WHERE"
    text = f"""SELECT s.task_id, s.words FROM (
  SELECT s.task_id, s.words FROM tasks_search s {tasks} s.words @@ {asked.words.text}
  ORDER BY s.task_id DESC LIMIT {LOOKED_AT}) s
WHERE s.words @@ {asked.exact.text} ORDER BY s.task_id DESC LIMIT {MATCHES}"""
    return rows.Sql(text, [*where.values, *asked.words.values, *asked.exact.values])


def condition(typed: str, filters: Filters) -> Condition:
    """That a task is found, among those that the filters match."""
    found = _found(typed, filters)
    # An array, so that PostgreSQL begins with it.
    return Condition(f"t.id = ANY (ARRAY(SELECT task_id FROM ({found.text}) found))", tuple(found.values))


class Rank(NamedTuple):
    """The position of a row in the order of relevance."""

    part: int
    rank: float
    id: uuid.UUID


# Number of the ordering, rank, id.
_RANK = struct.Struct(">Bf16s")


class Relevance(NamedTuple):
    """The ordering (tasks.api.ordering) by how well a task matches what was typed: the title counts most, then labels and
    category, the summary, the description; of equals the newest first."""

    typed: str
    # What the other parameters ask for.
    filters: Filters
    number: int = 128
    column: str = "rank"
    descending: bool = True
    parts: tuple[Part, ...] = (Part(),)

    def write(self, at: Rank) -> bytes:
        return _RANK.pack(self.number, at.rank, at.id.bytes)

    def read(self, raw: bytes) -> Rank | None:
        if len(raw) != _RANK.size:
            return None
        number, rank, key = _RANK.unpack(raw)
        return Rank(0, rank, uuid.UUID(bytes=key)) if number == self.number and 0 <= rank <= 1 else None

    def position(self, part: int, rank: str, key: str) -> Rank:
        return Rank(part, float(rank), uuid.UUID(key))

    def select(self, at: Page) -> tuple[str, list]:
        """As `rows.select`."""
        found, exact = _found(self.typed, self.filters), query(self.typed).exact
        way, than = ("ASC", ">") if at.backward else ("DESC", "<")
        beyond = f"WHERE (rank, task_id) {than} (%s::real, %s)" if at.key else ""
        text = f"""SELECT t.*, 0 AS part, ranked.rank FROM (
  SELECT task_id, rank FROM (SELECT task_id, ts_rank(words, {exact.text}) AS rank FROM ({found.text}) found) ranked
  {beyond} ORDER BY rank {way}, task_id {way} LIMIT {at.limit + 1}) ranked JOIN tasks_task t ON t.id = ranked.task_id"""
        return text, [*exact.values, *found.values, *([at.key.rank, at.key.id] if at.key else [])]
