"""Strict reading of declared settings from the environment.

A value that cannot be used is named with what was expected, a secret's value is never shown, and everything that is
wrong is said at once. A secret may stand in a file that `NAME_FILE` names. A `TASKPULSE_…` variable that no setting has
is a mistake too: most likely it is misspelt.

Values that `manage.py up` made for this installation stand in `$TASKPULSE_HOME/environment.json` (mode 600) and
count only where the environment names nothing, so that `manage.py <command>` in a second terminal reaches the
same database and broker.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from taskpulse.kinds import Kind

BASE_DIR = Path(__file__).resolve().parent.parent
PREFIX = "TASKPULSE_"
# What OpenTelemetry itself reads (OpenTelemetry Protocol Exporter, Configuration Options).
_OTLP = re.compile(
    r"OTEL_EXPORTER_OTLP_((TRACES|METRICS|LOGS)_)?"
    r"(ENDPOINT|PROTOCOL|HEADERS|TIMEOUT|COMPRESSION|INSECURE|CERTIFICATE|CLIENT_KEY|CLIENT_CERTIFICATE)"
)
# What Kubernetes adds to every container for a service whose name begins with "taskpulse" (documentation: Service,
# environment variables): TASKPULSE_WEB_SERVICE_HOST, TASKPULSE_WEB_PORT_80_TCP_ADDR …
_SERVICE_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")


def _is_service_link(name: str, value: str) -> bool:
    """A service `taskpulse-worker` has Kubernetes say TASKPULSE_WORKER_PORT=tcp://10.0.0.7:9464."""
    return name.startswith(PREFIX) and name.endswith("_PORT") and bool(_SERVICE_ADDRESS.fullmatch(value))


@dataclass(frozen=True)
class Setting:
    """`default` is written as a person would write it; `shown` stands for it in the table where it is made at run time."""

    name: str
    kind: Kind
    help: str
    default: str = ""
    unit: str = ""
    secret: bool = False
    required: bool = False
    shown: str = ""


def home_directory(variables: Mapping[str, str] = os.environ) -> Path:
    """TASKPULSE_HOME, where an installation keeps all of its data; `.taskpulse/` beside the code unless it is set."""
    return Path(variables.get("TASKPULSE_HOME") or BASE_DIR / ".taskpulse").expanduser().resolve()


class Environment:
    """The process environment over the installation's own file, as far as it is declared.

    Reading never raises: `problem()` adds to what is wrong, `stop_if_wrong()` raises ImproperlyConfigured with all of it.
    A setting whose value is wrong has its default meanwhile. An empty variable counts as one that is not set.
    """

    def __init__(self, home: Path, declared: Iterable[Setting], variables: Mapping[str, str] = os.environ):
        self._variables = variables
        self._declared = {setting.name: setting for setting in declared}
        self._problems: list[str] = []
        self._missing: list[str] = []
        self._local = self._installation(home / "environment.json")
        self._values = {setting.name: self._read(setting) for setting in self._declared.values()}
        for name in sorted(variables):
            self._refuse_if_unknown(name)

    def __getitem__(self, name: str):
        return self._values[name]

    def named(self, name: str) -> bool:
        """Whether the process environment itself names it."""
        return bool(self._variables.get(name) or self._variables.get(f"{name}_FILE"))

    def given(self, name: str) -> bool:
        return self.named(name) or bool(self._local.get(name))

    def installed(self, name: str) -> str:
        """What `manage.py up` made of it for this installation; "" if nothing."""
        return self._local.get(name, "")

    def values(self) -> dict[str, object]:
        return dict(self._values)

    def problem(self, text: str) -> None:
        self._problems.append(text)

    def missing(self, text: str) -> None:
        self._missing.append(text)

    def stop_if_wrong(self, complete: bool = True) -> None:
        """Raises ImproperlyConfigured; with `complete` also for what is required and not set."""
        wrong = self._problems + (self._missing if complete else [])
        if len(wrong) == 1:
            raise ImproperlyConfigured(wrong[0])
        if wrong:
            raise ImproperlyConfigured("\n  ".join([f"{len(wrong)} settings are wrong:", *wrong]))

    def _installation(self, path: Path) -> dict[str, str]:
        try:
            document = json.loads(path.read_text())
            if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
                raise ValueError("no object of strings")
            return document
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self.problem(f"{path}: cannot be read ({type(error).__name__}); expected a JSON object of strings")
        return {}

    def _read(self, setting: Setting):
        name, value = self._text(setting)
        if value:
            try:
                return setting.kind.parse(value)
            except ValueError:
                got = "" if setting.secret else f", got {value!r}"
                self.problem(f"{name}: expected {setting.kind.expected}{got}")
        elif setting.required and name == setting.name:
            ways = f" (or {name}_FILE, a file that holds it)" if setting.secret else ""
            self.missing(f"{name} is not set: expected {setting.kind.expected}{ways}")
        return setting.kind.parse(setting.default) if setting.default else setting.kind.empty

    def _text(self, setting: Setting) -> tuple[str, str]:
        """The name of the variable that decides, and what it says; "" if nothing does."""
        value, path = self._variables.get(setting.name), self._variables.get(f"{setting.name}_FILE")
        if value and _is_service_link(setting.name, value):
            value = None
        if not setting.secret or not path:
            return setting.name, value or self._local.get(setting.name) or ""
        name = f"{setting.name}_FILE"
        if value:
            self.problem(f"{setting.name} and {name} are both set: expected one of them")
            return name, ""
        try:
            # Most editors end a file with a newline, which is not part of the secret.
            content = Path(path).read_text().removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            self.problem(f"{name}: {path} cannot be read ({type(error).__name__})")
            return name, ""
        if not content:
            self.problem(f"{name}: {path} is empty; expected the value of {setting.name} in it")
        return name, content

    def _refuse_if_unknown(self, name: str) -> None:
        if not name.upper().startswith(PREFIX) or name in self.known_names():
            return
        if _SERVICE_LINK.fullmatch(name) or _is_service_link(name, self._variables[name]):
            return
        near = self.nearest(name)
        self.problem(f"{name} is not a setting" + (f": did you mean {near}?" if near else "; README.md lists all of them"))

    def misspelt(self) -> dict[str, str]:
        """Variables that look like one of our settings without being one, and which; none of ours begins with TASKPULSE_."""
        known = self.known_names()
        families = {name.partition("_")[0] for name in known if "_" in name and not name.startswith(PREFIX)}
        strangers = (
            name for name in self._variables if name not in known and not name.startswith(PREFIX) and not _OTLP.fullmatch(name)
        )
        found = {}
        for name in sorted(strangers):
            near = PREFIX + name if "_" in name and PREFIX + name in known else None
            if near is None and name.partition("_")[0] in families and not _SERVICE_LINK.fullmatch(name):
                near = self.nearest(name, 0.88)
            if near:
                found[name] = near
        return found

    def known_names(self) -> set[str]:
        return {*self._declared, *(f"{name}_FILE" for name, setting in self._declared.items() if setting.secret)}

    def nearest(self, name: str, likeness: float = 0.75) -> str | None:
        """The setting that somebody may have meant by this name."""
        from difflib import get_close_matches  # seldom needed

        known = self.known_names()
        bare = name.upper().removeprefix(PREFIX)
        for exact in (bare, PREFIX + bare):
            if exact in known:
                return exact
        return next(iter(get_close_matches(name.upper(), sorted(known), 1, likeness)), None)
