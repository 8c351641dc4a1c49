"""The console's page of labels, and their colours on the list of tasks."""

import pytest

from tasks import label_changes
from tasks.models import Label, Task
from tests.console_pages import LABELS, TASKS, Console
from tests.test_capture import events_of

pytestmark = pytest.mark.django_db


def page_of(label: Label) -> str:
    return f"{LABELS}{label.pk}/change/"


def bearing(*labels: str) -> Task:
    return Task.objects.create(title="a task", labels=list(labels))


def test_a_label_is_added_renamed_and_deleted_as_the_person():
    console, task = Console("member"), bearing("bug", "x")
    form = console.form(f"{LABELS}add/", "label_form")
    assert form["colour"] == "#808080"
    console.send(f"{LABELS}add/", form | {"name": "bug", "colour": "#D73A4A", "description": "broken"})
    label = Label.objects.get()
    assert (label.name, label.colour, label.description) == ("bug", "#d73a4a", "broken")
    console.send(page_of(label), console.form(page_of(label), "label_form") | {"name": "defect"})
    task.refresh_from_db()
    assert task.labels == ["defect", "x"]
    console.client.post(f"{LABELS}{label.pk}/delete/", {"post": "yes"})
    task.refresh_from_db()
    assert (task.labels, task.version) == (["x"], 3)
    made = events_of(label.pk)
    assert [event["type"] for event in made] == ["label.created", "label.updated", "label.deleted"]
    assert {event["actorid"] for event in made + events_of(task.pk)[1:]} == {str(console.user.pk)}


def test_selected_labels_are_deleted_on_the_tasks_too():
    task, labels = bearing("a", "b", "c"), [Label.objects.create(name=name) for name in "ab"]
    Console("member").act(LABELS, "delete_selected", [label.pk for label in labels], post="yes")
    task.refresh_from_db()
    assert (task.labels, Label.objects.count()) == (["c"], 0)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", "", "required"), ("name", "x" * 65, "at most 64"), ("name", "taken", "already exists"),
        ("colour", "red", "Expected a colour"), ("description", "x" * 201, "at most 200"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_at_its_field(field, value, said):
    Label.objects.create(name="taken")
    console = Console("member")
    form = console.form(f"{LABELS}add/", "label_form") | {"name": "new", field: value}
    response = console.send(f"{LABELS}add/", form, status=200)
    assert said in str(response.context["adminform"].form.errors)
    assert Label.objects.count() == 1


def test_nobody_overwrites_what_another_wrote_meanwhile():
    label, console = Label.objects.create(name="bug"), Console("member")
    form = console.form(page_of(label), "label_form")
    Label.objects.update(description="by somebody else")
    response = console.send(page_of(label), form | {"description": "mine"}, status=200)
    assert "“by somebody else”" in str(response.context["adminform"].form.non_field_errors())
    assert Label.objects.get().description == "by somebody else"
    console.send(page_of(label), console.read(response, "label_form"))
    assert Label.objects.get().description == "mine"


def test_a_save_that_changes_nothing_leaves_a_name_as_a_program_wrote_it():
    label, console = Label.objects.create(name=" bug"), Console("member")
    console.send(page_of(label), console.form(page_of(label), "label_form") | {"description": "new"})
    assert Label.objects.get().name == " bug"


def test_on_too_many_tasks_nothing_is_changed_and_it_is_told(monkeypatch):
    monkeypatch.setattr(label_changes, "MOST_TASKS", 1)
    label, console = Label.objects.create(name="bug"), Console("member")
    bearing("bug"), bearing("bug")
    form = console.form(page_of(label), "label_form")
    told = [
        console.client.post(page_of(label), form | {"name": "defect"}, follow=True),
        console.client.post(f"{LABELS}{label.pk}/delete/", {"post": "yes"}, follow=True),
        console.act(LABELS, "delete_selected", [label.pk], post="yes"),
    ]
    for response in told:
        assert next(str(message) for message in response.context["messages"]).startswith("Nothing was changed: more than")
    assert Label.objects.get().version == 1
    assert Task.objects.filter(labels=["bug"], version=1).count() == 2


@pytest.mark.parametrize("role", ["viewer", "auditor", None])
def test_who_only_reads_changes_nothing(role):
    label, console = Label.objects.create(name="bug"), Console(role)
    assert console.client.post(page_of(label), {"name": "x", "colour": "#000000", "read_version": "1"}).status_code == 403
    assert console.client.post(f"{LABELS}{label.pk}/delete/", {"post": "yes"}).status_code == 403
    console.act(LABELS, "delete_selected", [label.pk], post="yes")
    assert Label.objects.get().version == 1


def test_colours_are_shown_where_labels_are_at_a_constant_cost():
    Label.objects.create(name="bug", colour="#d73a4a")
    bearing("bug", "free")
    console = Console("viewer")
    html = console.get(TASKS).content.decode()
    assert html.count('fill="#d73a4a"') == 1
    assert 'fill="#d73a4a"' in console.get(LABELS).content.decode()
    few = [len(console.queries(page)) for page in (TASKS, LABELS)]
    Label.objects.bulk_create([Label(name=f"label {number}", colour="#d73a4a") for number in range(40)])
    for number in range(40):
        bearing("bug", f"label {number}")
    assert [len(console.queries(page)) for page in (TASKS, LABELS)] == few
    assert [label.name for label in console.rows(f"{LABELS}?q=label+39")] == ["label 39"]
