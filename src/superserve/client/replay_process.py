"""A replay in a process of its own: ``python -m superserve.client.replay_process JOB``.

The job is a JSON object (`Job`) as the only argument. Progress goes to standard output, one JSON object (`Progress`)
per line; the result to a file. Whoever draws the progress therefore disturbs no send schedule.
"""

import gc
import os
import resource
import sys
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from superserve.client.examples import examples_from_folder
from superserve.client.replay import replay
from superserve.client.result import Progress
from superserve.model_folder import ModelFolder
from superserve.traces.trace import Trace


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to replay; see `replay`."""

    trace: str
    """A canonical trace file."""
    url: str
    model: str
    """A bundled model or a model folder with test data, served under its own name."""
    slo_ms: float
    seed: int
    result: str
    """The .npz file to write."""
    subnet_ids: tuple[str, ...] = ()
    """The front of the profile that the server plans with; empty: the subnets that answer."""
    cores: tuple[int, ...] = ()
    """The cores to run on; empty: any."""


def run_job(job: Job) -> None:
    """Replay, report, save."""
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    allow_many_connections()
    folder = ModelFolder.resolve(job.model)
    trace = Trace.load(Path(job.trace))
    examples = examples_from_folder(folder, np.random.default_rng(job.seed))
    # What is loaded now stays: a collection that looks at it again would only delay requests.
    gc.collect()
    gc.freeze()
    result = uvloop.run(
        replay(
            trace,
            job.url,
            folder.config.name,
            examples,
            slo_ms=job.slo_ms,
            seed=job.seed,
            subnet_ids=job.subnet_ids,
            on_progress=_print_progress,
        )
    )
    result.save(Path(job.result))


def allow_many_connections() -> None:
    """Raise the soft limit on open files to the hard one: every request under way holds a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _print_progress(progress: Progress) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    run_job(msgspec.json.decode(sys.argv[1], type=Job))
