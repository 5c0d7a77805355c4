"""What may go otherwise than with identical workers that never fail and clients that never give up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_MS
from superserve.errors import ConfigError


@dataclass(frozen=True)
class WorkerEvent:
    """A worker is lost, with the batch it runs, or comes (back), warm and idle."""

    at_ns: int
    worker: int
    alive: bool


@dataclass(frozen=True, eq=False)
class Conditions:
    """Of a simulated run; the defaults are the ordinary ones.

    Attributes:
        slowdown: per worker, what its latencies are multiplied by; empty: 1 for all. The dispatch overhead is not.
            Policies know one profile and nothing of this.
        worker_events: losses and returns, in any order. Workers 0, 1, ... are there from the start; a return under
            another id adds a worker.
        actuation_ns: added to a batch whose subnet is not the one that its worker ran last, its first batch excepted.
            Policies know nothing of it.
        patience_ns: int64, one per request: its client cancels when it has waited so long without an answer; None:
            nobody cancels.

    Raises:
        ConfigError: for a slowdown that is not positive or a negative delay.
    """

    slowdown: Sequence[float] = ()
    worker_events: Sequence[WorkerEvent] = ()
    actuation_ns: int = 0
    patience_ns: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if not all(0 < factor < np.inf for factor in self.slowdown):
            raise ConfigError(f"slowdown {tuple(self.slowdown)}: every factor must be above 0")
        if self.actuation_ns < 0 or any(event.at_ns < 0 for event in self.worker_events):
            raise ConfigError("actuation_ns and the instants of worker events must be at least 0")

    def factor(self, worker: int) -> float:
        """What the latencies of a worker are multiplied by."""
        return self.slowdown[worker] if worker < len(self.slowdown) else 1.0

    def alike(self, workers: int) -> bool:
        """Whether every worker that is ever there takes the same time for a batch."""
        return len({self.factor(worker) for _, here in self.alive(workers) for worker in here}) <= 1

    def check(self, workers: int, requests: int) -> None:
        """That there are factors for all workers, patiences for all requests, and that events make sense.

        Raises:
            ConfigError: if not, or if a worker is lost that is not there, or comes that is.
        """
        if self.slowdown and len(self.slowdown) < workers:
            raise ConfigError(f"slowdown has {len(self.slowdown)} factors for {workers} workers")
        if self.patience_ns is not None and len(self.patience_ns) != requests:
            raise ConfigError(f"patience_ns has {len(self.patience_ns)} values for {requests} requests")
        here = set(range(workers))
        for event in self._in_order():
            if event.alive == (event.worker in here):
                state = "is there already" if event.alive else "is not there"
                raise ConfigError(f"worker event at {event.at_ns} ns: worker {event.worker} {state}")
            here ^= {event.worker}

    def alive(self, workers: int) -> list[tuple[int, frozenset[int]]]:
        """Which workers are there from each of some instants on, the first being 0."""
        here = frozenset(range(workers))
        changes = [(0, here)]
        for event in self._in_order():
            here = here | {event.worker} if event.alive else here - {event.worker}
            changes.append((event.at_ns, here))
        return changes

    def _in_order(self) -> list[WorkerEvent]:
        return sorted(self.worker_events, key=lambda event: event.at_ns)


#: Identical workers that stay, clients that wait.
ORDINARY = Conditions()


def losses(workers: Sequence[int], every_s: float) -> tuple[WorkerEvent, ...]:
    """One worker after another is lost, the first after ``every_s`` seconds (the paper's fault test, section 6.4)."""
    return tuple(
        WorkerEvent(round(number * every_s * 1e9), worker, alive=False) for number, worker in enumerate(workers, 1)
    )


def impatient(conditions: Conditions, mean_ms: float, requests: int, rng: np.random.Generator) -> Conditions:
    """Clients cancel after exponentially distributed waits: the usual model of impatience (Palm 1957, Erlang A).

    Args:
        conditions: what else holds.
        mean_ms: of the waits.
        requests: how many the trace has.
        rng: source of the waits.
    """
    waits_ns = np.rint(rng.exponential(mean_ms * NS_PER_MS, requests)).astype(np.int64)
    return replace(conditions, patience_ns=waits_ns)
