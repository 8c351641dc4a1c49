"""Who may see and do what at the console: by group, deny by default; tokens and people."""

import pytest
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Group, User

from audit.models import DeadLetter
from tasks.models import ApiToken, OutboxEvent, Task
from tests.api_client import person
from tests.console_pages import LABELS, LETTERS, LOG, OUTBOX, TASKS, TOKENS, Console, change_page
from tests.recording import message, messages, record, waiting

pytestmark = pytest.mark.django_db

USERS = "/admin/auth/user/"
PAGES = {
    TASKS: {"viewer", "member", "auditor", "admin"},
    f"{TASKS}add/": {"member", "admin"},
    LABELS: {"viewer", "member", "auditor", "admin"},
    f"{LABELS}add/": {"member", "admin"},
    LOG: {"auditor", "admin"},
    LETTERS: {"auditor", "admin"},
    OUTBOX: {"admin"},
    TOKENS: {"admin"},
    f"{TOKENS}add/": {"admin"},
    USERS: {"admin"},
    f"{USERS}add/": {"admin"},
    "/admin/auth/group/": {"admin"},
    "/admin/": {"viewer", "member", "auditor", "admin", None},
}


@pytest.mark.parametrize("role", ["viewer", "member", "auditor", "admin", None])
@pytest.mark.parametrize("page", PAGES)
def test_page_by_role(page, role):
    Console(role).get(page, 200 if role in PAGES[page] else 403)


@pytest.mark.parametrize("role", ["viewer", "member", "auditor", "admin", None])
def test_navigation_and_dashboard_show_only_what_may_be_seen(role):
    html = Console(role).get("/admin/").content.decode()
    for page, roles in PAGES.items():
        if page.endswith("add/") or page == "/admin/":
            continue
        assert (f'href="{page}"' in html) == (role in roles), page


@pytest.mark.parametrize("page", [page for page in PAGES if page != "/admin/"])
def test_who_is_not_staff_or_signed_in_sees_the_sign_in_page(page, client):
    assert client.get(page).url.startswith("/admin/login/")
    client.force_login(person("admin"))
    assert client.get(page).url.startswith("/admin/login/")


def test_the_root_leads_to_the_console(client):
    assert client.get("/").url == "/admin/"


@pytest.mark.parametrize("role", ["viewer", "auditor", None])
def test_who_only_reads_changes_nothing(role):
    task = Task.objects.create(title="One")
    console = Console(role)
    fields = {"title": "changed", "status": "completed", "priority": "low", "read_version": "1"}
    assert console.client.post(change_page(task), fields).status_code == 403
    assert console.client.post(f"{TASKS}add/", fields).status_code == 403
    assert console.client.post(f"{TASKS}{task.pk}/delete/", {"post": "yes"}).status_code == 403
    for action in ("mark_completed", "set_priority_high", "delete_selected"):
        console.act(TASKS, action, [task.pk], post="yes")
    task.refresh_from_db()
    assert (task.version, Task.objects.count()) == (1, 1)


def test_who_may_read_a_task_reads_its_history():
    task = Task.objects.create(title="One")
    record(messages(waiting()))
    page = Console("viewer").get(change_page(task)).content.decode()
    assert "Created" in page or "created" in page
    assert "/admin/audit/entry/" not in page
    assert "/admin/audit/entry/" in Console("auditor").get(change_page(task)).content.decode()
    Console(None).get(f"{TASKS}{task.pk}/history/", 403)


@pytest.mark.parametrize(("role", "released"), [("auditor", False), ("member", False), ("admin", True)])
def test_who_may_release(role, released):
    Task.objects.create(title="One")
    OutboxEvent.objects.update(held_at="2026-01-01T00:00Z", held_reason="why")
    Console(role).act(OUTBOX, "release", [OutboxEvent.objects.get().pk])
    assert OutboxEvent.objects.filter(held_at=None).exists() == released


@pytest.mark.parametrize(("role", "discarded"), [("auditor", False), ("member", False), ("admin", True)])
def test_who_may_discard(role, discarded):
    record([message(b"no event")])
    Console(role).act(LETTERS, "delete_selected", [DeadLetter.objects.get().pk], post="yes")
    assert DeadLetter.objects.exists() != discarded


def test_a_token_is_issued_shown_once_and_deleted(client):
    owner = person("member")
    console = Console("admin")
    response = console.client.post(f"{TOKENS}add/", {"user": owner.pk, "name": "nightly", "expires_at_0": "", "expires_at_1": ""})
    assert response.status_code == 200, response.context["adminform"].form.errors
    assert "no-store" in response["Cache-Control"]
    token = ApiToken.objects.get()
    secret = response.context["secret"]
    assert secret in response.content.decode()
    assert (token.user, token.name) == (owner, "nightly")
    headers = {"Authorization": f"Bearer {secret}"}
    assert client.get("/api/tasks", headers=headers).status_code == 200
    # The console's own paths write what follows an underscore in another way: "_40" would be read as "@".
    page = f"{TOKENS}{quote(token.pk)}"
    for shown in (TOKENS, f"{page}/change/"):
        assert secret not in console.get(shown).content.decode()
    assert console.client.post(f"{page}/change/", {"name": "other"}).status_code == 403
    console.client.post(f"{page}/delete/", {"post": "yes"})
    assert client.get("/api/tasks", headers=headers).status_code == 401


def test_the_right_to_change_users_does_not_become_every_right():
    root = User.objects.create_superuser("root", password="a-long-passphrase")
    admin = Console("admin")
    own = f"{USERS}{admin.user.pk}/change/"
    sent = {"username": admin.user.username, "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    admin.client.post(own, sent | {"user_permissions": "1", "groups": str(Group.objects.get(name="admin").pk)})
    admin.user.refresh_from_db()
    assert not admin.user.is_superuser
    assert not admin.user.user_permissions.exists()
    assert admin.client.post(f"{USERS}{root.pk}/change/", {"username": "mine", "is_active": "on"}).status_code == 403
    taken = {"password1": "a-new-passphrase-9", "password2": "a-new-passphrase-9", "usable_password": "true"}
    assert admin.client.post(f"{USERS}{root.pk}/password/", taken).status_code == 403
    root.refresh_from_db()
    assert (root.username, root.check_password("a-long-passphrase")) == ("root", True)
    Console(is_superuser=True).get(f"{USERS}{admin.user.pk}/delete/", 403)


def test_users_are_paged_without_counting():
    User.objects.bulk_create(User(username=f"user-{n:03}") for n in range(70))
    console = Console("admin")
    first = console.get(USERS).context["cl"]
    second = console.get(USERS + first.older).context["cl"]
    names = [user.username for user in [*first.result_list, *second.result_list]]
    assert names == sorted(User.objects.values_list("username", flat=True))
    assert not [sql for sql in console.queries(USERS) if "COUNT(" in sql]
    assert console.get("/admin/autocomplete/?app_label=tasks&model_name=apitoken&field_name=user&term=user-00").json()["results"]
