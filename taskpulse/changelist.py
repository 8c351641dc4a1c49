"""The console's lists: pages by keyset, at a cost that does not grow with the table.

Django's change list counts the table twice for each page and reaches page n by OFFSET. Here a page is what comes after
(or before) a key, one row more than it shows tells whether there is another, and nothing is counted.
"""

from django.contrib.admin import ShowFacets
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.paginator import EmptyPage, Page, PageNotAnInteger, Paginator
from unfold.admin import ModelAdmin
from unfold.views import ChangeList

OLDER, NEWER = "after", "before"  # the query parameters: the page after, or before, a key
LOOKUP_PAGES = 10


class UncountedPage(Page):
    def __init__(self, rows, number, paginator):
        self._next = len(rows) > paginator.per_page
        super().__init__(rows[: paginator.per_page], number, paginator)

    def has_next(self) -> bool:
        return self._next and self.number < LOOKUP_PAGES


class UncountedPaginator(Paginator):
    """For the look-ups of autocomplete fields: at most ten pages, and no COUNT(*)."""

    template_name = "taskpulse/keyset_pages.html"
    count = 0
    num_pages = LOOKUP_PAGES

    def validate_number(self, number) -> int:
        try:
            number = int(number)
        except (TypeError, ValueError):
            raise PageNotAnInteger("That page number is not an integer") from None
        if not 1 <= number <= LOOKUP_PAGES:
            raise EmptyPage("Narrow the search: there are no more pages")
        return number

    def page(self, number) -> UncountedPage:
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        return UncountedPage(list(self.object_list[start : start + self.per_page + 1]), number, self)


class KeysetChangeList(ChangeList):
    """A list in one or more segments (say, held rows before the others), each in the order of its key.

    A cursor is `<segment>.<key>`. A cursor that cannot be read is a wrong parameter, as any other.
    """

    def __init__(self, request, *args, **kwargs):
        if any("\0" in value for values in request.GET.lists() for value in values[1]):
            raise IncorrectLookupParameters("NUL in a parameter")
        super().__init__(request, *args, **kwargs)
        for name in (OLDER, NEWER):
            self.filter_params.pop(name, None)  # the search form repeats them: another search begins at its first page

    def get_filters_params(self, params=None):
        parameters = super().get_filters_params(params)
        return {name: value for name, value in parameters.items() if name not in (OLDER, NEWER)}

    def get_query_string(self, new_params=None, remove=None):
        return super().get_query_string(new_params, [*(remove or []), OLDER, NEWER])

    def get_ordering(self, request, queryset):
        return [self.model_admin.keyset]

    def get_results(self, request):
        admin = self.model_admin
        size = self.list_per_page
        backwards = NEWER in self.params and OLDER not in self.params
        cursor = self.cursor()
        segments = list(enumerate(admin.segments(self.queryset)))
        rows = self._read(segments[::-1] if backwards else segments, cursor, backwards, size + 1)
        more = len(rows) > size
        rows = rows[:size]
        if backwards:
            rows.reverse()
        has_older = more if not backwards else True
        has_newer = (more if backwards else cursor is not None) and bool(rows)
        self.result_list = [row for _, row in rows]
        self.older = self._link(OLDER, rows[-1]) if rows and has_older else None
        self.newer = self._link(NEWER, rows[0]) if has_newer else None
        self.newest = self.get_query_string() if cursor is not None else None
        self.result_count = self.full_result_count = len(self.result_list)
        self.show_full_result_count, self.show_admin_actions = False, True
        self.can_show_all = self.multi_page = False
        self.paginator = UncountedPaginator(self.result_list, size)

    def _read(self, segments, cursor, backwards: bool, limit: int) -> list:
        keyset = self.model_admin.keyset
        descending = keyset.startswith("-") != backwards
        field = keyset.lstrip("-")
        rows = []
        for number, segment in segments:
            if cursor is not None and (number > cursor[0] if backwards else number < cursor[0]):
                continue
            if cursor is not None and number == cursor[0]:
                segment = segment.filter(**{f"{field}__{'lt' if descending else 'gt'}": cursor[1]})
            segment = segment.order_by(f"-{field}" if descending else field).defer(*self.model_admin.list_defer)
            rows += [(number, row) for row in segment[: limit - len(rows)]]
            if len(rows) >= limit:
                break
        return rows

    def cursor(self):
        """The segment and the key that the page comes after (or before), or None on the first page."""
        text = self.params.get(OLDER) or self.params.get(NEWER)
        if not text:
            return None
        number, _, key = text.partition(".")
        try:
            number = int(number)
            key = self.model_admin.key_type(key)
            if isinstance(key, int) and not 0 <= key < 2**63:
                raise ValueError("outside bigint")
        except ValueError as error:
            raise IncorrectLookupParameters(f"no cursor: {error}") from error
        return number, key

    def _link(self, name: str, numbered_row) -> str:
        number, row = numbered_row
        field = self.model_admin.keyset.lstrip("-")
        return self.get_query_string({name: f"{number}.{getattr(row, field)}"})


class KeysetAdmin(ModelAdmin):
    """A model whose list is paged by a unique column. `keyset` is the order: `-pk` is newest first; `key_type` reads a cursor."""

    keyset = "-pk"
    key_type: type = int
    list_defer: tuple = ()
    list_per_page = 50
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    paginator = UncountedPaginator
    sortable_by = ()
    list_disable_select_all = True
    list_fullwidth = True
    save_on_top = False

    def get_changelist(self, request, **kwargs):
        return KeysetChangeList

    def segments(self, queryset) -> list:
        """The parts of the list, one after the other."""
        return [queryset]


class RecordedAdmin(KeysetAdmin):
    """The audit log has each change, and has it provably: Django's own, deletable record of the console's acts is not kept."""

    def log_addition(self, *args):
        pass

    def log_change(self, *args):
        pass

    def log_deletions(self, *args):
        pass


class ReadOnlyAdmin(KeysetAdmin):
    """Nobody adds, changes or deletes here, superusers neither."""

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False

    def history_view(self, request, object_id, extra_context=None):
        return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)

    def change_view(self, request, object_id, form_url="", extra_context=None):
        return super().change_view(request, object_id, form_url, {"show_history": False} | (extra_context or {}))
