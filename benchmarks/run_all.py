"""Run every benchmark of this folder, one after the other, and keep their tables.

Run: ``python benchmarks/run_all.py [--out FOLDER]``, or ``make bench``.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# policies.py takes an hour (make bench-policies), paper_scale.py needs recorded traces (make bench-paper-scale),
# gpu_graphs.py a GPU (make bench-gpu).
NOT_BENCHMARKS = {"run_all.py", "side_by_side.py", "policies.py", "paper_scale.py", "gpu_graphs.py"}


def main() -> int:
    """Run them; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for the JSON tables")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for script in sorted(HERE.glob("*.py")):
        if script.name in NOT_BENCHMARKS:
            continue
        print(f"\n=== {script.name}", flush=True)
        command = [sys.executable, str(script), "--json", str(out / f"{script.stem}.json")]
        if subprocess.run(command, check=False).returncode:
            failed.append(script.name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
