"""`manage.py up`: all roles on this machine, and PostgreSQL and a broker for them unless the environment names others.

It runs before any setting exists, since it makes them; whatever needs Django runs as a child.
"""

import errno
import functools
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time

from taskpulse import database
from taskpulse.declarations import DECLARED
from taskpulse.embedded import broker, unprivileged
from taskpulse.embedded.postgres import EmbeddedPostgres, PostgresError
from taskpulse.env import BASE_DIR, Environment, home_directory
from taskpulse.installation import CREDENTIALS, SIGNING_KEY, Installation, Occupied
from taskpulse.supervisor import PrefixedLog, Program, Supervisor

DATABASE = "taskpulse"
_SIGNING_KEYS = ("AUDIT_SIGNING_KEY", "AUDIT_PREVIOUS_SIGNING_KEY")
# What a role signs in to PostgreSQL as; what is not here does so as the owner.
_DATABASE_ROLES = {"web": "TASKPULSE_WEB_ROLE", "relay": "TASKPULSE_WORKER_ROLE", "consumer": "TASKPULSE_WORKER_ROLE"}
# Seconds. Together the stops stay under 25.
READY_PATIENCE = 60.0
RECOVERY_PATIENCE = 300.0  # PostgreSQL reads its log after a crash
ROLES_PATIENCE, BROKER_PATIENCE, DATABASE_PATIENCE = 12.0, 1.5, 4.0
# A web worker of a run that was killed ends its requests first (TASKPULSE_WEB_GRACEFUL_SECONDS).
PORT_PATIENCE = 15.0


class CannotStart(Exception):
    """The message says what is in the way."""


class Up:
    def __init__(self, variables=os.environ):
        self.home = home_directory(variables)
        env = Environment(self.home, DECLARED, variables)
        self.database = database.address(env) if database.is_named(env) else None
        self.servers = env["KAFKA_BOOTSTRAP_SERVERS"]
        if env.named("TASKPULSE_MODE") and env["TASKPULSE_MODE"] == "production" and not (self.database and self.servers):
            env.problem(
                "TASKPULSE_MODE is production: expected DATABASE_URL (or DB_HOST) and KAFKA_BOOTSTRAP_SERVERS, since what is "
                "embedded is for one machine"
            )
        env.stop_if_wrong(complete=False)  # what is missing is made here
        self.port = env["PORT"]
        self.address = env["BIND_ADDRESS"].strip("[]")
        self._secret_key_given = env.named("SECRET_KEY")
        self._database_roles = {name: env[setting] for name, setting in _DATABASE_ROLES.items()}
        self._worker_port = env["TASKPULSE_WORKER_PORT"] if env.named("TASKPULSE_WORKER_PORT") else 0
        self._worker_address_given = variables.get("TASKPULSE_WORKER_ADDRESS")
        self._instance_id = f"up-{secrets.token_hex(8)}"
        self._variables = {**variables, "TASKPULSE_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        # No load balancer has to learn first that this web role ends.
        self._variables.setdefault("TASKPULSE_WEB_DRAIN_SECONDS", "0")
        self.host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address, self.address)  # noqa: S104 (only compared)
        self.url = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        self.installation = Installation(self.home)
        self.log = PrefixedLog()
        self.supervisor = Supervisor(self.log)
        self._postgres: EmbeddedPostgres | None = None

    def run(self) -> None:
        """Until a stop is asked for. Raises CannotStart; nothing of ours runs on when it returns or raises."""
        began = time.monotonic()
        try:
            self.installation.acquire(self.url)
        except Occupied as error:
            raise CannotStart(f"{error}; nothing was changed") from None
        except OSError as error:
            raise CannotStart(f"TASKPULSE_HOME {self.home}: {error.strerror}") from None
        self.supervisor.listen()
        listener = self._listen()
        self._announce()
        self.stores: list[Program] = []
        self.roles: list[Program] = []
        try:
            if self._start_stores() and self._prepare() and self._start_roles(listener):
                self._welcome(time.monotonic() - began)
                while not self.supervisor.stop_requested:
                    self.supervisor.pump()
        except PostgresError as error:
            raise CannotStart(str(error)) from None
        finally:
            listener.close()
            self._stop()

    def _listen(self) -> socket.socket:
        """The web role's socket, ours for good: while the web role is started again, connections wait in it."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        told, end = False, time.monotonic() + (PORT_PATIENCE if self.installation.left_in_haste else 0)
        while True:
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self.address, self.port))
                listener.listen(2048)
                return listener
            except OSError as error:
                listener.close()
                place = f"port {self.port} of {self.address}"
                if error.errno == errno.EADDRINUSE and time.monotonic() < end:
                    if not told:
                        self.log.plain(f"  {place} is still in use: what was left of the run before may be ending")
                    told = True
                    time.sleep(0.1)
                    if not self.supervisor.stop_requested:
                        continue
                self.installation.release()
                if error.errno == errno.EADDRINUSE:
                    raise CannotStart(f"{place} is in use: end what uses it, or set PORT to another") from None
                raise CannotStart(f"cannot listen on {place} (PORT, BIND_ADDRESS): {error.strerror}") from None

    def _announce(self) -> None:
        if self.database is None:
            postgres = f"embedded, data in {self.home / 'postgres'}"
        else:
            place = f"{self.database['HOST'] or 'the local socket'}{':' * bool(self.database['PORT'])}{self.database['PORT']}"
            postgres = f"not embedded: {self.database['NAME']} at {place}, as the environment names it"
        kafka = f"not embedded: {self.servers}, as the environment names it" if self.servers else "embedded broker, in memory"
        for name, text in (("data", self.home), ("PostgreSQL", postgres), ("Kafka", kafka), ("web", self.url)):
            self.log.plain(f"  {name:<12}{text}")
        if self.database is not None:
            self.log.plain(f"  {'':<12}every role signs in as {self.database['USER']}; `manage.py database_roles` makes others")

    def _start_stores(self) -> bool:
        """PostgreSQL and broker, as far as they are ours; False if a stop was asked for."""
        if self.database is None:
            self._postgres = postgres = EmbeddedPostgres(self.home)
            postgres.prepare()
            self.stores.append(Program("postgres", postgres.start, signal.SIGINT, signal.SIGQUIT))
        self.installation.keep_environment(self._secret_key_given, self._postgres.url(DATABASE) if self._postgres else None)
        if not self.servers:
            self.stores.append(self._child("broker", "-m", "taskpulse.embedded.broker", str(self.home)))
        for program in self.stores:
            self.supervisor.launch(program)
        ready = self.supervisor.wait_for(self._stores_are_ready, RECOVERY_PATIENCE, needed=self.stores)
        if self.supervisor.stop_requested:
            return False
        if not ready:
            ended = [program.name for program in self.stores if program.gave_up]
            if ended:
                raise CannotStart(f"{' and '.join(ended)} ended at once; the lines above say why")
            raise CannotStart(f"{' and '.join(program.name for program in self.stores)} not ready after {RECOVERY_PATIENCE:.0f} s")
        return True

    def _stores_are_ready(self) -> bool:
        if not self.servers and not self._broker_is_ready():
            return False
        return self._postgres is None or (self._postgres.is_ready() and self._postgres.create_database(DATABASE))

    def _broker_is_ready(self) -> bool:
        """The file of an earlier broker stays when that one is killed: it must be of this process."""
        try:
            document = json.loads((self.home / broker.FILE).read_text())
        except (FileNotFoundError, ValueError):
            return False
        return document["pid"] == self.stores[-1].process.pid

    def _prepare(self) -> bool:
        """Migrations, database roles, static files, the first administrator; False if a stop was asked for."""
        self._known_token = self._token()
        options = ["--url", self.url, *(["--database-roles"] if self._postgres else [])]
        status = self.supervisor.run_to_end(self._child("setup", "manage.py", "prepare_installation", *options))
        if status:
            raise CannotStart("the database could not be prepared; the lines above say why")
        return status == 0

    def _start_roles(self, listener: socket.socket) -> bool:
        number = listener.fileno()
        self.roles += [
            self._child(
                "web", "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--bind", f"fd://{number}", "taskpulse.wsgi",
                pass_fds=(number,),
            ),
            self._child("relay", "manage.py", "relay_outbox"),
            self._child("consumer", "manage.py", "consume_events"),
        ]  # fmt: skip
        for program in self.roles:
            self.supervisor.launch(program)
        end = time.monotonic() + READY_PATIENCE
        while not self._web_answers():
            self.supervisor.pump(0.05)
            if self.supervisor.stop_requested:
                return False
            if time.monotonic() > end:
                raise CannotStart(f"the web role does not answer after {READY_PATIENCE:.0f} s; the lines above say why")
        return True

    def _web_answers(self) -> bool:
        """Any answer will do: whether the request is allowed is not asked here."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=0.2)
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def _token(self) -> str | None:
        try:
            return (self.installation.credentials() or {}).get("token")
        except ValueError as error:
            raise CannotStart(str(error)) from None

    def _welcome(self, seconds: float) -> None:
        path = self.home / CREDENTIALS
        known = self.installation.credentials()
        self.log.plain(f"\n  ready in {seconds:.1f} s: {self.url}")
        if known and known["token"] != self._known_token:
            for name, key in (("username", "username"), ("password", "password"), ("API token", "token")):
                self.log.plain(f"  {name:<12}{known[key]}")
            self.log.plain(f"  shown this once; kept in {path}")
        elif known:
            self.log.plain(f"  sign in as {known['username']}; password and API token are in {path}")
        self.log.plain("  Ctrl-C stops everything\n")

    def _variables_of(self, name: str) -> dict[str, str]:
        """Only the relay (and the setup, which makes one if there is none) gets to know the key that signs checkpoints. At the
        embedded PostgreSQL each role signs in as its own; a named one is signed in to as it is named."""
        keys = {key: value for key, value in self._variables.items() if key.startswith(_SIGNING_KEYS)}
        others = {key: value for key, value in self._variables.items() if key not in keys}
        if name in ("relay", "consumer"):
            others.update(self._worker_address(name))
        if name == "consumer":
            # Started again after a crash, it takes its partitions at once (KIP-345).
            others.setdefault("KAFKA_GROUP_INSTANCE_ID", self._instance_id)
        own = self.home / SIGNING_KEY
        if name == "relay" and own.exists() and not (keys.get("AUDIT_SIGNING_KEY") or keys.get("AUDIT_SIGNING_KEY_FILE")):
            keys["AUDIT_SIGNING_KEY_FILE"] = str(own)
        if name in self._database_roles and self._postgres:
            others["DATABASE_URL"] = self._postgres.url(DATABASE, self._database_roles[name])
        return others | (keys if name in ("relay", "setup") else {})

    def _worker_address(self, name: str) -> dict[str, str]:
        """Where it answers probes: a free port each, which its log names; or TASKPULSE_WORKER_PORT, and the consumer the next."""
        port = self._worker_port + (name == "consumer") if self._worker_port else 0
        return {"TASKPULSE_WORKER_PORT": str(port), "TASKPULSE_WORKER_ADDRESS": self._worker_address_given or self.address}

    def _child(self, name: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> Program:
        return Program(name, functools.partial(self._spawn, name, [sys.executable, *arguments], pass_fds))

    def _spawn(self, name: str, command: list[str], pass_fds: tuple[int, ...], **popen) -> subprocess.Popen:
        # Ends at once with us, however we end; every role may be killed at any instant.
        prepare = unprivileged.preparation(None, (), signal.SIGKILL)
        return subprocess.Popen(command, cwd=BASE_DIR, env=self._variables_of(name), pass_fds=pass_fds, preexec_fn=prepare, **popen)  # noqa: S603

    def _stop(self) -> None:
        """Those that write first, what they write to last."""
        if any(program.process for program in self.stores + self.roles):
            self.log.line("up", "stopping (once more Ctrl-C kills)")
        self.supervisor.stop(self.roles, ROLES_PATIENCE)
        for program in reversed(self.stores):
            self.supervisor.stop([program], BROKER_PATIENCE if program.name == "broker" else DATABASE_PATIENCE)
        self.installation.release()
        self.log.line("up", "everything has ended")
