"""Takes away what the server does about faults, one after the other; each time a test has to fail: ``make mutants``.

Every change is made in a copy of the package, which the test then imports.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mutants.table import MUTANTS, ROOT, Mutant

#: What pytest says if tests have failed; anything else means that they did not run.
_FAILED = 1

#: A mutant may make a test wait for ever. The simulation itself knows when nothing will ever happen.
_LIMIT_S = 120.0


def main() -> int:
    """Returns the exit status: 1 if a fault's handling can be taken away without a test that notices."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "superserve"
        _copy(source)
        if _run(Path(scratch), sorted({mutant.test for mutant in MUTANTS})) != 0:
            sys.stderr.write("the tests fail without any mutant\n")
            return 1
        missed = [mutant for mutant in MUTANTS if not _noticed(mutant, source)]
    sys.stdout.write(f"{len(MUTANTS) - len(missed)} of {len(MUTANTS)} noticed\n")
    return 1 if missed else 0


def _noticed(mutant: Mutant, source: Path) -> bool:
    _copy(source)
    mutant.apply(source)
    noticed = _run(source.parent, [mutant.test]) == _FAILED
    test = mutant.test.rpartition("::")[2]
    sys.stdout.write(f"{'noticed' if noticed else 'MISSED':8} {mutant.fault:54} {mutant.file:28} {test}\n")
    sys.stdout.flush()
    return noticed


def _copy(source: Path) -> None:
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "superserve", source, ignore=shutil.ignore_patterns("__pycache__"))


def _run(source: Path, tests: Sequence[str]) -> int:
    """pytest's exit status; as if tests had failed if it takes too long."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    quiet = subprocess.DEVNULL
    try:
        return subprocess.run(
            command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet, timeout=_LIMIT_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return _FAILED


if __name__ == "__main__":
    sys.exit(main())
