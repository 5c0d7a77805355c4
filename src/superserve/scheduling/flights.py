"""The batches of a model that workers have been given and have not answered."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from superserve.request import Request
from superserve.scheduling.actions import Launch


class Overdue(NamedTuple):
    """A batch that should have been answered. Of its requests ``kept`` have no time left for another worker."""

    launch: Launch
    kept: Sequence[Request]


class Flights:
    """One batch per worker, or two where workers begin the next one before they answer: answers come in that order.

    Attributes:
        first: by worker, the batch of this model that it answers next.
        second: the one after that, if it is of this model, too.
        overdue: by worker, those that should have been answered. A worker that has any has no others.
    """

    def __init__(self) -> None:
        self.first: dict[int, Launch] = {}
        self.second: dict[int, Launch] = {}
        self.overdue: dict[int, list[Overdue]] = {}

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self.first) + len(self.second) + sum(map(len, self.overdue.values()))

    def __contains__(self, worker: int) -> bool:
        """Whether a worker has any."""
        return worker in self.first or worker in self.overdue

    def requests(self) -> Iterator[Request]:
        """Those of the batches; of overdue ones those that wait for nothing else."""
        for launch in chain(self.first.values(), self.second.values()):
            yield from launch.requests
        for overdue in chain.from_iterable(self.overdue.values()):
            yield from overdue.kept

    def on(self, worker: int) -> list[Launch]:
        """Those that a worker has and that are not overdue, the one that it answers next first."""
        return [batches[worker] for batches in (self.first, self.second) if worker in batches]

    def add(self, launch: Launch) -> None:
        """A worker was given a batch, after the one that it has, if any."""
        batches = self.second if launch.worker in self.first else self.first
        batches[launch.worker] = launch

    def pop(self, worker: int) -> tuple[Launch, Overdue | None]:
        """The batch that a worker answers next, which is one no more; and what is known of it if it is overdue."""
        if worker in self.overdue:
            overdue = self.overdue[worker].pop(0)
            if not self.overdue[worker]:
                del self.overdue[worker]
            return overdue.launch, overdue
        launch = self.first.pop(worker)
        if worker in self.second:
            self.first[worker] = self.second.pop(worker)
        return launch, None

    def suspend(self, worker: int, overdue: Sequence[Overdue]) -> None:
        """The batches of a worker, all of them, should have been answered."""
        self.first.pop(worker, None)
        self.second.pop(worker, None)
        self.overdue[worker] = list(overdue)
