"""`python -m tests.chaos [--faults N] [--seed S]`: exit status 1, and the seed, when anything is wrong."""

import argparse
import os
import secrets
import shutil
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "taskpulse.settings")

from tests.chaos.run import Run
from tests.chaos.stack import Kafka


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Random faults on a running TaskPulse.")
    parser.add_argument("--faults", type=int, default=200, metavar="N", help="how many (default 200)")
    parser.add_argument("--seed", default=secrets.token_hex(4), metavar="S", help="of the random choices (default: random)")
    parser.add_argument("--keep", action="store_true", help="keep the data and the log of a run that went well too")
    arguments = parser.parse_args()
    kafka = Kafka.from_environment()
    broker = f"Kafka at {kafka.bootstrap_servers}" if kafka else "the embedded broker"
    print(f"seed {arguments.seed}, {arguments.faults} faults, {broker}", flush=True)
    run = Run(arguments.faults, arguments.seed, kafka, lambda text: print(text, flush=True))
    outcome = run.execute()
    print(outcome, flush=True)
    if outcome.problems:
        print(f"FAILED with --seed {arguments.seed} --faults {arguments.faults}; data and log are in {run.home}", flush=True)
        return 1
    if not arguments.keep:
        shutil.rmtree(run.home, ignore_errors=True)
    print("whole: nothing lost, nothing twice, nothing out of order", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
