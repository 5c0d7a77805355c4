"""Faults under load, and the promises that the server keeps or breaks.

    PYTHONPATH=benchmarks python -m chaos [--only SCENARIO...] [--seconds S] [--docs DIR] [--json FILE]

or ``make chaos``. The exit status is 1 if a promise is broken or a run says nothing. Wants the machine to itself.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import uvloop

from chaos.page import lines, write
from chaos.run import Result, run
from chaos.scenarios import SCENARIOS, Scenario
from superserve.experiments.demo import until_signalled
from superserve.model_folder import write_json


class Results(msgspec.Struct, frozen=True):
    """What is written as JSON."""

    runs: list[Result]


def main() -> int:
    """Run the scenarios."""
    options = _options()
    results = [_run(_as_told(scenario, options), options) for scenario in SCENARIOS if scenario.name in options.only]
    if options.json is not None:
        write_json(options.json, Results(results))
    return 0 if all(result.kept for result in results) else 1


def _run(scenario: Scenario, options: argparse.Namespace) -> Result:
    print(f"{scenario.title} ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="superserve-chaos-") as scratch:
        result, log = uvloop.run(until_signalled(run(scenario, options.seed, options.scratch or Path(scratch))))
    print("\n".join(lines(result)), flush=True)
    if options.docs is not None:
        write(options.docs, result, log)
    return result


def _as_told(scenario: Scenario, options: argparse.Namespace) -> Scenario:
    told = {name: getattr(options, name) for name in ("seconds", "every_s", "slo_ms", "load", "workers")}
    return replace(scenario, **{name: value for name, value in told.items() if value is not None})


def _options() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SCENARIO", help=", ".join(names))
    parser.add_argument("--seconds", type=float, help="of load, for each")
    parser.add_argument("--every-s", type=float, help="between faults")
    parser.add_argument("--slo-ms", type=float)
    parser.add_argument("--load", type=float, help="share of what the workers do at the middle subnet")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="folder that takes the logs; default: none is kept")
    parser.add_argument("--docs", type=Path, help="where page, JSON and figures go")
    parser.add_argument("--json", type=Path, help="where the results go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
