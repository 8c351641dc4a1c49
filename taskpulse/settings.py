"""Settings: each is declared in `taskpulse/declarations.py` and read once, strictly, by `taskpulse/env.py`."""

from taskpulse import database, kafka_security, logs
from taskpulse.declarations import DECLARED
from taskpulse.env import PREFIX, Environment, home_directory

TASKPULSE_HOME = home_directory()
env = Environment(TASKPULSE_HOME, DECLARED)
DATABASES = {"default": database.configuration(env)}
# librdkafka's properties, with secrets; see taskpulse/kafka.py for the others.
KAFKA_SECURITY = kafka_security.properties(env)
env.stop_if_wrong()

# Each declared setting becomes Django's of the same name, without our prefix: TASKPULSE_RELAY_BATCH is settings.RELAY_BATCH.
# How the database is reached stands in DATABASES alone, how one signs in at Kafka in KAFKA_SECURITY.
_OWN = ("TASKPULSE_HOME", "DATABASE_", "DB_", "KAFKA_SASL_", "KAFKA_OAUTH_", "KAFKA_SSL_")
vars().update({name.removeprefix(PREFIX): value for name, value in env.values().items() if not name.startswith(_OWN)})

PRODUCTION = env["TASKPULSE_MODE"] == "production"
PROCESS_COMMAND = database.process_command()
DATABASE_IS_EMBEDDED = database.is_embedded(env)
MISSPELT = env.misspelt()
# Which names a browser's own list may hold is a matter of the whole domain, so that its absence is no fault.
SILENCED_SYSTEM_CHECKS = ["security.W021", *env["TASKPULSE_SILENCED_CHECKS"]]

# The scheme is what a trusted proxy says (taskpulse/proxies.py). Probes come from inside, without TLS.
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env["TASKPULSE_HTTPS"]
SECURE_REDIRECT_EXEMPT = [r"^(healthz?|readyz?|metrics)/?$"]
SECURE_HSTS_SECONDS = env["TASKPULSE_HSTS_SECONDS"] if env["TASKPULSE_HTTPS"] else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = env["TASKPULSE_HSTS_SUBDOMAINS"]
SECURE_HSTS_PRELOAD = env["TASKPULSE_HSTS_PRELOAD"]

INSTALLED_APPS = [
    "taskpulse",
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "tasks",
    "audit",
]

# Browsers on these origins may read the API's answers. They send a token as any program does; cookies do not count.
CORS_ALLOWED_ORIGINS = env["TASKPULSE_CORS_ORIGINS"]
CORS_URLS_REGEX = r"^/api/"
CORS_ALLOW_HEADERS = (
    *("accept", "authorization", "content-type", "idempotency-key", "if-match", "if-none-match", "prefer"),
    *("traceparent", "x-change-reason", "x-request-id"),
)
CORS_EXPOSE_HEADERS = (
    *("Accept-Patch", "Allow", "Content-Disposition", "Deprecation", "ETag", "Idempotent-Replayed", "Link"),
    *("Location", "Preference-Applied", "Retry-After", "Sunset", "WWW-Authenticate", "X-Request-ID", "X-Total-Count"),
)
CORS_PREFLIGHT_MAX_AGE = 600
_FIRST_MIDDLEWARE = [
    # What the others answer has a request id, a line in the log and its metrics too.
    "taskpulse.middleware.RequestContextMiddleware",
    *(["corsheaders.middleware.CorsMiddleware"] if CORS_ALLOWED_ORIGINS else []),
]
# What a request with a token passes (taskpulse/wsgi.py).
PROGRAM_MIDDLEWARE = [*_FIRST_MIDDLEWARE, "taskpulse.http_headers.SecurityHeadersMiddleware"]
MIDDLEWARE = [
    *_FIRST_MIDDLEWARE,
    "django.middleware.security.SecurityMiddleware",
    "taskpulse.http_methods.OptionsMiddleware",
    "taskpulse.health.ProbesMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "taskpulse.urls"
WSGI_APPLICATION = "taskpulse.wsgi.application"
APPEND_SLASH = True

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

PROMETHEUS_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, float("inf"))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

LANGUAGE_CODE = "en-us"
# In which problems are told, by Accept-Language; catalogues in taskpulse/locale.
LANGUAGES = [("en", "English"), ("de", "Deutsch"), ("fr", "Français")]
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "/static/"
# The image holds them collected, compressed and under hashed names, for ever cacheable; elsewhere `up` collects them as they are.
STATIC_ROOT = env["TASKPULSE_STATIC_ROOT"] or TASKPULSE_HOME / "static"
_hashed = "whitenoise.storage.CompressedManifestStaticFilesStorage"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": _hashed if env["TASKPULSE_STATIC_ROOT"] else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
SECURE_CONTENT_TYPE_NOSNIFF = True

# The console (taskpulse/console.py).
UNFOLD = {
    "SITE_TITLE": "TaskPulse",
    "SITE_HEADER": "TaskPulse",
    "SITE_SUBHEADER": "every change on record",
    "SITE_SYMBOL": "ecg_heart",
    "SITE_URL": None,
    "SHOW_VIEW_ON_SITE": False,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "taskpulse.console.icon"}],
    "STYLES": ["taskpulse.console.stylesheet"],
    "DASHBOARD_CALLBACK": "taskpulse.console.dashboard",
    "SIDEBAR": {"navigation": "taskpulse.console.navigation"},
    "COLORS": {
        "primary": {
            "50": "#eefdf8",
            "100": "#d3f8ec",
            "200": "#aaf0dc",
            "300": "#73e2c7",
            "400": "#3bccae",
            "500": "#17b095",
            "600": "#0b8e7a",
            "700": "#0d7264",
            "800": "#105b51",
            "900": "#124b44",
            "950": "#042d2a",
        },
    },
}

DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000

# The API's views name what they need themselves (tasks/api/views.py): these are for a view that forgot to. Deny by default.
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "tasks.api.authentication.BearerAuthentication",
        "tasks.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["tasks.api.permissions.RolePermission"],
    "DEFAULT_PARSER_CLASSES": ["tasks.api.parsers.JsonParser"],
    "DEFAULT_RENDERER_CLASSES": ["tasks.api.negotiation.JsonRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "taskpulse.errors.handle",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "TaskPulse",
    "DESCRIPTION": "A task service whose every change is provably recorded.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SCHEMA_PATH_PREFIX": "/api",
    "COMPONENT_SPLIT_REQUEST": True,
    # It also brings the extensions that stand beside it.
    "PREPROCESSING_HOOKS": ["tasks.api.schema_extensions.without_trailing_slash"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "tasks.api.schema_extensions.strict_bodies",
        "tasks.api.schema_extensions.sparse_answers",
        "tasks.api.schema_extensions.recorded_examples",
        "taskpulse.deprecation.mark",
    ],
    "GET_LIB_DOC_EXCLUDES": "tasks.api.schema_extensions.undescribed",
    "ENUM_NAME_OVERRIDES": {"PriorityEnum": "tasks.models.Priority", "StatusEnum": "tasks.models.Status"},
}

LOGGING = logs.configuration(env["TASKPULSE_LOG_FORMAT"], env["TASKPULSE_LOG_LEVEL"])
