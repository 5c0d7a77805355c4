"""Independent jobs over all cores."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, processes: int | None = None
) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, in the order in which they are done.

    Processes are spawned, not forked: forking a process that has threads may deadlock. So ``function`` must stand in a
    module, jobs and results must be picklable, and a script that calls this needs the usual ``__main__`` guard. With
    one process, or one job, everything runs here.

    Args:
        function: called once per job; what it raises is raised here.
        jobs: started in this order.
        processes: how many at a time; default: one per core that this process may use.
    """
    count = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    if count <= 1:
        for job in jobs:
            yield job, function(job)
        return
    pool = ProcessPoolExecutor(count, get_context("spawn"))
    try:
        started: dict[Future[Result], Job] = {pool.submit(function, job): job for job in jobs}
        for future in as_completed(started):
            # Results may be large: none is kept once it is handed on.
            yield started.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)
