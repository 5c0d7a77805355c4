"""What a server holds while it serves, and whether it came to hold more."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import psutil

#: The last tenth may have so much more than the first one after warm-up.
MOST_GROWTH: Final = 0.05
_LEAST_SAMPLES: Final = 20
#: Of the requests.
WARM_UP: Final = 0.1
COLUMNS: Final = {
    "router_mb": "router, MB",
    "router_own_mb": "router's own, MB",
    "workers_mb": "workers, MB",
    "workers_own_mb": "workers' own, MB",
    "shared_mb": "shared memory, MB",
    "router_files": "router's descriptors",
    "worker_files": "workers' descriptors",
    "tasks": "tasks of the router's loop",
}
#: grpc.aio loses an array of one operation (80 bytes) with each call that its client cancels, since an answer to it is
#: begun all the same: https://github.com/grpc/grpc/issues/43360, open. A server of the bare library grows as much.
CANCELLED_CALL_MB: Final = 80e-6
_OF_ROUTER: Final = ("router_mb", "router_own_mb")
#: What may be more at the end in numbers: one that was just being opened, and a few that come and go with requests.
_MORE: Final = {"router_files": 1, "worker_files": 1, "tasks": 4}


class Sample(msgspec.Struct, frozen=True):
    """Resident memory and open descriptors, at an instant.

    ``own``: without libraries and other files, which is what can leak. ``shared_mb``: the slots for tensors, each
    counted once. (Proportional set sizes would follow other programs that come and go.)
    """

    requests: int
    seconds: float
    router_mb: float
    router_own_mb: float
    workers_mb: float
    workers_own_mb: float
    shared_mb: float
    router_files: int
    worker_files: int
    tasks: int = 0
    cancelled_grpc: int = 0
    """Calls that their clients have cancelled so far."""


class Growth(msgspec.Struct, frozen=True):
    """Medians of the first and last tenth after warm-up. ``known``: what of the growth is not ours to mend."""

    what: str
    first: float
    last: float
    known: float = 0.0

    @property
    def share(self) -> float:
        """Growth over the first, without what is known."""
        return (self.last - self.known) / self.first - 1 if self.first else float(self.last > 0)

    @property
    def is_flat(self) -> bool:
        """Whether it did not grow, within what is allowed."""
        return self.share <= MOST_GROWTH or self.last - self.first <= _MORE.get(self.what, 0)


def take_sample(router: int, requests: int, seconds: float, tasks: int = 0, cancelled_grpc: int = 0) -> Sample:
    """Of a server whose router is that process and whose workers, and their template, are its children."""
    main = psutil.Process(router)
    router_kb = _sizes_kb(main.pid)
    workers_kb, worker_files = [], 0
    for process in main.children(recursive=True):
        with suppress(OSError, psutil.NoSuchProcess):  # it may end just now
            workers_kb.append(_sizes_kb(process.pid))
            worker_files += process.num_fds()
    return Sample(
        requests=requests,
        seconds=seconds,
        router_mb=router_kb["Rss"] / 1024,
        router_own_mb=router_kb["Anonymous"] / 1024,
        workers_mb=sum(sizes["Rss"] for sizes in workers_kb) / 1024,
        workers_own_mb=sum(sizes["Anonymous"] for sizes in workers_kb) / 1024,
        shared_mb=sum(sizes["Pss_Shmem"] for sizes in (router_kb, *workers_kb)) / 1024,
        router_files=main.num_fds(),
        worker_files=worker_files,
        tasks=tasks,
        cancelled_grpc=cancelled_grpc,
    )


def growth(samples: Sequence[Sample]) -> list[Growth]:
    """Of each column.

    Raises:
        ValueError: for a run that was too short to tell.
    """
    total = samples[-1].requests if samples else 0
    begin, width = WARM_UP * total, (1 - WARM_UP) * total / 10
    first = [sample for sample in samples if begin <= sample.requests <= begin + width]
    last = [sample for sample in samples if sample.requests >= total - width]
    if len(samples) < _LEAST_SAMPLES or not first:
        raise ValueError(f"{len(samples)} samples are too few to tell growth: make more requests")

    def middle(part: Sequence[Sample], what: str) -> float:
        return float(median(getattr(sample, what) for sample in part))

    cancelled = middle(last, "cancelled_grpc") - middle(first, "cancelled_grpc")
    return [
        Growth(
            what,
            middle(first, what),
            middle(last, what),
            CANCELLED_CALL_MB * cancelled if what in _OF_ROUTER else 0.0,
        )
        for what in COLUMNS
    ]


def _sizes_kb(pid: int) -> dict[str, int]:
    """Lines of ``smaps_rollup``."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0])
    return found
