"""Times from PostgreSQL, read by Python's own parser: psycopg's loader takes ten times as long, and each row has some."""

from datetime import UTC, datetime

from psycopg.types.datetime import TimestamptzLoader


class UtcLoader(TimestamptzLoader):
    """`2026-11-29 11:16:48.5+00`, as a session writes it whose TimeZone is UTC and whose DateStyle is ISO, as Django's are. What
    looks otherwise, psycopg reads, or refuses: years that Python's datetime lacks."""

    # Django asks each cursor's loader for it.
    timezone = UTC

    def load(self, data) -> datetime:
        text = str(data, "ascii")
        if text.endswith("+00"):
            try:
                return datetime.fromisoformat(text)
            except ValueError:
                pass
        return super().load(data)
