"""What a server holds while it serves, and whether it came to hold more."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import psutil

#: The last tenth may have so much more than the first one after warm-up.
MOST_GROWTH: Final = 0.05
#: Of the requests.
WARM_UP: Final = 0.1
COLUMNS: Final = {
    "router_mb": "router, MB",
    "workers_mb": "workers, MB",
    "shared_mb": "shared memory, MB",
    "router_files": "router's descriptors",
    "worker_files": "workers' descriptors",
}


class Sample(msgspec.Struct, frozen=True):
    """Proportional set sizes (shared pages divided among those who map them) and open descriptors, at an instant.

    ``shared_mb`` is of all processes: slots for tensors, the part of the others' figures that nobody owns alone.
    """

    requests: int
    seconds: float
    router_mb: float
    workers_mb: float
    shared_mb: float
    router_files: int
    worker_files: int


class Growth(msgspec.Struct, frozen=True):
    """Medians of the first and last tenth after warm-up."""

    what: str
    first: float
    last: float

    @property
    def share(self) -> float:
        """Growth over the first."""
        return self.last / self.first - 1 if self.first else float(self.last > 0)

    @property
    def is_flat(self) -> bool:
        """Whether it did not grow, within what is allowed. Descriptors may differ by one that was being opened."""
        return self.share <= MOST_GROWTH or (self.what.endswith("files") and self.last - self.first <= 1)


def take_sample(router: int, requests: int, seconds: float) -> Sample:
    """Of a server whose router is that process and whose workers are its children."""
    main = psutil.Process(router)
    workers = main.children(recursive=True)
    sizes = [_sizes_kb(process.pid) for process in (main, *workers)]
    return Sample(
        requests=requests,
        seconds=seconds,
        router_mb=sizes[0][0] / 1024,
        workers_mb=sum(own for own, _ in sizes[1:]) / 1024,
        shared_mb=sum(shared for _, shared in sizes) / 1024,
        router_files=main.num_fds(),
        worker_files=sum(process.num_fds() for process in workers),
    )


def growth(samples: Sequence[Sample]) -> list[Growth]:
    """Of each column."""
    total = samples[-1].requests
    begin, width = WARM_UP * total, (1 - WARM_UP) * total / 10
    first = [sample for sample in samples if begin <= sample.requests <= begin + width]
    last = [sample for sample in samples if sample.requests >= total - width]
    return [
        Growth(
            what,
            float(median(getattr(sample, what) for sample in first)),
            float(median(getattr(sample, what) for sample in last)),
        )
        for what in COLUMNS
    ]


def _sizes_kb(pid: int) -> tuple[int, int]:
    """Proportional set size, and how much of it is shared memory."""
    found = {"Pss": 0, "Pss_Shmem": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0])
    return found["Pss"], found["Pss_Shmem"]
