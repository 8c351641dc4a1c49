"""Arrays that PostgreSQL takes in binary."""

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit import binary_arrays
from audit.binary_arrays import ByteaArray, UuidArray

pytestmark = pytest.mark.django_db


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(st.uuids()), values=st.lists(st.binary()))
def test_postgresql_reads_what_was_meant(keys, values):
    with connection.cursor() as cursor:
        binary_arrays.allow(cursor)
        cursor.execute(
            "SELECT k, v, array_lower(k, 1) FROM (VALUES (%s, %s)) given (k, v)",
            [UuidArray.of(key.bytes for key in keys), ByteaArray.of(values)],
        )
        read_keys, read_values, first = cursor.fetchone()
    assert read_keys == keys
    assert [bytes(value) for value in read_values] == values
    assert first == (1 if keys else None)
