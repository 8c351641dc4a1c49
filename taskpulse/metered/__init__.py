"""Django's PostgreSQL backend with django-prometheus' database metrics (ENGINE = "taskpulse.metered")."""
