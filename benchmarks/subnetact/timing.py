"""Interleaved timing on one core, and what is kept of it."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch

#: Least rounds of a measurement, however long they take.
MIN_ROUNDS: Final = 3
MAX_ROUNDS: Final = 30


class Spread(NamedTuple):
    """Median and range of some durations, in microseconds, and how many there were."""

    median_us: float
    min_us: float
    max_us: float
    rounds: int

    @classmethod
    def of(cls, values_us: list[float]) -> "Spread":
        """Of these."""
        return cls(statistics.median(values_us), min(values_us), max(values_us), len(values_us))

    def json(self) -> dict[str, float]:
        """For the results file."""
        return dict(zip(self._fields, (round(value, 2) for value in self), strict=True))


def one_thread_on_one_core() -> int:
    """Pin this process, and let torch use one thread; returns the core."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    return core


def interleaved(alternatives: Mapping[str, Callable[[], Any]], budget_s: float) -> dict[str, Spread]:
    """Time alternatives in turns, after one untimed round, until the budget is spent.

    At least `MIN_ROUNDS` rounds, at most `MAX_ROUNDS`; drift of the machine hits all alternatives alike.
    """
    times: dict[str, list[float]] = {name: [] for name in alternatives}
    for work in alternatives.values():
        work()
    gc.collect()
    began_s, rounds = time.perf_counter(), 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() - began_s < budget_s):
        for name, work in alternatives.items():
            times[name].append(timed_us(work))
        rounds += 1
    return {name: Spread.of(values) for name, values in times.items()}


def timed_us(work: Callable[[], Any]) -> float:
    """Microseconds of one call."""
    start_ns = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - start_ns) / 1000
