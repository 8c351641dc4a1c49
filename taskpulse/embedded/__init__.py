"""What `manage.py up` and the tests start when the environment names no other: PostgreSQL 18 and a Kafka broker."""
