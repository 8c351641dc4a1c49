"""`make plans`: each list of the API at 1,000 and at 1,000,000 tasks: its plan, the rows and blocks it looks at, its time.

    python -m tests.benchmarks.million [--tasks 1000000] [--plans]

PostgreSQL makes the tasks in databases of the script's own (`tests.benchmarks.task_fill`). The table says what a list costs at
both sizes and by how much more that is; bench-plans.json at the root of the repository has it too.

A list is flat where it looks at no more than 1.2 times the rows, or at 3 for each row of a page; bounded where it passes over
no more than PASSED_OVER for each, which depends on the share of tasks that match and not on their number. It ends with status
1 where one is neither and not known to grow (`tests.benchmarks.task_lists`), reads a table, or sorts more than 60 pages.
"""

import argparse
import json
import statistics
import sys
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks import database, machine
from tests.benchmarks.plans import LIMIT, Look, most_passed_over
from tests.benchmarks.task_fill import Team, fill
from tests.benchmarks.task_lists import FLAT, GROWING

RESULT = Path(__file__).resolve().parent.parent.parent / "bench-plans.json"
SMALL = 1_000
MOST_RATIO = 1.2
MOST_TIMES = 8
MOST_SECONDS_OF_WORDS = 120
_ROUNDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.million")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--plans", action="store_true", help="the plan of each list too")
    options = parser.parse_args()
    with database.server() as (url, kind), database.fresh_database(url), _second_connection(url) as connections:
        teams = {}
        for size, one in zip((SMALL, options.tasks), connections, strict=True):
            with _in_use(one):
                teams[size] = fill(size)
            seconds = ", ".join(f"{what} {its:.0f} s" for what, its in teams[size].seconds.items())
            print(f"{size:,} tasks on PostgreSQL ({kind}): {seconds}", flush=True)
            if teams[size].seconds["words"] > MOST_SECONDS_OF_WORDS * max(size / 1_000_000, 1):
                sys.exit(f"the words of {size:,} tasks took more than {MOST_SECONDS_OF_WORDS} s a million")
        found = report(teams, connections, options.plans)
        facts = {**machine.facts(), "postgresql": kind, "filled_in_seconds": {size: team.seconds for size, team in teams.items()}}
    RESULT.write_text(json.dumps({"sizes": list(teams), "machine": facts, "lists": found}, indent=2) + "\n")
    print(f"details in {RESULT.name}")
    sys.exit(1 if any(one["wrong"] for one in found) else 0)


@contextmanager
def _second_connection(url: str):
    """Connections to two migrated databases: the present one, and a copy of it."""
    import psycopg
    from django.db import connection, connections

    name = connection.settings_dict["NAME"]
    connection.close()
    copy = f"{name}_small"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {copy} TEMPLATE {name}")
        large = connections["default"]
        small = large.copy()
        small.settings_dict["NAME"] = copy
        yield small, large
        small.close()
        server.execute(f"DROP DATABASE {copy} WITH (FORCE)")


@contextmanager
def _in_use(wrapper):
    """It is Django's default connection."""
    from django.db import connections

    before, connections["default"] = connections["default"], wrapper
    yield
    connections["default"] = before


def report(teams: dict[int, Team], connections: tuple, plans: bool) -> list[dict]:
    """What each list costs, printed and given; `wrong` says where one that is to be flat or bounded is not."""
    print(f"\n{'':64} {'rows looked at':>23} {'blocks':>21} {'ms':>21}")
    print(f"{'list':64} {'small':>8} {'large':>8} {'×':>5} {'small':>7} {'large':>7} {'×':>5} {'small':>7} {'large':>7} {'×':>5}")
    found = []
    for name in [*FLAT, *GROWING]:
        looks = [Look(name, team) for team in teams.values()]
        for number in range(_ROUNDS):  # in turn, so that what else the machine does meets both
            for one, wrapper in zip(looks, connections, strict=True):
                with _in_use(wrapper):
                    one.read(show=plans and number == 0)
        found.append(compared(name, *looks))
        figures = found[-1]
        columns = [
            f"{figures[what][0]:>{width}.{digits}f} {figures[what][1]:>{width}.{digits}f} {figures[f'{what}_ratio']:>5.1f}"
            for what, width, digits in (("looked_at", 8, 0), ("blocks", 7, 0), ("ms", 7, 2))
        ]
        print(f"{name or 'all':64} {' '.join(columns)}  {figures['is']} {', '.join(figures['wrong'])}", flush=True)
    still = [one["ms_ratio"] for one in found if one["is"] != "grows"]
    print(f"of those that do not grow, time at the larger size: median {statistics.median(still):.2f} times, most {max(still):.2f}")
    return found


def compared(name: str, small: Look, large: Look) -> dict:
    figures = {
        what: (round(getattr(small, of), 3), round(getattr(large, of), 3))
        for what, of in (("looked_at", "looked_at"), ("blocks", "blocks"), ("ms", "milliseconds"))
    }
    ratios = {
        f"{what}_ratio": round(values[1] / max(values[0], 0.001 if what == "ms" else 1), 2) for what, values in figures.items()
    }
    grows, wrong = name in GROWING, [] if name in GROWING else list(large.wrong)
    flat = large.looked_at <= max(small.looked_at * MOST_RATIO, 3 * (LIMIT + 1))
    if not grows and not flat and large.looked_at > most_passed_over(name):
        wrong.append("looks at more rows")
    # Far beyond what noise does: a plan that is made for any value at all was another one than that which was looked at.
    if not grows and ratios["ms_ratio"] > MOST_TIMES:
        wrong.append("takes much longer")
    kind = "grows" if grows else "flat" if flat else "bounded"
    return {"list": name, **figures, **ratios, "is": kind, "why": GROWING.get(name), "wrong": wrong}


if __name__ == "__main__":
    main()
