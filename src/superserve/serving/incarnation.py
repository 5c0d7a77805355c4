"""A life of a worker, whatever kind of process leads it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from superserve.serving.ipc import Done, Failed, Ready, WorkerSpec
from superserve.serving.pool import Batch


class Incarnation(Protocol):
    """A worker's process from its start to its end: one that dies gets another one, and one with other models, too.

    It tells its `IncarnationOwner` of everything, in the event loop's thread, and never while it is being called.

    Attributes:
        engines: what it said of each model when all were warm; empty before.
    """

    engines: Mapping[int, Ready]

    @property
    def pid(self) -> int | None:
        """Its process id; None until it has begun."""

    @property
    def place(self) -> str:
        """Where it runs, in words."""

    def start(self, loop: asyncio.AbstractEventLoop, limit_ns: int) -> None:
        """Start it; if it is not ready within a limit, it is killed.

        Raises:
            WorkerError: if the operating system refuses.
        """

    def launch(self, batch: Batch) -> None:
        """Hand over a batch, behind the one that it runs, if it has one and overlaps them."""

    def reside(self, model: int, subnets: Sequence[int]) -> None:
        """Have these subnets of a model resident, and no others, after the batch that runs; it tells when it has."""

    def outputs(self) -> Sequence[memoryview]:
        """The outputs of the batch that has just been answered."""

    def ask_to_stop(self, limit_ns: int, cause: str) -> None:
        """Let it end after the batches it has, if any, and kill it if that takes longer than a limit."""

    def kill(self, cause: str) -> None:
        """End it now; ``cause`` becomes part of the reason."""


class IncarnationOwner(Protocol):
    """Who is told what becomes of an incarnation."""

    def on_ready(self, incarnation: Incarnation) -> None:
        """All its models are warm."""

    def on_start_failed(self, incarnation: Incarnation, message: str) -> None:
        """It says why it cannot start; it will end."""

    def on_answer(self, incarnation: Incarnation, answer: Done | Failed) -> None:
        """It is through with its batch, or the first of them."""

    def on_resident(self, incarnation: Incarnation, subnets: Sequence[int]) -> None:
        """It has done what the last `Incarnation.reside` said; these subnets are resident."""

    def on_exit(self, incarnation: Incarnation, reason: str) -> None:
        """It has ended; last call."""

    def on_stderr(self, line: str) -> None:
        """It wrote a line to its standard error or output."""


class Spawn(Protocol):
    """Makes the incarnations of workers, which have yet to be started."""

    def __call__(
        self, worker: int, models: Mapping[int, WorkerSpec], owner: IncarnationOwner, *, background: bool
    ) -> Incarnation:
        """One for a worker.

        Args:
            worker: its number.
            models: what it holds, by the pool's numbers.
            owner: who hears of it.
            background: whether it is to load only while its core has nothing else to do.
        """
