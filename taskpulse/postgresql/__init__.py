"""Django's PostgreSQL backend with metrics and fewer round trips (ENGINE = "taskpulse.postgresql")."""
