"""Environment variables that worker processes run under. They act on libraries as these are loaded."""

import os
from typing import Final

#: glibc gives freed memory back to the kernel and maps large blocks afresh by default, so that every batch pays page
#: faults for the same activations again. With these it keeps what it has: batch 16 of a small residual network took
#: 25.6 ms instead of 47.8 (largest subnet) and 5.4 instead of 12.8 (``benchmarks/worker_pool.py``, 2-core machine).
#: The user's own settings win.
MALLOC_ENVIRONMENT: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    "MALLOC_TOP_PAD_": str(64 << 20),
}

#: A model that is loaded in a thread of its own leaves what it has freed to the thread that serves.
_ONE_ARENA: Final = {"MALLOC_ARENA_MAX": "1"}

#: One thread per worker: a second one would fight with the worker on the next core.
THREAD_ENVIRONMENT: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


def malloc_environment() -> dict[str, str]:
    """`MALLOC_ENVIRONMENT`, but what this process has been given goes first."""
    return {name: os.environ.get(name, value) for name, value in MALLOC_ENVIRONMENT.items()}


def worker_environment() -> dict[str, str]:
    """All that a worker's environment has besides this process's."""
    return {**malloc_environment(), **_ONE_ARENA, **THREAD_ENVIRONMENT}
