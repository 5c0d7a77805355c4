"""The command line that every server of this folder has, and what they share."""

import argparse
import gc
from dataclasses import dataclass

from peers.jobs import Job, job_named


@dataclass(frozen=True)
class Arguments:
    """What to serve, where, and with batches of how many rows (1: no batching)."""

    job: Job
    port: int
    rows: int
    wait_us: int


def parse() -> Arguments:
    """The arguments of this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True, help="rows of the largest batch")
    parser.add_argument("--wait-us", type=int, required=True, help="how long a batch may wait to be filled")
    options, _ = parser.parse_known_args()  # servers with a command line of their own read the same one
    return Arguments(job_named(options.job), options.port, options.rows, options.wait_us)


def settle() -> None:
    """Keep full collections from pausing the server: what has been imported lives on."""
    gc.collect()
    gc.freeze()
