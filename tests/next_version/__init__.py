"""An app with the migrations of a version to come, for tests/test_migrate.py."""
