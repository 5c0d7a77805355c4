"""What one front end, one scheduler and one cluster sustain, and what sharding costs: docs/scaling.md.

    PYTHONPATH=benchmarks python -m scaling [--only PART...] [--data DIR] [--docs DIR]

or ``make scaling``. Parts: ``front-end`` and ``scheduler`` are measured and want the machine to themselves (half a
minute and two); ``shards`` is simulated on every core. What is left out, by part or policy, stands as it was.
"""

import argparse
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from scaling import front_end, one_scheduler, shards
from scaling.page import write
from scaling.results import Machine, Results
from subnetact.progress import Progress
from superserve.experiments.parallel import run_jobs
from superserve.processor import cpu_name

#: Of each figure that is measured.
ROUNDS: Final = 5
FRONT_END_S: Final = 3.0


def main() -> None:
    """Measure and simulate, write the page after each part."""
    options = _options()
    docs: Path = options.docs
    results = Results.read(docs)
    for part in options.only:
        results = PARTS[part](results, options)
        write(docs, results)


def _front_end(results: Results, options: argparse.Namespace) -> Results:
    found = front_end.measure(options.rounds, FRONT_END_S)
    return msgspec.structs.replace(results, front_end=found, machine=_machine())


def _scheduler(results: Results, options: argparse.Namespace) -> Results:
    progress = Progress()
    costs = [cost for cost in results.scheduler if cost.policy not in options.policies]
    for policy in options.policies:
        for situation in one_scheduler.SITUATIONS:
            for workers in one_scheduler.WORKERS:
                progress.step(f"{policy}, {workers:,} workers, {situation}")
                costs.append(one_scheduler.measure(policy, situation, workers, rounds=options.rounds))
                progress.say(f"{costs[-1].median_us:.2f} us per request")
    return msgspec.structs.replace(results, scheduler=tuple(costs), machine=_machine())


def _shards(results: Results, options: argparse.Namespace) -> Results:
    """What is done is kept at once: ``--resume`` goes on from there."""
    progress = Progress()
    jobs = shards.jobs(options.data)
    known = {shards.Key.of(one): one for one in results.shards}
    todo = [job for job in jobs if not options.resume or job.key not in known]
    for done, (job, outcomes) in enumerate(run_jobs(shards.work, todo), 1):
        known[job.key] = outcomes
        progress.step(f"{done} of {len(todo)}: {job.load.name}, {job.shards} by {job.sharding}, seed {job.seed}")
        in_order = (known[each.key] for each in jobs if each.key in known)
        results = msgspec.structs.replace(results, shards=tuple(in_order))
        results.write(options.docs)
    return results


def _machine() -> Machine:
    return Machine(
        cpu=cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )


PARTS: Final[dict[str, Callable[[Results, argparse.Namespace], Results]]] = {
    "front-end": _front_end,
    "scheduler": _scheduler,
    "shards": _shards,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scaling", description=(__doc__ or "").splitlines()[0])
    data = os.environ.get("SUPERSERVE_DATA")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="folder with traces/ in it")
    policies = one_scheduler.POLICIES
    parser.add_argument("--policies", nargs="+", choices=policies, default=policies, help="of the scheduler's part")
    parser.add_argument("--resume", action="store_true", help="of the shards' part: only what has not been run")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each measurement")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where page, JSON and figures go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
