"""The pages of the API's documentation in a real browser, which asks nobody but the service for what they need."""

import os
import subprocess
import sys

from playwright.sync_api import expect

from tests.e2e.test_browser import browser  # noqa: F401 (a fixture)
from tests.running_up import ROOT
from tests.web_role import web_role


def test_both_pages_show_the_api_and_ask_no_other_host(committed_db, tmp_path, browser):  # noqa: F811
    home = {"TASKPULSE_HOME": str(tmp_path)}
    command = [sys.executable, "manage.py", "collectstatic", "--noinput", "-v0"]
    subprocess.run(command, cwd=ROOT, env=os.environ | home, check=True)
    with web_role(tmp_path, WEB_CONCURRENCY="1", **home) as web:
        site = f"http://127.0.0.1:{web.port}"
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        asked, wrong, refused = [], [], set()
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: refused.add(request.url) if request.failure == "csp" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{site}/api/docs")
        expect(page.get_by_text("List tasks, newest first")).to_be_visible(timeout=30_000)
        page.screenshot(path=tmp_path / "docs.png")
        page.goto(f"{site}/api/redoc")
        expect(page.get_by_role("heading", name="List tasks, newest first")).to_be_visible(timeout=30_000)
        page.screenshot(path=tmp_path / "redoc.png")
        assert wrong == []
        assert f"{site}/api/schema" in asked
        # ReDoc would show a logo of its makers: the policy keeps the browser from asking for it.
        assert {url for url in asked if not url.startswith((site, "data:", "blob:"))} == refused
