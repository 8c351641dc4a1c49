"""deploy/monitoring: each alert asks for metrics that exist, is explained, and fires for its own fault alone."""

import re

import pytest
import yaml
from prometheus_client import REGISTRY

import audit.recorder
import taskpulse.access  # noqa: F401 (its metrics)
from audit.models import DeadLetter
from taskpulse.metrics import DEAD_LETTERS
from tests.promtool import PROMTOOL, knows_dns, promtool
from tests.running_up import ROOT

MONITORING = ROOT / "deploy/monitoring"
RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
TESTS = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())
# Prometheus' own.
FOREIGN = {"up"}


def declared() -> set[str]:
    names = set()
    for family in REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_exist_and_is_explained_and_tried(rule):
    wanted = set(re.findall(r"\b(?:taskpulse|django|http)_\w+|\bup\b", rule["expr"]))
    assert wanted
    assert wanted <= declared() | FOREIGN
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert f"| `{rule['alert']}` |" in (ROOT / "deploy/README.md").read_text(), "what it means and what to do"
    assert f'alertname="{rule["alert"]}"' in (MONITORING / "alerts_test.yml").read_text(), "a fault that fires it"


def test_the_first_dead_letter_is_an_increase():
    """A consumer shows a 0 for each reason before there is any, and that is what the alert is tried with."""
    DEAD_LETTERS.clear()
    audit.recorder.Recorder()
    (family,) = DEAD_LETTERS.collect()
    shown = {sample.labels["reason"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    assert shown == dict.fromkeys(DeadLetter.Reason.values, 0)
    (tried,) = (test["input_series"] for test in TESTS["tests"] if test["name"] == "a forged message")
    begun = {re.search('reason="(.+)"', series["series"])[1]: series["values"][:2] for series in tried}
    assert begun == dict.fromkeys(shown, "0x")


def test_each_process_of_a_service_is_scraped_by_itself():
    """Of a name with two addresses a static target reaches one or the other."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    ports = {"web": 8000, "relay": 9464, "consumer": 9464}
    jobs = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert {job["job_name"].removeprefix("taskpulse-") for job in jobs} == ports.keys() <= services.keys()
    for job in jobs:
        assert job.keys() == {"job_name", "dns_sd_configs"}
        (names,) = job["dns_sd_configs"]
        (name,) = names["names"]
        assert (f"taskpulse-{name}", names["type"], names["port"]) == (job["job_name"], "A", ports[name])


@pytest.mark.skipif(not PROMTOOL, reason="PROMTOOL names no promtool")
def test_prometheus_reads_it_and_each_fault_fires_its_own_alert_alone():
    promtool("check", "rules", "--lint=all", "deploy/monitoring/alerts.yml")
    if knows_dns():
        promtool("check", "config", "deploy/monitoring/prometheus.yml")
    promtool("test", "rules", "deploy/monitoring/alerts_test.yml")
