"""The lists of the API whose cost `make plans` looks at, and how it goes with the number of tasks."""

ORDERED = ("created_at", "updated_at", "due_at", "completed_at", "priority")
_ORDERINGS = [f"{sign}{name}" for name in ORDERED for sign in ("-", "")]
# Whose cost does not depend on how many tasks there are. A list is named as `tests.benchmarks.plans.reader` has it.
FLAT = [
    "", *(f"ordering={ordering}" for ordering in _ORDERINGS),
    *(f"status=pending&ordering={ordering}" for ordering in _ORDERINGS if "completed" not in ordering),
    *(f"assignee=me&ordering={ordering}" for ordering in _ORDERINGS if "priority" not in ordering),
    "status=pending", "status=pending,in_progress", "priority=high", "priority=low,high", "status=pending&priority=high",
    "assignee=me", "assignee=none", "assignee=none,me", "assignee=me&status=pending,in_progress", "assignee=me&priority=high",
    "assignee=me&status=pending&ordering=due_at", "assignee=me&status=pending,in_progress&ordering=-updated_at",
    "assignee=me&ordering=-priority", "status=completed&ordering=-completed_at", "created_by=me", "created_by=me&status=completed",
    "parent={parent}", "parent={parent}&status=completed", "parent=none", "parent=none&status=pending", "category=category-3",
    "category=category-3&status=completed", "category=", "label=common", "label=rare", "label=common,rare",
    "label_all=rare,common", "label_all=common,rare",
    "label=common&status=completed", "label=rare&ordering=-updated_at", "label=medium", "label=medium&status=pending",
    "label=medium,rare&created_before={old}", "label=common&category=category-3", "label=rare&category=category-3",
    "label=common&assignee=me", "label=rare&assignee=me", "label=nobodys", "label=nobodys&ordering=due_at",
    "label=medium&ordering=due_at", "label=scarce", "watching=me&label=common", "watching=me&ordering=due_at",
    "created_after={old}", "created_before={old}",
    "created_after={old}&created_before={later}", "assignee=me&created_after={old}", "status=completed&created_before={later}",
    "updated_after={old}", "updated_before={later}", "status=completed&updated_after={old}", "assignee=me&updated_after={old}",
    "due_after={old}", "due_before={later}", "assignee=me&due_before={later}&ordering=due_at", "completed_after={old}",
    "completed_before={later}", "assignee=me&completed_after={old}", "overdue=true", "overdue=false",
    "overdue=true&ordering=due_at", "assignee=me&overdue=true&ordering=due_at", "fields=id,title", "expand=assignee",
    "assignee=me&status=pending&limit=5&expand=subtasks", "expand=labels", "expand=progress", "parent=none&expand=progress",
    "/subtasks", "/subtasks?status=completed", "/subtasks?ordering=-updated_at", "/comments", "/watchers", "/labels", "/history",
    "count=estimated", "count=estimated&status=pending&assignee=me", "watching={seldom}", "watching={seldom}&status=completed",
    "watching=me", "watching=me&status=pending", "watching=me,{seldom}", "watching=me&created_before={old}",
    "category=category-3&ordering=due_at", "created_by=me&ordering=-updated_at", "count=exact&parent={parent}",
    "q=refund", "q=refund ", 'q="refund order"', "q=refund -w1 ", "q=refund&ordering=-created_at", "q=nothing-like-it", 
]  # fmt: skip
# That show nothing.
EMPTY = ("q=nothing-like-it", "label=nobodys", "label=nobodys&ordering=due_at")
_SHARE = "no index holds this filter and the order: at most the root of tasks times rows of a page, or what matches if that is less"
_OTHER_TIME = "passes over what one time excludes in the order of another: all of it, where both go together"
_TOGETHER = "goes through both in the order of the list, side by side: through all of them, where no task bears both"
_FOUND = (
    "reads what holds the words, or the newest tasks until 1,000 match: at most the root of 1,000 times tasks; 20,000 for phrases"
)
_COUNTED = "counts each"
# Whose cost grows, each with the reason; docs/lists.md has them with what they were seen to cost.
GROWING = {
    "label=scarce&ordering=due_at": _SHARE,
    "label_all=common,medium": _TOGETHER,
    "due_before={later}&ordering=-created_at": _OTHER_TIME,
    "updated_after={old}&ordering=due_at": _OTHER_TIME,
    "q=w700 ": _FOUND,
    "q=w700&status=pending": _FOUND,
    "q=w10 ": _FOUND,
    "q=w10 or w20 ": _FOUND,
    "q=w1 ": _FOUND,
    "q=77": _FOUND,
    "q=refund&status=pending": _FOUND,
    "count=exact": _COUNTED,
    "count=exact&status=pending": _COUNTED,
}
