"""`make bench`: runs all, prints a table, writes bench.json at the root of the repository.

    python -m tests.benchmarks [--quick] [--only verify ingest api express latency features]

`features`, with and without each, takes some 15 minutes and runs only where it is named.

DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS name servers to use instead of the embedded ones; tables and topics are the
benchmark's own.
"""

import argparse
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import database, machine, services

RESULT = Path(__file__).resolve().parent.parent.parent / "bench.json"
PARTS = ("verify", "ingest", "api", "express", "latency")
LONG = ("features",)
# What the figures are held against: ratios and entries a second at least. Nothing is wanted of those beside Express, which
# does a part of the work: they tell what the rest costs.
WANTED = {
    "ingest_vs_copy": 0.5, "ingest_vs_naive": 15, "create_vs_fastapi": 1.5, "update_vs_fastapi": 1.5, "list_vs_fastapi": 2,
    "get_vs_fastapi": 1.3, "leaf_and_tree_a_second": 200_000, "recomputed_a_second": 30_000,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--quick", action="store_true", help="a minute or so: tells whether it runs, not how fast")
    parser.add_argument("--only", nargs="+", choices=PARTS + LONG, metavar="PART", help=", ".join(PARTS + LONG))
    options = parser.parse_args()
    parts = options.only or PARTS
    if "express" in parts and not services.express_is_there():
        missing = "express needs Node.js 20 or newer and npm, by which `make bench` installs it"
        if options.only:
            parser.error(missing)
        print(f"{missing}: left out")
        parts = [part for part in parts if part != "express"]
    began, busy = time.monotonic(), os.getloadavg()[0]
    if busy > 0.5:
        print(f"other work runs on this machine (load {busy:.1f}): trust the ratios less, and the rates not at all")
    # So many web roles at once have more sessions than a server has room for.
    room = {"max_connections": "300"} if "features" in parts else {}
    with database.server(room) as (server_url, kind), database.fresh_database(server_url) as url:
        found = measure(server_url, url, parts, options.quick)
        found["machine"] = machine.facts() | {"load_before": round(busy, 2), "postgresql": kind, **machine.server_facts()}
    found |= {"at": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(time.monotonic() - began)}
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print_table(found)
    print(f"\n{found['seconds']} s; details in {RESULT.name}")


def measure(server_url: str, url: str, parts, quick: bool) -> dict:
    from tests.benchmarks import api, features, ingest, latency, verification

    found: dict = {"ratios": {}, "quick": quick}
    if "verify" in parts:
        progress("verification")
        found["verify"] = verification.run([1_000, 4_000] if quick else [25_000, 100_000])
        found["ratios"] |= {name: rate for name, rate in found["verify"].items() if name in WANTED}
        database.empty(server_url)
    if "ingest" in parts:
        progress("audit ingest")
        found["ingest"] = ingest.run(rounds=5 if quick else 30, events_a_round=4_000, naive_a_round=400)
        found["ratios"] |= {name: found["ingest"][name] for name in ("ingest_vs_copy", "ingest_vs_naive")}
        ingest.clear()
        database.empty(server_url)
    if "api" in parts:
        progress("API beside FastAPI")
        found["api"] = beside(api.FASTAPI, url, found, quick)
    if "express" in parts:
        progress("API beside Express")
        found["express"] = beside(api.EXPRESS, url, found, quick)
    if "features" in parts:
        progress("API with each feature and without")
        found["features"] = features.run(url, rounds=1 if quick else 15, seconds=0.5 if quick else 1)
    if "latency" in parts:
        progress("commit to audit entry")
        found["latency"] = latency.run(url, seconds=5 if quick else 30)
    return found


def beside(peer, url: str, found: dict, quick: bool) -> dict:
    """The API's figures beside a peer's; their ratios are added to those found."""
    from tests.benchmarks import api

    figures = api.run(url, peer, rounds=1 if quick else 7, seconds=0.7 if quick else 1.5)
    found["ratios"] |= {f"{name}_vs_{peer.name}": ratio for name, ratio in api.ratios(figures).items()}
    api.clear(peer)
    return figures


def progress(part: str) -> None:
    print(f"{part} …", flush=True)


def print_table(found: dict) -> None:
    facts = found["machine"]
    print(f"\n{facts['cores']} cores {facts['processor']}, PostgreSQL {facts['postgresql_version']} ({facts['postgresql']})")
    if "verify" in found:
        from tests.benchmarks import verification

        print("\nverification of a signed log")
        for one in (*found["verify"]["verifications"], found["verify"]):
            verification.show(one)
    if "ingest" in found:
        ingest = found["ingest"]
        rates = ", ".join(f"{name} {rate:,}" for name, rate in ingest["events_a_second"].items())
        print(f"\naudit ingest, {ingest['event_bytes']}-byte events, events a second: {rates}")
        print("  recorder's time: " + ", ".join(f"{step} {share} %" for step, share in ingest["percent_of_time"].items()))
    for part, peer in {"api": "FastAPI", "express": "Express"}.items():
        if part in found:
            print_beside(found[part], peer)
    if "features" in found:
        from tests.benchmarks import features

        features.print_table(found["features"])
    if "latency" in found:
        latency = found["latency"]
        times = ", ".join(f"{name} {value} ms" for name, value in latency["audit_ms"].items())
        print(f"\ncommit to audit entry at {latency['writes_a_second']} writes a second ({latency['kafka']} broker): {times}")
        print(
            f"  {latency['acknowledged']} writes acknowledged, {latency['recorded']} recorded; memory in MB: {latency['memory_mb']}"
        )
    print()
    for name, ratio in found["ratios"].items():
        wanted = WANTED.get(name)
        held = "" if wanted is None else f"   wanted {wanted:>4}   {'reached' if ratio >= wanted else 'MISSED'}"
        print(f"{name:<24}{ratio:>7}{held}")


def print_beside(figures: dict, peer: str) -> None:
    heads = {
        "connections": 12, "TaskPulse/s": 13, f"{peer}/s": 11, "ratio": 7, "µs CPU": 8, "PostgreSQL": 12, peer: 9,
        "PostgreSQL ": 12, "broker": 8, "ratio ": 7,
    }  # fmt: skip
    print("\nAPI     " + "".join(f"{head:>{width}}" for head, width in heads.items()))
    for operation, by_connections in figures["operations"].items():
        for connections, one in by_connections.items():
            ours, theirs = one["taskpulse"], one[peer.lower()]
            print(
                f"{operation:<8}{connections:>12}{ours['rate']:>13.0f}{theirs['rate']:>11.0f}{one['rate_ratio']:>7.2f}"
                f"{ours['cpu_us']:>8.0f}{ours['database_cpu_us']:>12.0f}{theirs['cpu_us']:>9.0f}{theirs['database_cpu_us']:>12.0f}"
                f"{theirs['broker_cpu_us']:>8.0f}{one['cpu_ratio']:>7.2f}"
            )
    print("µs CPU a request: server and PostgreSQL, PostgreSQL's share beside it; a broker's own work comes on top")


if __name__ == "__main__":
    main()
