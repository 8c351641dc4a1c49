"""Every setting, declared once: `taskpulse/settings.py` reads them, README's table is made of them (`make settings-table`).

Names that other software gives the same meaning (DATABASE_URL, KAFKA_…, SECRET_KEY, PORT) stand as they are; our own
begin with TASKPULSE_, so that a misspelt one is noticed.
"""

from taskpulse.env import Setting
from taskpulse.kinds import (
    SSL_MODES,
    boolean,
    choice,
    directory,
    file,
    integer,
    network,
    secret,
    secrets,
    signing_key,
    text,
    witness,
    words,
)  # fmt: skip

# Every installation has it that gives its log no other.
DEFAULT_ORIGIN = "taskpulse/audit"
_DATABASE = text("postgresql://USER:PASSWORD@HOST:PORT/NAME", r"postgres(ql)?://\S+", "URL")
_BROKER = r"([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}"
_BROKERS = text("HOST:PORT, several separated by commas", rf"{_BROKER}(,\s*{_BROKER})*", "brokers")
_ENDPOINT = text("https://HOST/PATH", r"https?://[^\s/?#]+\S*", "URL")
_HOST = text("a host's name without scheme and port, or `*`", r"\*|\.?[A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\]", "names")
_ORIGIN = text("an origin such as https://tasks.example.com", r"https?://[^\s/?#]+", "origins")
# As a browser writes it, since it is compared as it stands (RFC 6454 §6.2).
_BROWSERS_ORIGIN = text(
    "an origin as browsers write it, such as https://app.example.com or http://localhost:5173, never `*`",
    r"https?://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", "origins",
)  # fmt: skip
_CHECK = text("a check such as taskpulse.E006", r"[a-z_0-9]+\.[EWI][0-9]{3}", "checks")
_TOPIC = text("a topic's name: letters, digits, '.', '_' and '-', at most 249", r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", "topic")
# As PostgreSQL takes it (NAMEDATALEN less one).
_ROLE = text("a role's name: at most 63 letters, digits and '_', not first a digit", r"[A-Za-z_][A-Za-z0-9_]{0,62}", "role")

GROUPS: dict[str, tuple[Setting, ...]] = {
    "Service": (
        Setting("TASKPULSE_MODE", choice("production", "local"), "`up` is local unless told otherwise", "production"),
        Setting("SECRET_KEY", secret(), "signs sessions", secret=True, required=True, shown="made by `up`"),
        Setting("SECRET_KEY_FALLBACKS", secrets(), "earlier ones, which still count", secret=True),
        Setting("ALLOWED_HOSTS", words(_HOST), "the names under which it is reached", "localhost,127.0.0.1,[::1]"),
        Setting("CSRF_TRUSTED_ORIGINS", words(_ORIGIN), "whose forms are accepted too"),
        Setting("TASKPULSE_CORS_ORIGINS", words(_BROWSERS_ORIGIN), "whose pages may read the API from a browser, with a token"),
        Setting("TASKPULSE_TRUSTED_PROXIES", words(network()), "whose `X-Forwarded-For` and `-Proto` are believed"),
        Setting("TASKPULSE_HTTPS", boolean(), "reached by HTTPS alone: redirect, HSTS, secure cookies", "false"),
        Setting("TASKPULSE_HSTS_SECONDS", integer(0, 100_000_000), "raise to 31536000 once HTTPS is known to work", "3600", "s"),
        Setting("TASKPULSE_HSTS_SUBDOMAINS", boolean(), "HSTS holds for names below ours too", "true"),
        Setting("TASKPULSE_HSTS_PRELOAD", boolean(), "the domain may enter the browsers' own list", "false"),
        Setting("TASKPULSE_DEBUG", boolean(), "error pages that show code; on this machine alone", "false"),
        Setting("TASKPULSE_SILENCED_CHECKS", words(_CHECK), "system checks that are known and accepted"),
        Setting("TASKPULSE_HOME", directory(), "all data of an installation", shown="`.taskpulse/`"),
        Setting(
            "TASKPULSE_STATIC_ROOT", directory(), "static files under hashed names, of the image", shown="collected by `up`"
        ),
        Setting("PORT", integer(1, 65_535), "where the web role listens", "8000"),
        Setting("BIND_ADDRESS", text("an address of this machine"), "where `up` listens", "127.0.0.1"),
        Setting("WEB_CONCURRENCY", integer(1, 256), "processes of the web role", "2"),
        Setting(
            "TASKPULSE_LOG_LEVEL", choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "what is logged, and graver", "INFO"
        ),
        Setting("TASKPULSE_REVISION", text(), "the source revision, which the image sets", "unknown"),
        Setting("TASKPULSE_LOG_FORMAT", choice("json", "text"), "one JSON object a line, or lines for a terminal", "text"),
    ),
    "Web": (
        Setting("TASKPULSE_WEB_QUEUE_MS", integer(1, 600_000), "a request that would wait longer is refused with 503", "500", "ms"),
        Setting("TASKPULSE_WEB_BODY_SECONDS", integer(1, 3_600), "for a large body to arrive", "10", "s"),
        Setting("TASKPULSE_WEB_REQUEST_SECONDS", integer(1, 86_400), "for all of a request, its answer taken", "60", "s"),
        Setting("TASKPULSE_WEB_STATEMENT_TIMEOUT_MS", integer(0, 3_600_000), "for a statement; 0: the role's own", "5000", "ms"),
        Setting("TASKPULSE_WEB_LOCK_TIMEOUT_MS", integer(0, 3_600_000), "for a lock; 0: the role's own", "2000", "ms"),
        Setting(
            "TASKPULSE_WEB_TOKEN_CACHE_MS", integer(0, 60_000), "a token found is believed, revoked or not; 0: each request asks",
            "1000", "ms",
        ),
        Setting("TASKPULSE_REQUIRE_IF_MATCH", boolean(), "428 for a change of a task that names no version by If-Match", "false"),
        Setting("TASKPULSE_REQUIRE_IDEMPOTENCY_KEY", boolean(), "400 for a POST or PATCH without Idempotency-Key", "false"),
        Setting("TASKPULSE_WEB_DRAIN_SECONDS", integer(0, 600), "not ready and still serving, after SIGTERM", "5", "s"),
        Setting("TASKPULSE_WEB_GRACEFUL_SECONDS", integer(1, 600), "then, for requests in flight to end", "10", "s"),
    ),
    "Traces": (
        Setting(
            "OTEL_EXPORTER_OTLP_ENDPOINT", text("the URL of an OpenTelemetry collector", r"https?://[^\s/]+\S*", "URL"),
            "where traces are sent, by OTLP over HTTP; headers and TLS by OTEL_EXPORTER_OTLP_…", shown="no traces",
        ),
        Setting("OTEL_EXPORTER_OTLP_PROTOCOL", choice("http/protobuf"), "the one that is spoken", "http/protobuf"),
        Setting("OTEL_SERVICE_NAME", text(), "the service that spans name", shown="taskpulse-web, -relay, -consumer"),
    ),
    "PostgreSQL": (
        Setting("DATABASE_URL", _DATABASE, "PostgreSQL 18 or newer", secret=True, shown="embedded by `up`"),
        Setting("DATABASE_DIRECT_URL", _DATABASE, "the same without a pooler, for all but web and consumer", secret=True),
        Setting("TASKPULSE_POOLER", choice("none", "transaction"), "what DATABASE_URL reaches: PgBouncer's pool mode", "none"),
        Setting("DB_HOST", text("a host's name or address"), "instead of DATABASE_URL, with the four below"),
        Setting("DB_PORT", integer(1, 65_535), "", "5432"),
        Setting("DB_NAME", text("a database's name"), ""),
        Setting("DB_USER", text("a role's name"), ""),
        Setting("DB_PASSWORD", secret(), "", secret=True),
        Setting("DB_SSLMODE", choice(*SSL_MODES), "TLS to PostgreSQL, as libpq's `sslmode`", shown="libpq's: `prefer`"),
        Setting("DB_SSLROOTCERT", file("system"), "whom to trust, for `verify-ca` and `verify-full`"),
        Setting("DB_SSLCERT", file(), "our certificate, where PostgreSQL asks for one"),
        Setting("DB_SSLKEY", file(), "its private key (mode 600)"),
        Setting("TASKPULSE_WEB_ROLE", _ROLE, "what the web role signs in as; made by `database_roles`", "taskpulse_web"),
        Setting("TASKPULSE_WEB_ROLE_PASSWORD", secret(), "set by `database_roles` if given", secret=True),
        Setting("TASKPULSE_WORKER_ROLE", _ROLE, "the same for relay and consumer", "taskpulse_worker"),
        Setting("TASKPULSE_WORKER_ROLE_PASSWORD", secret(), "", secret=True),
        Setting("TASKPULSE_AUDITOR_ROLE", _ROLE, "the same for who reads the log by SQL", "taskpulse_auditor"),
        Setting("TASKPULSE_AUDITOR_ROLE_PASSWORD", secret(), "", secret=True),
    ),
    "Migrations": (
        Setting("TASKPULSE_MIGRATE_LOCK_TIMEOUT_MS", integer(1, 600_000), "for a table's lock, then it tries again", "2000", "ms"),
        Setting("TASKPULSE_MIGRATE_PATIENCE_SECONDS", integer(0, 86_400), "of such tries, then it gives up", "300", "s"),
    ),
    "Kafka": (
        Setting("KAFKA_BOOTSTRAP_SERVERS", _BROKERS, "any Apache Kafka", shown="embedded by `up`"),
        Setting("KAFKA_SECURITY_PROTOCOL", choice("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"), "to the brokers", "PLAINTEXT"),
        Setting("KAFKA_SASL_MECHANISM", choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"), "with SASL"),
        Setting("KAFKA_SASL_USERNAME", text("a name"), "with PLAIN and SCRAM"),
        Setting("KAFKA_SASL_PASSWORD", secret(), "with PLAIN and SCRAM", secret=True),
        Setting("KAFKA_OAUTH_TOKEN_URL", _ENDPOINT, "with OAUTHBEARER: where tokens are issued (OpenID Connect)"),
        Setting("KAFKA_OAUTH_CLIENT_ID", text("a client's id"), "with OAUTHBEARER"),
        Setting("KAFKA_OAUTH_CLIENT_SECRET", secret(), "with OAUTHBEARER", secret=True),
        Setting("KAFKA_OAUTH_SCOPE", text("scopes, separated by spaces"), "with OAUTHBEARER, if the issuer wants one"),
        Setting("KAFKA_OAUTH_EXTENSIONS", text("NAME=VALUE, separated by commas"), "with OAUTHBEARER (KIP-342)"),
        Setting("KAFKA_OAUTH_CA_LOCATION", file(), "whom to trust at KAFKA_OAUTH_TOKEN_URL", shown="the system's"),
        Setting("KAFKA_SSL_CA_LOCATION", file(), "whom to trust at the brokers (PEM)", shown="the system's"),
        Setting("KAFKA_SSL_CERTIFICATE_LOCATION", file(), "our certificate, where the brokers ask for one (PEM)"),
        Setting("KAFKA_SSL_KEY_LOCATION", file(), "its private key (PEM)"),
        Setting("KAFKA_SSL_KEY_PASSWORD", secret(), "of that key", secret=True),
        Setting("KAFKA_TOPIC", _TOPIC, "where events are published; the relay makes it if it is not there", "task-events"),
        Setting("KAFKA_PARTITIONS", integer(1, 10_000), "of a topic that the relay makes", "4"),
        Setting("KAFKA_REPLICATION_FACTOR", integer(1, 100), "of a topic that the relay makes", "1"),
        Setting("KAFKA_RETENTION_HOURS", integer(1, 1_000_000), "of a topic that the relay makes", "168", "h"),
        Setting("KAFKA_AUDIT_GROUP", text("a consumer group's name"), "the consumer group of the recorder", "audit"),
        Setting(
            "KAFKA_GROUP_INSTANCE_ID",
            text("letters, digits, '.', '_' and '-', at most 249", r"[A-Za-z0-9._-]{1,249}", "name"),
            "names a consumer's process, another for each: started again, it takes its partitions at once",
            shown="none; `up` makes one",
        ),
    ),
    "Relay and consumer": (
        Setting("TASKPULSE_RELAY_BATCH", integer(1, 100_000), "published at once", "1000", "events"),
        Setting("TASKPULSE_RELAY_POLL_MS", integer(1, 60_000), "between two looks at an empty outbox", "50", "ms"),
        Setting("TASKPULSE_RELAY_WINDOW", integer(1, 10_000_000), "published and not yet recorded, at most", "100000", "events"),
        Setting("TASKPULSE_CONSUMER_BATCH", integer(1, 100_000), "recorded in one transaction", "2000", "events"),
        Setting("TASKPULSE_MAX_HELD_ROWS", integer(1, 1_000_000), "above which the consumer stops", "100", "held events"),
        Setting("TASKPULSE_DEAD_LETTER_MB", integer(1, 1_000_000), "in all dead letters; then no bytes are kept", "1000", "MB"),
        Setting(
            "TASKPULSE_WORKER_STATEMENT_TIMEOUT_MS", integer(0, 86_400_000), "for each statement; 0: no limit", "60000", "ms",
        ),
        Setting("TASKPULSE_STUCK_SECONDS", integer(1, 86_400), "without progress, after which `/readyz` says so", "60", "s"),
        Setting(
            "TASKPULSE_WORKER_PORT", integer(0, 65_535), "probes and metrics; 0: any free one", "9464",
            shown="`9464`; free ones by `up`",
        ),
        Setting(
            "TASKPULSE_WORKER_ADDRESS", text("an address of this machine"), "where that port is", "0.0.0.0",  # noqa: S104
            shown="`0.0.0.0`; `BIND_ADDRESS` by `up`",
        ),
    ),
    "Audit log": (
        Setting(
            "AUDIT_LOG_ORIGIN", text("a name without spaces or '+'", r"[^\s+\x00-\x1f]{1,255}"), "the log's name", DEFAULT_ORIGIN
        ),
        Setting(
            "AUDIT_SIGNING_KEY", signing_key(), "signs the log's checkpoints; for the relay role alone", secret=True,
            shown="made by `up`",
        ),
        Setting("AUDIT_PREVIOUS_SIGNING_KEY", signing_key(), "the key until now, which hands over to the other", secret=True),
        Setting("TASKPULSE_CHECKPOINT_ENTRIES", integer(1, 10_000_000), "so many new ones are signed at once", "1000", "entries"),
        Setting("TASKPULSE_CHECKPOINT_SECONDS", integer(1, 86_400), "after which fewer are signed too", "10", "s"),
        Setting(
            "KAFKA_CHECKPOINT_TOPIC", _TOPIC, "where checkpoints are published; the relay makes it, to be kept for ever",
            "task-audit-checkpoints",
        ),
        Setting(
            "AUDIT_WITNESSES", words(witness()), "who cosigns checkpoints (tlog-witness): key and URL of each", shown="none"
        ),
        Setting("AUDIT_LOG_PUBLIC", boolean(), "whether checkpoint and tiles are for everybody, not for auditors alone", "false"),
    ),
}  # fmt: skip

DECLARED = tuple(setting for group in GROUPS.values() for setting in group)
