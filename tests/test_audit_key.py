"""`manage.py audit_key`, and who gets to know a signing key."""

import io
import stat
import threading

import pytest
from django.core.management import CommandError, call_command

from audit import checkpoint_workers
from audit.checkpointer import Checkpointer
from audit.signed_note import COSIGNATURE, SigningKey, VerifierKey
from taskpulse.companion import Companion
from taskpulse.declarations import DECLARED
from taskpulse.env import Environment
from taskpulse.up import Up
from taskpulse.worker import Stop
from tests.running_up import wait_until
from tests.wrong_settings import wrong


def audit_key(*arguments) -> str:
    output = io.StringIO()
    call_command("audit_key", *map(str, arguments), stdout=output)
    return output.getvalue()


def test_a_key_is_made_for_its_owner_alone_and_shown_by_its_public_half(tmp_path, settings):
    path = tmp_path / "log.key"
    shown = audit_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = SigningKey.parse(path.read_text())
    assert shown == f"{key.verifier}\n"
    assert VerifierKey.parse(shown).name == settings.AUDIT_LOG_ORIGIN
    assert audit_key("--show", path) == shown
    settings.AUDIT_SIGNING_KEY = key
    assert audit_key("--show") == shown
    assert key.secret() not in shown
    assert audit_key(tmp_path / "other", "--origin", "example.org/log").startswith("example.org/log+")
    successor = f"{settings.AUDIT_LOG_ORIGIN}/7"
    assert audit_key("--show", "--origin", successor) == f"{key.verifier.named(successor)}\n"
    with pytest.raises(CommandError, match="whose names begin with"):
        audit_key("--show", "--origin", "example.org/log")


def test_a_key_is_never_overwritten(tmp_path):
    path = tmp_path / "log.key"
    path.write_text("precious")
    with pytest.raises(CommandError, match="never overwritten"):
        audit_key(path)
    assert path.read_text() == "precious"


def test_what_is_wrong_is_said_and_no_secret_shown(tmp_path, settings):
    settings.TASKPULSE_HOME = tmp_path
    with pytest.raises(CommandError, match="name the FILE"):
        audit_key()
    with pytest.raises(CommandError, match="there is no key"):
        audit_key("--show")
    with pytest.raises(CommandError, match="No such file"):
        audit_key("--show", tmp_path / "none")
    with pytest.raises(CommandError, match="no space"):
        audit_key(tmp_path / "new", "--origin", "a b")
    assert not (tmp_path / "new").exists()
    (tmp_path / "bad").write_bytes(b"\xff secret")
    with pytest.raises(CommandError, match="expected a signing key") as caught:
        audit_key("--show", tmp_path / "bad")
    assert "secret" not in str(caught.value)


def test_the_setting_takes_nothing_but_a_logs_key(tmp_path):
    def problems(value: str) -> list[str]:
        return wrong(Environment(tmp_path, DECLARED, {"AUDIT_SIGNING_KEY": value}))

    key = SigningKey.generate("taskpulse/audit")
    for value in ("hunter2", key.secret()[:-1], SigningKey.generate("w", COSIGNATURE).secret()):
        (problem,) = problems(value)
        assert problem.startswith("AUDIT_SIGNING_KEY: expected a signing key as `manage.py audit_key` makes it")
        assert value not in problem
    assert problems(key.secret()) == []


def test_only_the_relay_of_up_knows_the_key(tmp_path):
    (tmp_path / "audit-signing.key").write_text("made by up")
    variables = {"TASKPULSE_HOME": str(tmp_path), "PATH": "/bin"}
    own = Up(variables)
    assert own._variables_of("relay")["AUDIT_SIGNING_KEY_FILE"] == str(tmp_path / "audit-signing.key")
    secret = SigningKey.generate("taskpulse/audit").secret()
    named = Up({**variables, "AUDIT_SIGNING_KEY": secret, "AUDIT_PREVIOUS_SIGNING_KEY": secret})
    assert named._variables_of("relay")["AUDIT_SIGNING_KEY"] == secret
    assert "AUDIT_SIGNING_KEY_FILE" not in named._variables_of("relay")
    for up in (own, named):
        for name in ("web", "consumer", "broker"):
            assert not [key for key in up._variables_of(name) if "SIGNING_KEY" in key], name


def test_without_a_key_the_relay_signs_nothing_and_says_so(settings, caplog):
    settings.AUDIT_SIGNING_KEY = None
    assert checkpoint_workers.workers() == []
    assert "AUDIT_SIGNING_KEY is not set" in caplog.text
    settings.AUDIT_SIGNING_KEY = SigningKey.generate("taskpulse/audit")
    ((name, worker),) = checkpoint_workers.workers()
    assert (name, type(worker)) == ("checkpointer", Checkpointer)


class Stumbling:
    pause = 0.0
    steps = 0
    closed = False

    def __init__(self):
        self.mended = threading.Event()

    def step(self) -> bool:
        self.steps += 1
        if self.steps == 2:
            raise RuntimeError("a defect")
        if self.steps == 3:
            self.mended.wait(20)
        return False

    def close(self) -> None:
        self.closed = True


def test_a_companion_outlives_a_defect_and_ends_with_the_role(caplog):
    stop, worker = Stop(), Stumbling()
    companion = Companion("stumbling", worker, stop)
    assert companion.trouble() is None
    companion.start()
    wait_until(lambda: worker.steps == 3, 20, "it tries again")
    assert companion.trouble() == "it fails, and is tried again (RuntimeError): the log says at what"
    worker.mended.set()
    wait_until(lambda: worker.steps > 3, 20, "it goes on")
    assert companion.trouble() is None
    stop.requested = True
    companion.join(10)
    assert worker.closed
    assert not companion.is_alive()
    assert companion.trouble() is None
    stop.requested = False
    assert companion.trouble() == "it has ended"
    assert caplog.text.count("stumbling failed") == 1
    assert "a defect" in caplog.text
