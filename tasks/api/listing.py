"""What a query string asks of the task list: filters, an ordering, a page, and what to show. All that is wrong is told at once."""

from dataclasses import dataclass, field, replace

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import InvalidQuery
from tasks.api import filters, members, pagination, search
from tasks.api.filters import Filters
from tasks.api.members import Members
from tasks.api.ordering import DEFAULT, ORDERINGS, Ordering
from tasks.api.pagination import Keys, Page
from tasks.api.search_pages import PlaceKeys, Relevance

PARAMETERS = ("q", *filters.PARAMETERS, "ordering", "limit", "cursor", *members.PARAMETERS)


@dataclass(frozen=True, slots=True)
class Listing:
    filters: Filters = field(default_factory=Filters)
    ordering: Ordering | Relevance = DEFAULT
    page: Page = field(default_factory=Page)
    members: Members = members.ALL
    # Of its cursors: the ordering, or for a search more.
    keys: Keys = DEFAULT


_FIRST_PAGE = Listing()


def read(query, user_id: int, whole: bool = False) -> Listing:
    """`whole`: a list that is not in pages, whose `limit` may be any number or left out. Raises InvalidQuery."""
    if not query and not whole:
        return _FIRST_PAGE
    errors = filters.unknown(query, PARAMETERS)
    asked = filters.of_tasks(query, user_id, errors)
    ordering = _ordering(query, asked, errors)
    keys = PlaceKeys(ordering) if "q" in query else ordering
    page = _page(query, keys, whole, errors)
    if "q" in query:
        frame, position = page.key or (None, None)
        keys, page = keys._replace(frame=frame), replace(page, key=position)
        # What is found is watched: no index is to lead to all else that is.
        asked = Filters(asked.equal, [*asked.conditions, search.IS_FOUND], found=search.found(query["q"], asked, frame))
    shown = members.read(query, errors)
    if "subtasks" in shown.expanded and page.limit > members.MOST_WITH_SUBTASKS:
        most = members.MOST_WITH_SUBTASKS
        detail = format_lazy(_("limit: expected at most {most} with expand=subtasks."), most=most)
        errors.append({"parameter": "limit", "detail": detail})
    if errors:
        raise InvalidQuery(errors)
    return Listing(asked, ordering, page, shown, keys)


def _page(query, keys: Keys, whole: bool, errors: list[dict]) -> Page:
    if whole:
        return pagination.read_whole(query, errors)
    return pagination.read(query, keys, errors)


def _ordering(query, asked: Filters, errors: list[dict]) -> Ordering | Relevance:
    """The one that is named; else that of a search; else newest first by the first time that a filter looks at, so that its
    index gives the order."""
    if "ordering" not in query and "q" in query:
        return Relevance(query["q"])
    if "ordering" not in query:
        column = next((condition.column for condition in asked.conditions if condition.column), "created_at")
        return ORDERINGS[f"-{column}"]
    name = query["ordering"]
    if name not in ORDERINGS:
        errors.append(filters.wrong_value("ordering", name, filters.one_of(ORDERINGS), ORDERINGS))
    return ORDERINGS.get(name, DEFAULT)
