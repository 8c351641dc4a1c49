"""The metrics themselves: named as Prometheus wants it, each declared once, and right when a batch is counted at once."""

import ast
import re
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import IntegrityError, connection, transaction
from django_prometheus.db import errors_total, execute_many_total, execute_total, query_duration_seconds
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from taskpulse import VERSION
from taskpulse.instruments import AgeHistogram, Reading
from tests.recording import messages, record, task_with_versions, waiting

ROOT = Path(__file__).resolve().parent.parent
NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
BOUNDS = [0.01, 0.1, 1, 60]


def families(registry=REGISTRY) -> dict:
    return {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}


# What `promtool check metrics` looks at (CI runs the real one), and what it cannot know.


def test_names_and_help_are_those_that_prometheus_asks_for():
    ours = {name: family for name, family in families().items() if name.startswith("taskpulse_")}
    assert len(ours) >= 15
    for name, family in ours.items():
        assert re.fullmatch(r"taskpulse(_[a-z]+)+", name), name
        assert family.documentation.strip(), name
        assert not re.search(
            r"_(total|count|sum|bucket|gauge|counter|histogram|milliseconds|ms|minutes|hours|kilobytes|mb)$", name
        ), name
        if family.type == "counter":
            assert all(sample.name == f"{name}_total" for sample in family.samples), name
    for name in ("taskpulse_commit_to_entry_seconds", "taskpulse_batch_duration_seconds"):
        assert ours[name].type == "histogram"


def test_each_metric_is_declared_in_one_module():
    makers = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Reading", "AgeHistogram"}
    for path in ROOT.glob("[ta]*/**/*.py"):
        if path.is_relative_to(ROOT / "tests") or path.name == "metrics.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in makers:
                name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
                assert not str(name).startswith("taskpulse_"), f"{path} declares {name}"


def test_labels_are_few_and_fixed():
    """A label that holds an id would grow without a bound."""
    allowed = {
        "version",
        "python",
        "revision",
        "part",
        "dependency",
        "group",
        "partition",
        "outcome",
        "reason",
        "role",
        "state",
        "witness",
        "le",
    }
    for name, family in families().items():
        if name.startswith("taskpulse_"):
            assert {label for sample in family.samples for label in sample.labels} <= allowed, name


def test_the_version_that_runs_is_the_one_that_is_released():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


# Reading


def test_a_reading_shows_nothing_until_it_is_set_and_forgets_what_is_gone():
    registry = CollectorRegistry()
    lag = Reading("lag", "behind", ["partition"], registry)
    assert families(registry)["lag"].samples == []
    lag.set(3, "0")
    lag.set(4, "1")
    assert [(s.labels, s.value) for s in families(registry)["lag"].samples] == [({"partition": "0"}, 3), ({"partition": "1"}, 4)]
    lag.replace({("1",): 5.0})
    assert [(s.labels, s.value) for s in families(registry)["lag"].samples] == [({"partition": "1"}, 5)]
    assert (lag.value("0"), lag.value("1")) == (None, 5)
    with pytest.raises(ValueError, match="lag: expected values for the labels"):
        lag.set(1)


# AgeHistogram


@given(st.lists(st.lists(st.integers(min_value=-1_000, max_value=100_000_000))))
def test_a_batch_counts_as_its_moments_one_by_one(batches):
    """Ages in microseconds, the bounds themselves among them."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram, reference = (
        AgeHistogram("age_seconds", "age", BOUNDS, ours),
        Histogram("age_seconds", "age", buckets=BOUNDS, registry=theirs),
    )
    for batch in batches:
        ages = [*batch, 10_000, 100_000]
        histogram.observe_all([NOW - timedelta(microseconds=age) for age in ages], NOW)
        for age in ages:
            reference.observe(max(0, age) / 1_000_000)
    (found,), (expected,) = ([f for f in families(r).values() if f.name == "age_seconds"] for r in (ours, theirs))
    rest = [s for s in expected.samples if not s.name.endswith(("_sum", "_created"))]
    assert sorted((s.name, str(s.labels), s.value) for s in found.samples if not s.name.endswith("_sum")) == sorted(
        (s.name, str(s.labels), s.value) for s in rest
    )
    sums = [next((s.value for s in family.samples if s.name.endswith("_sum")), 0) for family in (found, expected)]
    assert sums[0] == pytest.approx(sums[1], abs=1e-3)


def test_the_recorder_counts_the_seconds_from_each_change_to_its_entry(db):
    def count(name: str, **labels) -> float:
        return REGISTRY.get_sample_value(f"taskpulse_commit_to_entry_seconds_{name}", labels)

    before = count("count"), count("sum"), count("bucket", le="3600.0")
    task_with_versions(3)
    batch = messages(waiting())
    record(batch)
    record(batch)  # repeats are no entries
    after = count("count"), count("sum"), count("bucket", le="3600.0")
    assert (after[0] - before[0], after[2] - before[2]) == (3, 3)
    assert 0 < after[1] - before[1] < 3 * 3600


def test_statements_are_counted_as_django_prometheus_does(db):
    labels = ("default", "postgresql")
    figures = (execute_total, execute_many_total, query_duration_seconds)

    def counted() -> list[float]:
        return [next(s.value for s in one.labels(*labels)._child_samples() if s.name in ("_total", "_count")) for one in figures]

    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE counted (n int NOT NULL)")
        before = counted()
        cursor.execute("SELECT 1")
        cursor.executemany("INSERT INTO counted VALUES (%s)", [(number,) for number in range(5)])
        assert [now - then for now, then in zip(counted(), before, strict=True)] == [6, 5, 2]
        failed = errors_total.labels(*labels, "NotNullViolation")
        seen = failed._value.get()
        with pytest.raises(IntegrityError), transaction.atomic():
            cursor.executemany("INSERT INTO counted VALUES (%s)", [(None,)])
        assert failed._value.get() == seen + 1
