"""Strict reading of settings from the environment.

Each function names the setting in its error and says what was expected; a secret's value is never shown.
Values that `manage.py up` made for this installation stand in `$TASKPULSE_HOME/environment.json` (mode 600) and
count only where the environment names nothing, so that `manage.py <command>` in a second terminal reaches the
same database and broker.
"""

import json
import os
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

_REQUIRED = object()
BASE_DIR = Path(__file__).resolve().parent.parent


def home_directory(variables=os.environ) -> Path:
    """TASKPULSE_HOME, where an installation keeps all of its data; `.taskpulse/` beside the code unless it is set."""
    return Path(variables.get("TASKPULSE_HOME") or BASE_DIR / ".taskpulse").expanduser().resolve()


class Environment:
    """The process environment over the installation's own file.

    Raises ImproperlyConfigured for a value that cannot be used.
    """

    def __init__(self, home: Path, variables=os.environ):
        self._variables = variables
        path = home / "environment.json"
        try:
            self._local = json.loads(path.read_text())
            if not isinstance(self._local, dict):
                raise ValueError("no object")
        except FileNotFoundError:
            self._local = {}
        except (OSError, ValueError) as error:
            raise ImproperlyConfigured(f"{path}: cannot be read ({type(error).__name__}); expected a JSON object") from None

    def named(self, name: str) -> bool:
        """Whether the process environment itself names it."""
        return bool(self._variables.get(name) or self._variables.get(f"{name}_FILE"))

    def given(self, name: str) -> bool:
        return self.named(name) or bool(self._local.get(name))

    def text(self, name: str, default=_REQUIRED) -> str:
        value = self._variables.get(name) or self._local.get(name)
        if value:
            return value
        if default is _REQUIRED:
            raise ImproperlyConfigured(f"{name} is not set")
        return default

    def secret(self, name: str, default=_REQUIRED) -> str:
        """The value of NAME, else the content of the file that NAME_FILE names (one trailing newline dropped)."""
        path = self._variables.get(f"{name}_FILE")
        if path and not self._variables.get(name):
            try:
                return Path(path).read_text().removesuffix("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ImproperlyConfigured(f"{name}_FILE: cannot be read ({type(error).__name__})") from None
        return self.text(name, default)

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        value = self.text(name, str(default))
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise ImproperlyConfigured(f"{name}: expected a whole number from {least} to {most}, got {value!r}")
        return number

    def boolean(self, name: str, default: bool) -> bool:
        value = self.text(name, "true" if default else "false").lower()
        if value not in {"true", "false", "1", "0"}:
            raise ImproperlyConfigured(f"{name}: expected true or false, got {value!r}")
        return value in {"true", "1"}

    def words(self, name: str, default: str = "") -> list[str]:
        """A comma-separated list."""
        return [word.strip() for word in self.text(name, default).split(",") if word.strip()]

    def database(self) -> dict:
        """Django's connection parameters from DATABASE_URL, else from DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD."""
        if self.named("DATABASE_URL") or (self.given("DATABASE_URL") and not self.named("DB_HOST")):
            return _database_from_url(self.secret("DATABASE_URL"))
        if self.given("DB_HOST"):
            return {
                "HOST": self.text("DB_HOST"),
                "PORT": str(self.integer("DB_PORT", 5432, 1, 65535)),
                "NAME": self.text("DB_NAME"),
                "USER": self.text("DB_USER"),
                "PASSWORD": self.secret("DB_PASSWORD", ""),
            }
        raise ImproperlyConfigured(
            "no database is named: set DATABASE_URL (postgresql://USER:PASSWORD@HOST:PORT/NAME) or DB_HOST, DB_PORT, "
            "DB_NAME, DB_USER and DB_PASSWORD, or run `manage.py up`, which starts one"
        )


def _database_from_url(url: str) -> dict:
    expected = "DATABASE_URL: expected postgresql://USER:PASSWORD@HOST:PORT/NAME"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ImproperlyConfigured(f"{expected} ({error})") from None
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme not in {"postgres", "postgresql"} or not name:
        raise ImproperlyConfigured(expected)
    options = dict(parse_qsl(parts.query))
    return {
        "HOST": options.pop("host", None) or unquote(parts.hostname or ""),
        "PORT": str(options.pop("port", None) or port or ""),
        "NAME": name,
        "USER": unquote(parts.username or "") or options.pop("user", ""),
        "PASSWORD": unquote(parts.password or ""),
        "OPTIONS": options,
    }
