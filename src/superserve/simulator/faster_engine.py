"""A faster engine that some subnets run on for a time: what a simulated run asks of whoever decides that."""

from collections.abc import Sequence
from typing import Protocol

from superserve.scheduling import Action, Launch


class FasterEngine(Protocol):
    """Changes what a run's scheduler plans with, and what its batches take, while the run goes on."""

    def begin(self) -> Sequence[Action]:
        """Time 0, before any worker is ready; returns what the scheduler wants done."""

    def next_ns(self) -> int:
        """When `on_time` is to be called next."""

    def on_time(self, now_ns: int) -> Sequence[Action]:
        """It is that time; returns what the scheduler wants done."""

    def observe(self, actions: Sequence[Action]) -> None:
        """What the scheduler wanted done, answers among it."""

    def factor(self, launch: Launch) -> float:
        """What a batch that begins now takes, over what it takes on the engine that runs all subnets."""
