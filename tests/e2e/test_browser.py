"""From the browser to the audit log: a real Chromium, gunicorn, relay, broker, consumer and PostgreSQL."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from django.contrib.auth.models import Group, User
from playwright.sync_api import expect, sync_playwright

from tasks.models import OutboxEvent, Task
from tests.recording import assert_log_is_whole, versions

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
PASSWORD = "a-long-passphrase-7"
SECONDS = 20  # that the log may take to show a change; it takes a fraction of one


@pytest.fixture
def site(committed_db, topic, broker, settings, tmp_path):
    """The roles web, relay and consumer as processes of their own; yields the address of the console."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "DATABASE_URL": committed_db, "TASKPULSE_HOME": str(tmp_path), "KAFKA_BOOTSTRAP_SERVERS": broker, "KAFKA_TOPIC": topic,
        "KAFKA_AUDIT_GROUP": settings.KAFKA_AUDIT_GROUP, "WEB_CONCURRENCY": "1",
    }  # fmt: skip
    manage = [sys.executable, "manage.py"]
    subprocess.run([*manage, "collectstatic", "--noinput", "-v0"], cwd=ROOT, env=environment, check=True)
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--bind", address, "taskpulse.wsgi"]
    commands = [gunicorn, [*manage, "relay_outbox"], [*manage, "consume_events"]]
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment) for command in commands]
    try:
        _wait_for(f"http://{address}/readyz", processes)
        yield f"http://{address}"
        assert [process.poll() for process in processes] == [None, None, None], "a role ended"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


def _wait_for(url: str, processes) -> None:
    end = time.monotonic() + 20
    while True:
        assert all(process.poll() is None for process in processes), "a role ended while it started"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.1)


@pytest.fixture
def browser():
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.fail("no Chromium is installed; on Debian: apt-get install -y --no-install-recommends chromium fonts-dejavu-core")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM)
        yield browser
        browser.close()


class Person:
    """Somebody at a browser of their own, signed in; `faults` is what the page's scripts and requests complained of."""

    def __init__(self, browser, site: str, name: str):
        self.page = browser.new_context(viewport={"width": 1560, "height": 1000}).new_page()
        self.page.set_default_timeout(15_000)
        self.faults = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("response", lambda answer: self.faults.append(answer.url) if answer.status >= 400 else None)
        self.page.goto(site)
        self.page.get_by_label("Username").fill(name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name=re.compile("log in", re.I)).click()
        expect(self.page.get_by_text("My open tasks")).to_be_visible()

    def save(self) -> None:
        self.page.get_by_role("button", name="Save and continue editing").click()
        self.page.wait_for_load_state("load")

    def history_recorded(self, count: int):
        """The entries beside the form, once all `count` of them are in the audit log."""
        end = time.monotonic() + SECONDS
        history = self.page.locator(".tp-aside .tp-change")
        while history.count() != count or history.locator(".tp-badge", has_text="pending").count():
            assert time.monotonic() < end, f"the history does not show {count} recorded changes: {history.all_inner_texts()}"
            time.sleep(0.1)
            self.page.reload()
        return history


@pytest.fixture
def people(committed_db):
    """Made before the browser starts: Django refuses database access while playwright's event loop runs."""
    for name in ("ana", "bruno"):
        person = User.objects.create_user(name, password=PASSWORD, is_staff=True)
        person.groups.set(Group.objects.filter(name__in=["member", "auditor"]))


def test_from_the_form_to_the_audit_log(people, site, browser):
    ana, page = _create(browser, site)
    page.get_by_label("Status").select_option("in_progress")
    page.get_by_label("Description").fill("first line\nchanged line\n")
    ana.save()
    history = ana.history_recorded(2)
    expect(history.nth(0)).to_contain_text("ana")
    expect(history.nth(0).locator("del", has_text="pending")).to_be_visible()
    expect(history.nth(0).locator("ins", has_text="in progress")).to_be_visible()
    expect(history.nth(0).locator(".tp-del")).to_have_text("-second line")
    expect(history.nth(0).locator(".tp-ins")).to_have_text("+changed line")
    expect(history.nth(1)).to_contain_text("created")

    history.nth(0).locator("a.tp-seq").click()
    expect(page.get_by_text("matches the event")).to_be_visible()
    assert ana.faults == []


def test_two_people_at_one_task(people, site, browser):
    ana, page = _create(browser, site)
    bruno = Person(browser, site, "bruno")
    bruno.page.goto(page.url)
    bruno.page.get_by_label("Priority").select_option("high")
    bruno.page.get_by_label("Description").fill("line by bruno\n")
    bruno.save()

    page.get_by_label("Title").fill("Typed by ana")
    ana.save()
    expect(page.get_by_text("Nothing is saved yet")).to_be_visible()
    meanwhile = page.locator(".tp-meanwhile")
    expect(meanwhile).to_contain_text("bruno")
    expect(meanwhile.locator("ins", has_text="high")).to_be_visible()
    expect(page.get_by_label("Title")).to_have_value("Typed by ana")
    expect(page.get_by_label("Priority")).to_have_value("high")
    ana.save()
    history = ana.history_recorded(3)
    expect(history.nth(0).locator("dt")).to_have_text(["title"])
    assert ana.faults == bruno.faults == []


def _create(browser, site: str) -> tuple[Person, object]:
    ana = Person(browser, site, "ana")
    page = ana.page
    page.goto(f"{site}/admin/tasks/task/add/")
    page.get_by_label("Title").fill("From the browser")
    page.get_by_label("Description").fill("first line\nsecond line\n")
    page.get_by_label("Labels").fill("billing, ops")
    page.get_by_label("Assignee").fill("bruno")
    page.get_by_label("Due at").fill("2026-12-01T12:30:00")
    ana.save()
    expect(page.get_by_label("Title")).to_have_value("From the browser")
    return ana, page


@pytest.fixture(autouse=True)
def log_is_whole(committed_db):
    """At the end, when the browser is gone: all that was done is in the log, once and in order."""
    yield
    task = Task.objects.get()
    assert versions(task.pk) == list(range(1, task.version + 1))
    assert assert_log_is_whole() == task.version
    assert not OutboxEvent.objects.exists()
    assert (task.labels, task.assignee.username, task.created_by.username) == (["billing", "ops"], "bruno", "ana")
