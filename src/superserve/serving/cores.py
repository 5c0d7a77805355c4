"""Which core the router and each worker run on.

A worker that shares its core with the router is slowed by every request that arrives, and what it was profiled at no
longer holds. So the router keeps the first core to itself as long as there is another one.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from superserve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CorePlan:
    """The router's core, and the core of each worker; ``shared`` says whether any core has more than one of them."""

    router: int
    workers: tuple[int, ...]

    @property
    def shared(self) -> bool:
        """Whether any two of them share a core, so that they slow each other."""
        cores = (self.router, *self.workers)
        return len(set(cores)) < len(cores)


def available_cores() -> tuple[int, ...]:
    """The cores that this process may run on, in rising order."""
    return tuple(sorted(os.sched_getaffinity(0)))


def plan_cores(cores: Sequence[int], workers: int | None = None) -> CorePlan:
    """Give the router the first core and every worker one of the others, in turn.

    Args:
        cores: the cores to use; at least one.
        workers: how many workers; None means one for each core that the router leaves, and at least one.

    Raises:
        ConfigError: if ``workers`` is less than 1.
    """
    router, others = cores[0], cores[1:] or cores[:1]
    count = len(others) if workers is None else workers
    if count < 1:
        raise ConfigError(f"workers = {count}: at least one is needed")
    return CorePlan(router, tuple(others[worker % len(others)] for worker in range(count)))


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep the calling thread on one core inside the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
