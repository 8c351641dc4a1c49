"""The settings as a process meets them: README's table, and a start that is refused."""

import pytest
from django.core.management import CommandError, call_command

from taskpulse.declarations import DECLARED
from taskpulse.management.commands import settings_table
from tests.running_up import manage


def test_the_table_in_readme_is_what_is_declared():
    call_command("settings_table", "--check")


def test_a_table_that_differs_is_noticed_and_made_anew(tmp_path, monkeypatch):
    copy = tmp_path / "README.md"
    text = settings_table.README.read_text()
    monkeypatch.setattr(settings_table, "README", copy)
    copy.write_text(text.replace("| `KAFKA_TOPIC` | `task-events` |", "| `KAFKA_TOPIC` | `events` |"))
    with pytest.raises(CommandError, match="make settings-table"):
        call_command("settings_table", "--check")
    call_command("settings_table", verbosity=0)
    assert copy.read_text() == text
    assert all(text.count(f"| `{setting.name}` |") == 1 for setting in DECLARED)
    copy.write_text("no table")
    with pytest.raises(CommandError, match=r"README\.md: the markers .* are missing"):
        call_command("settings_table")


@pytest.mark.parametrize("command", ["check", "relay_outbox", "consume_events", "migrate", "up"])
def test_no_command_starts_with_wrong_settings(tmp_path, command):
    variables = {"DATABASE_URL": "mysql://u:hunter2@h/db", "SECRET_KEY": "x", "PORT": "http", "TASKPULSE_LOG_LEVL": "INFO"}
    result = manage(tmp_path, command, **variables)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-4:] == [
        f"{'CommandError' if command == 'up' else command}: 3 settings are wrong:",
        "  PORT: expected a whole number from 1 to 65535, got 'http'",
        "  DATABASE_URL: expected postgresql://USER:PASSWORD@HOST:PORT/NAME",
        "  TASKPULSE_LOG_LEVL is not a setting: did you mean TASKPULSE_LOG_LEVEL?",
    ]
    assert "hunter2" not in result.stdout + result.stderr
