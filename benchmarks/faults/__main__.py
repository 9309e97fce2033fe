"""Kill everything, again and again, and see whether anybody was charged wrongly.

    python -m benchmarks.faults --kills 200

Two gateways, PostgreSQL and two engine replicas, all real processes, under load from callers of every kind: keys with
and without an Idempotency-Key, bulk, an account that is soon empty, callers who leave, nonsense, wallets and JWTs with
clocks that are off, payments. At random moments each process in turn is killed with SIGKILL, and in between connections
are terminated, reset, cut and made mute, the database is restarted, one of its processes killed, its disk filled, and a
gateway stopped. Every so often everybody pauses and the books are checked: ``docs/discussions/failures.md``.

Prints a JSON report; exit code 1 when anything was wrong.
"""

import argparse
import asyncio
import json
import math
import random
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.faults.suite import Plan, Report, run


def tell(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


async def until_told(plan: Plan, home: Path) -> Report:
    """The report; cancelled, and cleaned up after, on SIGTERM."""
    work = asyncio.ensure_future(run(plan, home, tell))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    return await work


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--harms", type=int, help="of the other kinds; else a fifth of the kills")
    parser.add_argument("--check-every", type=int, default=25, help="harms between two looks at the books")
    parser.add_argument("--pause-s", type=float, default=0.15, help="mean pause of each of 11 callers")
    parser.add_argument("--minutes", type=float, default=math.inf, help="break nothing new after so long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args()
    harms = args.kills // 5 if args.harms is None else args.harms
    tell(f"seed {args.seed}")
    plan = Plan(args.seed, args.kills, harms, args.check_every, args.pause_s, args.minutes * 60)
    with tempfile.TemporaryDirectory(prefix="vectoll-faults-") as home:
        report = asyncio.run(until_told(plan, Path(home)))
    print(json.dumps(report.as_json(), indent=2))
    sys.exit(bool(report.violations))


if __name__ == "__main__":
    main()
