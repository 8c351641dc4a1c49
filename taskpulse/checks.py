"""Settings that are valid one by one and unsafe together: numbered system checks.

An error stops every command and the web role; `manage.py check --deploy` adds what only concerns a deployment, and
`migrate` and `check --database default` ask PostgreSQL itself. TASKPULSE_SILENCED_CHECKS takes a number back.
"""

from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections

from taskpulse.database import POOLED_COMMANDS
from taskpulse.declarations import DEFAULT_ORIGIN
from taskpulse.hosts import is_local, is_public

POSTGRESQL = 18
_TAG = "taskpulse"
_A_YEAR = 31_536_000


def _public_hosts() -> list[str]:
    return [host for host in settings.ALLOWED_HOSTS if is_public(host)]


@register(_TAG)
def check_mode(app_configs, **_) -> list[CheckMessage]:
    public = ", ".join(_public_hosts())
    found = []
    if settings.DEBUG and (settings.PRODUCTION or public):
        why = f"ALLOWED_HOSTS names {public}" if public else "TASKPULSE_MODE is production"
        found.append(Error(f"TASKPULSE_DEBUG is on and {why}: error pages would show code and settings.", id="taskpulse.E001"))
    if settings.PRODUCTION and settings.DATABASE_IS_EMBEDDED:
        found.append(
            Error(
                "TASKPULSE_MODE is production and the database is the one that `manage.py up` embeds.",
                hint="Name a PostgreSQL server with DATABASE_URL or DB_HOST.",
                id="taskpulse.E002",
            )
        )
    if public and not settings.PRODUCTION:
        found.append(Warning(f"TASKPULSE_MODE is local and ALLOWED_HOSTS names {public}.", id="taskpulse.W007"))
    return found


@register(_TAG)
def check_secret_key(app_configs, **_) -> list[CheckMessage]:
    keys = {"SECRET_KEY": [settings.SECRET_KEY], "SECRET_KEY_FALLBACKS": settings.SECRET_KEY_FALLBACKS}
    return [
        Error(
            f"{name}: shorter than 50 characters or of fewer than 5 different ones, so that it may be guessed.",
            hint="python3 -c 'import secrets; print(secrets.token_urlsafe(48))'",
            id="taskpulse.E007",
        )
        for name, values in keys.items()
        if settings.PRODUCTION and any(len(value) < 50 or len(set(value)) < 5 for value in values)
    ]


@register(_TAG)
def check_https(app_configs, **_) -> list[CheckMessage]:
    found, public = [], ", ".join(_public_hosts())
    if settings.PRODUCTION and public and not settings.HTTPS:
        found.append(
            Error(
                f"TASKPULSE_HTTPS is off and ALLOWED_HOSTS names {public}: passwords and tokens would travel in clear.",
                hint="Put a proxy that ends TLS in front, name it in TASKPULSE_TRUSTED_PROXIES, and set TASKPULSE_HTTPS=true.",
                id="taskpulse.E008",
            )
        )
    if settings.HSTS_PRELOAD and (settings.HSTS_SECONDS < _A_YEAR or not settings.HSTS_SUBDOMAINS):
        found.append(
            Warning(
                "TASKPULSE_HSTS_PRELOAD is on, and browsers' lists take no domain without a year of HSTS, its subdomains included.",
                hint=f"Set TASKPULSE_HSTS_SECONDS={_A_YEAR} and TASKPULSE_HSTS_SUBDOMAINS=true.",
                id="taskpulse.W009",
            )
        )
    if settings.HTTPS and not settings.TRUSTED_PROXIES:
        found.append(
            Error(
                "TASKPULSE_HTTPS is on and TASKPULSE_TRUSTED_PROXIES is empty: every request would be redirected for ever.",
                hint="Name the addresses of the proxy that ends TLS.",
                id="taskpulse.E009",
            )
        )
    if any(network.prefixlen == 0 for network in settings.TRUSTED_PROXIES):
        found.append(
            Error(
                "TASKPULSE_TRUSTED_PROXIES takes every address for a proxy: anybody could forge the address in the audit log.",
                hint="Name the proxies' own addresses or network.",
                id="taskpulse.E010",
            )
        )
    return found


@register(_TAG)
def check_postgresql_transport(app_configs, **_) -> list[CheckMessage]:
    database = settings.DATABASES["default"]
    mode = database["OPTIONS"].get("sslmode")
    # `allow` tries without TLS first, and takes it only where the server insists.
    if is_local(database["HOST"]) or not database["PASSWORD"] or mode not in ("disable", "allow"):
        return []
    return [
        Error(
            f"sslmode is {mode} and the password would travel to {database['HOST']} without TLS.",
            hint="Set DB_SSLMODE=verify-full and DB_SSLROOTCERT.",
            id="taskpulse.E006",
        )
    ]


@register(_TAG)
def check_kafka_transport(app_configs, **_) -> list[CheckMessage]:
    security, found = settings.KAFKA_SECURITY, []
    mechanism = security.get("sasl.mechanism", "")
    hosts = [server.strip().rpartition(":")[0] for server in settings.KAFKA_BOOTSTRAP_SERVERS.split(",")]
    if security["security.protocol"] == "SASL_PLAINTEXT" and not all(map(is_local, hosts)):
        what = f"KAFKA_SASL_MECHANISM is {mechanism} and KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT"
        hint = "Set KAFKA_SECURITY_PROTOCOL=SASL_SSL."
        if mechanism.startswith("SCRAM"):
            found.append(Warning(f"{what}: a listener could try passwords at leisure.", hint=hint, id="taskpulse.W002"))
        else:
            found.append(Error(f"{what}: whoever listens could sign in as we do.", hint=hint, id="taskpulse.E005"))
    url = urlsplit(security.get("sasl.oauthbearer.token.endpoint.url", ""))
    if url.scheme == "http" and not is_local(url.hostname or ""):
        found.append(Error("KAFKA_OAUTH_TOKEN_URL is http://: the client's secret would travel in clear.", id="taskpulse.E011"))
    return found


@register(_TAG)
def check_audit_log(app_configs, **_) -> list[CheckMessage]:
    found = []
    keys = (settings.AUDIT_SIGNING_KEY, settings.AUDIT_PREVIOUS_SIGNING_KEY)
    if settings.PROCESS_COMMAND in POOLED_COMMANDS and any(keys):
        found.append(
            Error(
                "AUDIT_SIGNING_KEY is given to a role that signs nothing: whoever takes it over could sign a forged log.",
                hint="Give it to the relay role alone, its predecessor AUDIT_PREVIOUS_SIGNING_KEY too.",
                id="taskpulse.E012",
            )
        )
    shown = [name for name in ("AUDIT_WITNESSES", "AUDIT_LOG_PUBLIC") if getattr(settings, name)]
    if shown and settings.AUDIT_LOG_ORIGIN == DEFAULT_ORIGIN:
        found.append(
            Warning(
                f"{' and '.join(shown)}: others are shown a log that bears the name of every installation, {DEFAULT_ORIGIN}.",
                hint="Set AUDIT_LOG_ORIGIN to a name of your own before the first migration, as tasks.example.com/audit.",
                id="taskpulse.W010",
            )
        )
    if settings.KAFKA_TOPIC == settings.KAFKA_CHECKPOINT_TOPIC:
        found.append(
            Error(
                "KAFKA_TOPIC and KAFKA_CHECKPOINT_TOPIC are one topic: checkpoints would go with its retention.",
                hint="Name two topics.",
                id="taskpulse.E013",
            )
        )
    return found


@register(_TAG)
def check_database_roles(app_configs, **_) -> list[CheckMessage]:
    by_role = {}
    for kind in ("WEB_ROLE", "WORKER_ROLE", "AUDITOR_ROLE"):
        by_role.setdefault(getattr(settings, kind), []).append(f"TASKPULSE_{kind}")
    return [
        Error(
            f"{' and '.join(kinds)} are one role, {role}: it would have the rights of each.",
            hint="Name different roles.",
            id="taskpulse.E014",
        )
        for role, kinds in by_role.items()
        if len(kinds) > 1
    ]


@register(_TAG)
def check_names(app_configs, **_) -> list[CheckMessage]:
    return [
        Warning(f"{name} is set and is not a setting.", hint=f"Did you mean {near}?", id="taskpulse.W003")
        for name, near in settings.MISSPELT.items()
    ]


@register(_TAG, deploy=True)
def check_deployment(app_configs, **_) -> list[CheckMessage]:
    if not settings.PRODUCTION:
        return [Warning("TASKPULSE_MODE is local.", hint="Set TASKPULSE_MODE=production.", id="taskpulse.W008")]
    database, found = settings.DATABASES["default"], []
    if not settings.KAFKA_BOOTSTRAP_SERVERS:
        found.append(
            Error(
                "No Kafka is named: relay and consumer would not start.", hint="Set KAFKA_BOOTSTRAP_SERVERS.", id="taskpulse.E003"
            )
        )
    mode = database["OPTIONS"].get("sslmode", "prefer")
    if not is_local(database["HOST"]) and mode not in ("verify-ca", "verify-full"):
        stripped = ", and without an offer of TLS from there the connection goes on without it" if mode == "prefer" else ""
        found.append(
            Warning(
                f"Nothing proves that {database['HOST']} is our PostgreSQL{stripped} (sslmode is {mode}).",
                hint="Set DB_SSLMODE=verify-full and DB_SSLROOTCERT.",
                id="taskpulse.W001",
            )
        )
    if settings.KAFKA_BOOTSTRAP_SERVERS and settings.KAFKA_REPLICATION_FACTOR == 1:
        found.append(Warning("KAFKA_REPLICATION_FACTOR is 1: a broker that is away holds up the audit log.", id="taskpulse.W004"))
    if "*" in settings.ALLOWED_HOSTS:
        found.append(Warning("ALLOWED_HOSTS takes every name.", hint="Name the service's own.", id="taskpulse.W005"))
    if settings.HTTPS and any(origin.startswith("http://") for origin in settings.CSRF_TRUSTED_ORIGINS):
        found.append(Warning("CSRF_TRUSTED_ORIGINS holds an origin without TLS.", id="taskpulse.W006"))
    return found


@register(_TAG, Tags.database)
def check_postgresql_version(app_configs, databases=None, **_) -> list[CheckMessage]:
    found = []
    for alias in databases or ():
        with connections[alias].temporary_connection():
            version = connections[alias].pg_version
        if version < POSTGRESQL * 10_000:
            found.append(
                Error(
                    f"The database is PostgreSQL {version // 10_000}; the schema needs {POSTGRESQL} or newer.",
                    id="taskpulse.E004",
                )
            )
    return found


def errors() -> list[CheckMessage]:
    """What stops the web role, which runs no management command: our errors, without asking the database."""
    transport = (check_https, check_postgresql_transport, check_kafka_transport)
    checks = (check_mode, check_secret_key, *transport, check_audit_log, check_database_roles)
    return [found for check in checks for found in check(None) if found.is_serious() and not found.is_silenced()]
