"""`q`: what people type into a search box, as a query of PostgreSQL's full text search. Nothing that is typed is an error.

Words all have to be there, in any order; `"several words"` one after the other; `-word` or `-"some words"` must not be there;
`one or another` either (it binds closer than the space between words); `invo*` begins a word, and so does the last word,
which may not be finished. Case and accents do not matter. What is no letter or digit only parts words: `a-b` is `"a b"`.
A query without a word to be found (empty, or punctuation and negations alone) finds nothing.
"""

import re
from typing import NamedTuple

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


def query(typed: str) -> tuple[str, list]:
    """An SQL expression of the tsquery, and its parameters."""
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
    return f"task_query({required}, {refused})", parameters[False] + parameters[True]
