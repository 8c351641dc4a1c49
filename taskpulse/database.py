"""Django's connection parameters from the settings of PostgreSQL."""

from urllib.parse import parse_qsl, unquote, urlsplit

from taskpulse.env import Environment
from taskpulse.kinds import SSL_MODES

EXPECTED_URL = "postgresql://USER:PASSWORD@HOST:PORT/NAME"
NO_DATABASE = (
    f"no database is named: set DATABASE_URL ({EXPECTED_URL}) or DB_HOST, DB_PORT, DB_NAME, "
    "DB_USER and DB_PASSWORD, or run `manage.py up`, which starts one"
)
# By libpq's name of the parameter.
_TLS = {"sslmode": "DB_SSLMODE", "sslrootcert": "DB_SSLROOTCERT", "sslcert": "DB_SSLCERT", "sslkey": "DB_SSLKEY"}
# The processes that need no session of their own: their statements may come to any connection of a pooler. Every other
# command may take a session's lock or setting (migrate, relay_outbox), so that it goes to PostgreSQL itself.
POOLED_COMMANDS = frozenset({"", "consume_events"})
_WORKER_COMMANDS = frozenset({"relay_outbox", "consume_events"})
# A host that is lost is noticed within 10 s, whether something was sent (tcp_user_timeout, in milliseconds) or an answer is
# awaited (5 s and 5 probes). They have no effect on a Unix socket.
_LOST_HOST = {"keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 1, "keepalives_count": 5, "tcp_user_timeout": 5000}
_command = ""


def set_process_command(name: str) -> None:
    """Which management command this process runs; to be called before the settings are read."""
    global _command
    _command = name


def process_command() -> str:
    """The management command that this process runs; "" for the web role, which runs none."""
    return _command


def is_named(env: Environment) -> bool:
    """Whether the process environment names a server, rather than an earlier `manage.py up`."""
    return env.named("DATABASE_URL") or env.named("DB_HOST")


def is_embedded(env: Environment) -> bool:
    """Whether it is the server of `manage.py up`, which names it to its roles, each with a database role of its own."""
    own, used = ((url or "").partition("?")[2] for url in (env.installed("DATABASE_URL"), env["DATABASE_URL"]))
    return bool(own) and own == used and not env.named("DB_HOST")


def configuration(env: Environment) -> dict:
    """One entry of Django's DATABASES; what is wrong goes to `env`."""
    pooled = env["TASKPULSE_POOLER"] == "transaction" and _command in POOLED_COMMANDS
    parameters = address(env)
    options = parameters.get("OPTIONS", {})
    if _command in _WORKER_COMMANDS and not pooled and (most := env["TASKPULSE_WORKER_STATEMENT_TIMEOUT_MS"]):
        # What the address says comes last, so that it counts.
        options = options | {"options": f"-c statement_timeout={most} {options.get('options', '')}".strip()}
    return {
        "ENGINE": "taskpulse.postgresql",
        **parameters,
        # Persistent connections, checked at the start of a request. A pool costs more per request than it gives.
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "OPTIONS": {
            # Server-side prepared statements: plan once, run many (Django turns them off by default). They belong to a
            # session, so that a pooler which gives each transaction any session has no use for them.
            "prepare_threshold": None if pooled else 2,
            "server_side_binding": True,
            "connect_timeout": 5,
            **_LOST_HOST,
            **options,
        },
    }


def address(env: Environment) -> dict:
    """HOST, PORT, NAME, USER, PASSWORD and OPTIONS of this process's database."""
    direct = _direct(env) if _command not in POOLED_COMMANDS else None
    parameters = direct or _shared(env)
    if parameters:
        parameters["OPTIONS"] = _with_tls(env, parameters["OPTIONS"])
    return parameters


def _shared(env: Environment) -> dict:
    if env.named("DB_HOST") and not env.named("DATABASE_URL"):
        return _from_parts(env)
    if env["DATABASE_URL"]:
        url = _from_url(env, "DATABASE_URL")
        parts = {name: str(env[f"DB_{name}"]) for name in ("HOST", "PORT", "NAME") if env.named(f"DB_{name}")}
        if url and env.named("DB_HOST") and not parts.items() <= (url | {"PORT": url["PORT"] or "5432"}).items():
            env.problem("DATABASE_URL and DB_HOST name different databases: expected one of them")
        return url
    if not env.named("DATABASE_URL"):  # else what is wrong with it is said already
        env.missing(NO_DATABASE)
    return {}


def _direct(env: Environment) -> dict | None:
    if env["DATABASE_DIRECT_URL"]:
        if env.given("DATABASE_URL") and not is_named(env):
            env.problem("DATABASE_DIRECT_URL is set and DATABASE_URL is not: expected both, for one database")
        return _from_url(env, "DATABASE_DIRECT_URL")
    if env["TASKPULSE_POOLER"] == "transaction" and not env.named("DATABASE_DIRECT_URL"):
        env.missing(
            f"DATABASE_DIRECT_URL is not set: expected {EXPECTED_URL} of PostgreSQL itself, since TASKPULSE_POOLER is "
            f"transaction and {_command} needs a session of its own"
        )
    return None


def _from_parts(env: Environment) -> dict:
    for name, expected in (("DB_NAME", "a database's name"), ("DB_USER", "a role's name")):
        if not env[name]:
            env.problem(f"{name} is not set: expected {expected}, since DB_HOST is set")
    return {
        "HOST": env["DB_HOST"],
        "PORT": str(env["DB_PORT"]),
        "NAME": env["DB_NAME"],
        "USER": env["DB_USER"],
        "PASSWORD": env["DB_PASSWORD"],
        "OPTIONS": {},
    }


def _from_url(env: Environment, name: str) -> dict:
    """Empty for what is no address of a PostgreSQL database. The reason is not told: it may quote the password."""
    try:
        parts = urlsplit(env[name])
        port = parts.port
    except ValueError:
        parts = None
    database = unquote(parts.path.removeprefix("/")) if parts else ""
    if not database:
        env.problem(f"{name}: expected {EXPECTED_URL}")
        return {}
    # libpq takes '+' for itself, not for a space.
    options = dict(parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True))
    user, password = options.pop("user", ""), options.pop("password", "")
    host, port = options.pop("host", None) or unquote(parts.hostname or ""), options.pop("port", None) or port
    _check_parameters(env, name, options)
    return {
        "HOST": host,
        "PORT": str(port or ""),
        "NAME": database,
        "USER": unquote(parts.username or "") or user,
        "PASSWORD": unquote(parts.password or "") or password,
        "OPTIONS": options,
    }


def _check_parameters(env: Environment, name: str, options: dict[str, str]) -> None:
    """libpq would refuse these at each try to connect, where it looks like an outage."""
    from psycopg import pq

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    if not known.issuperset(options):
        env.problem(f"{name}: a parameter after '?' is none that libpq knows; expected sslmode, options or another of libpq's")
    if options.get("sslmode", SSL_MODES[0]) not in SSL_MODES:
        env.problem(f"{name}: expected sslmode to be one of {', '.join(SSL_MODES)}")


def _with_tls(env: Environment, options: dict[str, str]) -> dict[str, str]:
    """`options` and what the settings say of TLS; either may, not both differently."""
    for parameter, setting in _TLS.items():
        if env[setting] and options.setdefault(parameter, env[setting]) != env[setting]:
            env.problem(f"{setting} and {parameter} in the database's address differ: expected one of them")
    if options.get("sslmode") in {"verify-ca", "verify-full"} and not options.get("sslrootcert"):
        env.problem(
            f"DB_SSLROOTCERT is not set: expected a file of certificates or `system`, since sslmode is {options['sslmode']}"
        )
    if bool(options.get("sslcert")) != bool(options.get("sslkey")):
        env.problem("DB_SSLCERT and DB_SSLKEY: expected both or neither")
    return options
