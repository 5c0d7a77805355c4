"""SuperServe and its peers, side by side: ``make bench-peers``.

    PYTHONPATH=benchmarks python -m peers [--quick] [--only PEER...] [--jobs JOB...] [--again]
                                          [--json FILE] [--runs DIR] [--docs DIR]

Results are kept per peer, and a later run goes on with those that are missing; ``--again`` measures anew. Wants the
machine to itself for half an hour.
"""

import argparse
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from peers.catalog import OURS, PEERS
from peers.figures import Own, Pair, read_own, read_pair
from peers.jobs import CNN, CNN_MODEL, JOBS
from peers.measure import FULL, QUICK, Plan, measure_pair
from peers.own import measure_own
from peers.processes import end_leftovers
from peers.report import write_report
from superserve.model_folder import ModelFolder, write_json
from superserve.profiler import find_profile, measure, save_profile
from superserve.serving.choice import choose_engine


def main() -> int:
    """Measure what is asked for, then write page and figure; the exit status is 1 if anything failed."""
    options = _options()
    plan = replace(QUICK if options.quick else FULL, jobs=tuple(options.jobs))
    folder: Path = options.runs
    folder.mkdir(parents=True, exist_ok=True)
    end_leftovers(folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    # A cache of their own: no compiled code is in it (the peers run plain torch, too), and a profile of this day.
    os.environ["SUPERSERVE_CACHE"] = str((folder / f"cache{'-quick' if plan.quick else ''}").resolve())
    if CNN.name in plan.jobs:
        _profile()
    failed = False
    for number, name in enumerate(options.only, 1):
        print(f"[{number}/{len(options.only)}] {name}", flush=True)
        failed |= not _measure(name, plan, folder, again=options.again)
    if options.docs is not None:
        write_report(folder, options.docs)
    if options.json is not None:
        pairs = [pair for name in PEERS if (pair := read_pair(folder, name)) is not None]
        options.json.write_bytes(msgspec.json.encode({"peers": pairs, "superserve": read_own(folder)}))
    return 1 if failed else 0


def _profile() -> None:
    """The profile that our servers plan with, as `superserve profile` measures it: the worker has a core to itself.

    On the servers' one core the profiler's own traffic would take half of it, far more than the router does.
    """
    model = ModelFolder.resolve(CNN_MODEL)
    choice = choose_engine(model)
    if find_profile(model, choice) is None:
        print(f"measuring a profile of {CNN_MODEL}", flush=True)
        save_profile(model, measure(model, quick=True, choice=choice).profile)


def _measure(name: str, plan: Plan, folder: Path, *, again: bool) -> bool:
    """Measure what is not there yet; a shorter plan's figures count as missing."""
    began_s = time.monotonic()

    def report(line: str) -> None:
        print(f"  {time.monotonic() - began_s:5.0f} s  {line}", flush=True)

    def keep(result: Pair | Own) -> None:
        write_json(folder / f"{name}.json", result)

    quick = plan.quick
    if name == OURS.name:
        own = read_own(folder)
        if again or own is None or own.quick > quick:
            own = Own(quick=quick)
        measure_own(own, plan, folder, report, keep)
        return not own.errors
    pair = read_pair(folder, name)
    if again or pair is None or pair.quick > quick:
        pair = Pair(peer=name, quick=quick)
    measure_pair(pair, plan, folder, report, keep)
    return not pair.errors


def _options() -> argparse.Namespace:
    names = [OURS.name, *PEERS]
    parser = argparse.ArgumentParser(prog="peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round of each: to see that it works")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PEER", help=", ".join(names))
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="which of the two jobs")
    parser.add_argument("--again", action="store_true", help="measure anew what has been measured")
    parser.add_argument("--runs", type=Path, default=Path("runs/peers"), help="where results are kept per peer")
    parser.add_argument("--docs", type=Path, default=None, help="where page and figure go")
    parser.add_argument("--json", type=Path, default=None, help="all results in one file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
