"""SubNetAct against what one would use without it: ``make bench-subnetact``, or ``python -m subnetact``.

Parts may be run one at a time (``--only``, ``--families``): results are merged into the JSON file that is there.
"""

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import torch

from subnetact.families import CASES, Case
from subnetact.parts import HUNDREDS, PARTS, apart
from subnetact.progress import Progress
from subnetact.report import write_page
from superserve.serving.worker_environment import malloc_environment


def main() -> None:
    """Measure what was asked for, and write it down."""
    args = _arguments()
    # Parts run in processes of their own, whose memory is managed as that of workers is: with glibc's defaults torch
    # maps and unmaps large activations at every batch (digits at 16 rows: 24.9 ms instead of 19).
    os.environ |= malloc_environment()
    results = json.loads(args.json.read_text()) if args.json.exists() else {}
    results["machine"] = {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory(prefix="subnetact-") as made:
        scratch = args.scratch or Path(made)
        scratch.mkdir(parents=True, exist_ok=True)
        progress = Progress()
        for part, family in _plan(args.only, args.families):
            began_s = progress.seconds
            results.setdefault(part, {})[family.name if family else "all"] = apart(
                part, family, scratch, quick=args.quick
            )
            seconds = results.setdefault("seconds", {})
            seconds[f"{part} {family.name if family else 'all'}"] = round(progress.seconds - began_s)
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(results, indent=1) + "\n")
        progress.step("done")
    if args.page is not None:
        write_page(results, args.page)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="subnetact", description=__doc__)
    names = [*PARTS, HUNDREDS]
    parser.add_argument("--json", type=Path, default=Path("runs/subnetact.json"), help="results, merged into it")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the tables as Markdown, and a figure beside")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="parts to run")
    parser.add_argument("--families", nargs="*", choices=[one.name for one in CASES], help="default: all")
    parser.add_argument("--scratch", type=Path, help="keep the made models here, for the next run")
    parser.add_argument("--quick", action="store_true", help="few subnets, short rounds: for a look, not for figures")
    return parser.parse_args()


def _plan(parts: list[str], families: list[str] | None) -> list[tuple[str, Case | None]]:
    """Parts by family; the hundreds of subnets are of one family."""
    cases = [one for one in CASES if families is None or one.name in families]
    return [(part, one) for part in parts for one in ([None] if part == HUNDREDS else cases)]


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
