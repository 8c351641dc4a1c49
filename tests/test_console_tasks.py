"""The console's pages of tasks: list, bulk actions, form and its rules; each change is captured with its person."""

import datetime

import orjson
import pytest
from django.db import connection

from tasks.api import search
from tasks.models import OutboxEvent, Task
from tests.api_client import person, statements
from tests.console_pages import TASKS, Console, change_page
from tests.recording import messages, record, waiting

pytestmark = pytest.mark.django_db


def last_event() -> dict:
    return orjson.loads(bytes(OutboxEvent.objects.latest("id").payload))


def test_a_task_is_created_by_the_person_at_the_console():
    console = Console("member")
    fields = console.form(f"{TASKS}add/")
    console.send(
        f"{TASKS}add/",
        fields | {
            "title": "New", "description": "one\r\ntwo", "labels": 'billing,  "a, b", billing, ops ',
            "assignee": console.user.username,
            "due_at": "2026-12-01T12:00", "priority": "high",
        },
    )  # fmt: skip
    task = Task.objects.get()
    assert (task.title, task.description, task.priority, task.status) == ("New", "one\ntwo", "high", "pending")
    assert task.labels == ["billing", "a, b", "ops"]
    assert (task.created_by, task.assignee) == (console.user, console.user)
    assert task.due_at == datetime.datetime(2026, 12, 1, 12, tzinfo=datetime.UTC)
    event = last_event()
    assert (event["type"], event["actorid"], event["authid"]) == ("task.created", str(console.user.pk), "session")


def test_a_form_sent_back_untouched_changes_nothing():
    """Neither microseconds, nor line ends, nor a label with a comma, nor an inactive assignee are lost in the form."""
    gone = person(is_active=False)
    due = datetime.datetime(1, 2, 3, 4, 5, 6, 789, tzinfo=datetime.UTC)
    task = Task.objects.create(
        title=" spaces ",
        description="\n\nfirst\nlast\n",
        labels=["a, b", 'quo"te', "plain"],
        assignee=gone,
        due_at=due,
        category=None,
    )
    console = Console("member")
    console.send(change_page(task), console.form(change_page(task)))
    task.refresh_from_db()
    assert (task.version, task.description, task.due_at, task.labels) == (1, "\n\nfirst\nlast\n", due, ["a, b", 'quo"te', "plain"])
    console.send(change_page(task), console.form(change_page(task)) | {"priority": "high"})
    task.refresh_from_db()
    assert (task.version, task.title, task.due_at, task.priority) == (2, " spaces ", due, "high")
    assert list(last_event()["data"]["changes"]) == ["priority"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("title", "", "required"),
        ("title", "x" * 256, "255"),
        ("title", "nul\0", "Null characters"),
        ("description", "x" * 20_001, "20000"),
        ("description", "nul\0", "Null characters"),
        ("category", "x" * 65, "64"),
        ("summary", "x" * 2_001, "2000"),
        ("labels", ",".join(f"l{n}" for n in range(51)), "at most 50"),
        ("labels", "x" * 65, "64"),
        ("labels", "a\0", "Null characters"),
        ("labels", '"open', "not closed"),
        ("status", "done", "valid choice"),
        ("priority", "urgent", "valid choice"),
        ("assignee", "nobody-of-that-name", "No active user"),
        ("assignee", "nul\0", ""),
        ("due_at", "tomorrow", "valid date"),
        ("due_at", "10000-01-01T00:00", "valid date"),
        ("parent", "not-an-id", "valid"),
        ("parent", "01999999-0000-7000-8000-000000000001", "valid choice"),
    ],
)
def test_each_rule_is_said_at_its_field(field, value, said):
    console = Console("member")
    task = Task.objects.create(title="One")
    for path in (f"{TASKS}add/", change_page(task)):
        response = console.send(path, console.form(path) | {"title": "typed", field: value}, status=200)
        form = response.context["adminform"].form
        assert list(form.errors) == [field]
        assert said in str(form.errors[field])
        if field != "title":
            assert form["title"].value() == "typed"
    assert Task.objects.get().version == 1


def test_one_level_of_subtasks():
    top, other = Task.objects.create(title="top"), Task.objects.create(title="other")
    child = Task.objects.create(title="child", parent=top)
    console = Console("member")

    def refused(task, parent):
        path = change_page(task)
        response = console.send(path, console.form(path) | {"parent": str(parent.pk)}, status=200)
        return str(response.context["adminform"].form.errors.get("parent", ""))

    assert "subtask itself" in refused(other, child)
    assert "has subtasks" in refused(top, other)
    assert "own parent" in refused(other, other)
    found = console.get(f"/admin/autocomplete/?app_label=tasks&model_name=task&field_name=parent&term={child.title[:2]}").json()
    assert found["results"] == []
    console.send(change_page(other), console.form(change_page(other)) | {"parent": str(top.pk)})
    other.refresh_from_db()
    assert other.parent == top


def test_what_only_the_database_can_refuse_is_said_in_the_form(monkeypatch):
    """As if a parent became a subtask between the form's check and the write."""
    from tasks.forms import TaskForm

    monkeypatch.setattr(TaskForm, "clean_parent", lambda form: form.cleaned_data["parent"])
    top = Task.objects.create(title="top")
    child, other = Task.objects.create(title="child", parent=top), Task.objects.create(title="other")
    console = Console("member")
    sent = console.form(change_page(other)) | {"parent": str(child.pk), "title": "typed"}
    response = console.send(change_page(other), sent, status=200)
    assert "one level deep" in response.content.decode()
    assert response.context["adminform"].form["title"].value() == "typed"
    other.refresh_from_db()
    assert (other.title, other.parent) == ("other", None)


@pytest.mark.parametrize(
    ("action", "field", "value"),
    [
        ("mark_completed", "status", "completed"),
        ("set_priority_high", "priority", "high"),
        ("set_priority_medium", "priority", "medium"),
        ("set_priority_low", "priority", "low"),
    ],
)
def test_bulk_actions_change_what_is_selected_with_an_event_each(action, field, value):
    tasks = [Task.objects.create(title=f"{n}", priority="low" if action != "set_priority_low" else "high") for n in range(4)]
    OutboxEvent.objects.all().delete()
    console = Console("member")
    response = console.act(TASKS, action, [task.pk for task in tasks[:3]])
    assert "3 tasks changed" in response.content.decode()
    assert Task.objects.filter(**{field: value}).count() == 3
    assert OutboxEvent.objects.count() == 3
    assert {field} <= set(last_event()["data"]["changes"])
    assert last_event()["actorid"] == str(console.user.pk)
    assert "0 tasks changed" in console.act(TASKS, action, [task.pk for task in tasks[:3]]).content.decode()
    assert OutboxEvent.objects.count() == 3


def test_deleting_selected_tasks_takes_their_subtasks_with_an_event_each():
    parent = Task.objects.create(title="parent")
    Task.objects.create(title="child", parent=parent)
    kept = Task.objects.create(title="kept")
    connection.check_constraints()  # as the commit does
    OutboxEvent.objects.all().delete()
    console = Console("member")
    assert "1 subtask" in console.act(TASKS, "delete_selected", [parent.pk]).content.decode()
    assert "1 subtask" in console.get(f"{TASKS}{parent.pk}/delete/").content.decode()
    assert "subtask" not in console.get(f"{TASKS}{kept.pk}/delete/").content.decode()
    console.act(TASKS, "delete_selected", [parent.pk], post="yes")
    assert list(Task.objects.all()) == [kept]
    connection.check_constraints()
    types = [orjson.loads(bytes(row.payload))["type"] for row in OutboxEvent.objects.all()]
    assert types == ["task.deleted", "task.deleted"]


def test_pages_of_the_list_have_every_task_once_in_both_directions():
    names = [f"{n}" for n in range(107)]
    for name in names:
        Task.objects.create(title=name)
    console = Console("viewer")
    path, forward = TASKS, []
    while path:
        changelist = console.get(path).context["cl"]
        forward.append([task.title for task in changelist.result_list])
        last, path = changelist, changelist.older and TASKS + changelist.older
    assert [len(page) for page in forward] == [50, 50, 7]
    assert [name for page in forward for name in page] == names[::-1]
    backward = [forward[-1]]
    while last.newer:
        last = console.get(TASKS + last.newer).context["cl"]
        backward.append([task.title for task in last.result_list])
    assert backward == forward[::-1]


@pytest.mark.parametrize(
    "query",
    ["after=x", "after=0.x", "before=9.zzz", "after=0.01999999", "status__exact=%00", "label=%00", "q=%00", "p=x"],
)
def test_a_wrong_parameter_is_no_fault(query):
    Task.objects.create(title="One")
    response = Console("viewer").client.get(f"{TASKS}?{query}", follow=True)
    assert response.status_code == 200


def test_a_wrong_value_in_the_address_of_the_form_is_no_fault():
    page = Console("member").form(f"{TASKS}add/?parent=x&due_at=x&assignee=x&status=x&labels=x&title=offered")
    assert (page["title"], page["parent"]) == ("offered", "")


def test_search_and_filters():
    ana = person()
    one = Task.objects.create(title="Fix the invoice", description="b", labels=["billing"], assignee=ana, status="completed")
    two = Task.objects.create(title="two", description="about INVOICES", priority="high")
    console = Console("viewer")
    assert console.rows(f"{TASKS}?q=invoice") == [two, one]
    assert console.rows(f"{TASKS}?q={one.pk}") == [one]
    assert console.rows(f"{TASKS}?status__exact=completed") == [one]
    assert console.rows(f"{TASKS}?priority__exact=high") == [two]
    assert console.rows(f"{TASKS}?label=billing") == [one]
    assert console.rows(f"{TASKS}?assignee={ana.username}") == [one]
    assert console.rows(f"{TASKS}?assignee=nobody") == [two]
    assert console.rows(f"{TASKS}?assignee=me") == []


def test_search_is_that_of_the_api(monkeypatch):
    made = {title: Task.objects.create(title=title) for title in ("Überfällige Rechnung", "the invoice", "100 %% of invoices")}
    done = Task.objects.create(title="invoice", status="completed")
    console = Console("viewer")
    assert console.rows(f"{TASKS}?q=uberf") == [made["Überfällige Rechnung"]]
    assert console.rows(f"{TASKS}?q=%22the+invoice%22") == [made["the invoice"]]
    assert console.rows(f"{TASKS}?q=invoice*+-the+%25s") == []
    assert console.rows(f"{TASKS}?q=invoice*+-the+%25") == [done, made["100 %% of invoices"]]
    assert len(console.rows(f"{TASKS}?q=+")) == 4
    monkeypatch.setattr(search, "MATCHES", 1)
    assert console.rows(f"{TASKS}?q=invoice") == [done]
    assert console.rows(f"{TASKS}?q=invoice&status__exact=pending") == [made["100 %% of invoices"]], "the newest of those"


@pytest.mark.parametrize("query", ["q=invoice", "q=invoice&status__exact=pending"])
def test_search_reads_the_index_of_words(query):
    task = Task.objects.create(title="the invoice")
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO tasks_task (title) SELECT 'many more ' || n FROM generate_series(1, 3000) n")
        cursor.execute("ANALYZE tasks_task, tasks_search")
    console = Console("viewer")
    with statements() as run:
        assert console.rows(f"{TASKS}?{query}") == [task]
    (looked,) = [sql for sql in run if "tasks_search" in sql]
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {looked}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Bitmap Index Scan on tasks_search_words" in plan, plan


def test_the_history_stands_beside_the_form_with_what_is_pending():
    ana, bo = person(first_name="A"), Console("member")
    task = Task.objects.create(title="One", labels=["old"], description="first\nsecond\n", created_by=ana)
    bo.send(
        change_page(task), bo.form(change_page(task)) | {"status": "in_progress", "labels": "new", "description": "first\nthird\n"}
    )
    record(messages(waiting()))
    bo.send(change_page(task), bo.form(change_page(task)) | {"title": "<b>Two</b>"})
    page = Console("viewer").get(change_page(task))
    newest, changed, created = page.context["history"]
    assert (newest.seq, newest.held, newest.version, newest.actor) == (None, False, 3, bo.user.username)
    assert (changed.version, created.version, created.action) == (2, 1, "created")
    differences = {difference.name: difference for difference in changed.differences}
    assert (differences["status"].before, differences["status"].after) == ("pending", "in progress")
    assert (differences["labels"].removed, differences["labels"].added) == (["old"], ["new"])
    assert differences["description"].lines == [(" ", "first"), ("-", "second"), ("+", "third")]
    html = page.content.decode()
    assert "&lt;b&gt;Two&lt;/b&gt;" in html
    assert "<b>Two</b>" not in html
    assert "pending</span>" in html


def test_a_deleted_tasks_history_stays():
    task = Task.objects.create(title="One")
    key = task.pk
    task.delete()
    record(messages(waiting()))
    page = Console("viewer").get(f"{TASKS}{key}/history/")
    assert [change.action for change in page.context["history"]] == ["deleted", "created"]


def test_a_long_history_is_paged():
    task = Task.objects.create(title="0")
    for number in range(1, 120):
        task.title = str(number)
        task.save()
    record(messages(waiting()))
    console, path, seen = Console("viewer"), "", []
    while path is not None:
        context = console.get(f"{TASKS}{task.pk}/history/{path}").context
        seen += [change.version for change in context["history"]]
        path = f"?after={context['older']}" if context["older"] else None
    assert seen == list(range(120, 0, -1))
    assert len(console.get(change_page(task)).context["history"]) == 20


def test_the_lists_cost_does_not_grow_with_its_rows():
    console = Console("member")
    people = [person() for _ in range(5)]

    def fill(count):
        for number in range(count):
            Task.objects.create(title=f"{number}", labels=["a"], assignee=people[number % 5])

    fill(5)
    few = console.queries(TASKS)
    fill(45)
    many = console.queries(TASKS)
    assert len(few) == len(many) <= 8
    assert not [sql for sql in many if "COUNT(" in sql or "OFFSET" in sql]
    assert not [sql for sql in many if '"tasks_task"."description"' in sql]


def test_the_forms_cost_does_not_grow_with_the_history():
    console = Console("member")
    task = Task.objects.create(title="One")
    few = console.queries(change_page(task))
    for number in range(30):
        task.title = str(number)
        task.save()
        if number == 20:
            record(messages(waiting()))
    assert len(console.queries(change_page(task))) == len(few) <= 10


def test_text_is_kept_as_typed_and_lines_of_a_title_are_nobodys_edit():
    """Four spaces are Markdown, and a browser shows a title of two lines as one."""
    code = "\n    indented code\n"
    task = Task.objects.create(title="first line\nsecond line", description=code)
    console = Console("admin")
    form = console.form(f"{TASKS}{task.pk}/change/")
    assert form["description"] == code.replace("\n", "\r\n")
    # What a browser makes of the value of a text input (HTML, 4.10.5.1.2).
    form["title"] = form["title"].replace("\n", "")
    console.client.post(f"{TASKS}{task.pk}/change/", form | {"priority": "high"})
    task.refresh_from_db()
    assert (task.priority, task.title, task.description) == ("high", "first line\nsecond line", code)
    form = console.form(f"{TASKS}{task.pk}/change/")
    console.client.post(f"{TASKS}{task.pk}/change/", form | {"title": "one", "description": "    more code\r\n"})
    task.refresh_from_db()
    assert (task.title, task.description) == ("one", "    more code\n")
