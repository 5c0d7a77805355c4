"""Results that outlive the command that made them: a killed run goes on where it was."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import msgspec

from superserve.experiments.code_of import code_of_bounds, code_of_policy
from superserve.experiments.parallel import run_jobs
from superserve.experiments.scenario import BoundJob, Job, work
from superserve.metrics import ResultRow
from superserve.profile import Profile


class _Kept(msgspec.Struct, frozen=True):
    """One line of the file: what came of the job with that digest."""

    key: str
    result: ResultRow | float


class KeptResults:
    """Results of jobs in a file of JSON lines; those of other code, loads or profiles are not found.

    A recording is told by its path: one that is replaced under the same name is not noticed.

    Args:
        file: appended to as jobs end; None keeps nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known = dict(_read(file)) if file is not None and file.exists() else {}

    def run(
        self, jobs: Sequence[Job | BoundJob], *, processes: int | None, on_done: Callable[[int, int], None]
    ) -> dict[Job | BoundJob, ResultRow | float]:
        """The result of every job; what is known is not run again.

        Args:
            jobs: started in this order.
            processes: how many at a time; None: one per core.
            on_done: called with (jobs done, jobs).
        """
        results = {job: self._known[key(job)] for job in jobs if key(job) in self._known}
        missing = [job for job in jobs if job not in results]
        on_done(len(results), len(jobs))
        for job, result in run_jobs(work, missing, processes=processes):
            results[job] = result
            self._keep(_Kept(key(job), result))
            on_done(len(results), len(jobs))
        return results

    def _keep(self, kept: _Kept) -> None:
        self._known[kept.key] = kept.result
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(kept) + b"\n")


@cache
def key(job: Job | BoundJob) -> str:
    """A digest of a job: its arguments, its profile, and the code that runs it."""
    profile = job.scenario.profile
    code = code_of_policy(job.policy, profile) if isinstance(job, Job) else code_of_bounds()
    return hashlib.sha256(f"{job!r} {_profile_digest(profile)} {code}".encode()).hexdigest()[:24]


@cache
def _profile_digest(profile: Profile) -> str:
    return hashlib.sha256(msgspec.json.encode(profile)).hexdigest()


def _read(file: Path) -> Iterator[tuple[str, ResultRow | float]]:
    decoder = msgspec.json.Decoder(_Kept)
    for line in file.read_bytes().splitlines():
        try:
            kept = decoder.decode(line)
        except msgspec.DecodeError:  # the last line of a killed run
            continue
        yield kept.key, kept.result
