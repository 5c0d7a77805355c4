"""Live lives: ``PYTHONPATH=tests python -m deterministic SEED [SEED...]``; of a single one, everything is told."""

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

from deterministic.scenery import Scenery
from deterministic.world import live


def main() -> int:
    """Returns the exit status: 1 if something was broken."""
    parser = argparse.ArgumentParser(prog="deterministic", description=__doc__)
    parser.add_argument("seed", type=int, help="the seed, or the first of them")
    parser.add_argument("last", type=int, nargs="?", help="the last of them")
    args = parser.parse_args()
    logging.getLogger("superserve").addHandler(logging.NullHandler())
    broken = 0
    with tempfile.TemporaryDirectory() as scratch:
        scenery = Scenery.make(Path(scratch))
        began_s = time.process_time()
        seeds = range(args.seed, (args.seed if args.last is None else args.last) + 1)
        for seed in seeds:
            life = live(seed, scenery)
            broken += bool(life.broken)
            if len(seeds) == 1:
                sys.stdout.write(life.text())
            for what in life.broken[:3]:
                sys.stdout.write(f"seed {seed}: {what}\n")
        taken_ms = (time.process_time() - began_s) * 1000 / len(seeds)
        sys.stdout.write(f"{len(seeds)} lives, {broken} with something broken, {taken_ms:.1f} ms of CPU each\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
