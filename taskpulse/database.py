"""Django's connection parameters from the settings of PostgreSQL."""

from urllib.parse import parse_qsl, unquote, urlsplit

from taskpulse.env import Environment

NO_DATABASE = (
    "no database is named: set DATABASE_URL (postgresql://USER:PASSWORD@HOST:PORT/NAME) or DB_HOST, DB_PORT, DB_NAME, "
    "DB_USER and DB_PASSWORD, or run `manage.py up`, which starts one"
)


def is_named(env: Environment) -> bool:
    """Whether the process environment names a server, rather than an earlier `manage.py up`."""
    return env.named("DATABASE_URL") or env.named("DB_HOST")


def address(env: Environment) -> dict:
    """HOST, PORT, NAME, USER, PASSWORD and OPTIONS, from DATABASE_URL or the parts; what is wrong goes to `env`."""
    if env.named("DB_HOST") and not env.named("DATABASE_URL"):
        return _from_parts(env)
    if env["DATABASE_URL"]:
        url = from_url(env["DATABASE_URL"])
        if url is None:
            env.problem("DATABASE_URL: expected postgresql://USER:PASSWORD@HOST:PORT/NAME")
        elif env.named("DB_HOST") and (env["DB_HOST"], env["DB_NAME"] or url["NAME"]) != (url["HOST"], url["NAME"]):
            env.problem("DATABASE_URL and DB_HOST name different databases: expected one of them")
        return url or {}
    if not env.named("DATABASE_URL"):  # else what is wrong with it is said already
        env.missing(NO_DATABASE)
    return {}


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


def from_url(url: str) -> dict | None:
    """None for what is no address of a PostgreSQL database. The reason is not told: it may quote the password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme not in {"postgres", "postgresql"} or not name:
        return None
    options = dict(parse_qsl(parts.query))
    return {
        "HOST": options.pop("host", None) or unquote(parts.hostname or ""),
        "PORT": str(options.pop("port", None) or port or ""),
        "NAME": name,
        "USER": unquote(parts.username or "") or options.pop("user", ""),
        "PASSWORD": unquote(parts.password or ""),
        "OPTIONS": options,
    }
