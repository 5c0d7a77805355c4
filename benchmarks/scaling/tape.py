"""The events of a simulated run, to be played again to a scheduler that has a core to itself."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from superserve.request import Request
from superserve.scheduling import Action, Scheduler
from superserve.serving.router_memory import settle_memory


class Event(NamedTuple):
    """A method of `Scheduler` and its arguments."""

    method: str
    now_ns: int
    arguments: tuple[Any, ...] = ()


class TapedScheduler(Scheduler):
    """Writes down what it is told.

    A scheduler is a function of its events, so that another one of the same policy decides the same when they are
    played to it: what a simulated run costs beside its scheduler (events foreseen, requests made, a log) need not be
    told apart from what the scheduler itself costs.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  (as `Scheduler` takes them)
        super().__init__(*arguments, **options)
        self.tape: list[Event] = []

    def on_arrival(self, now_ns: int, request: Request) -> Sequence[Action]:
        """See `Scheduler.on_arrival`."""
        self.tape.append(Event("on_arrival", now_ns, (request,)))
        return super().on_arrival(now_ns, request)

    def on_worker_ready(self, now_ns: int, worker: int, device: int = 0) -> Sequence[Action]:
        """See `Scheduler.on_worker_ready`."""
        self.tape.append(Event("on_worker_ready", now_ns, (worker, device)))
        return super().on_worker_ready(now_ns, worker, device)

    def on_batch_done(self, now_ns: int, worker: int, taken_ns: int, waited_ns: int = 0) -> Sequence[Action]:
        """See `Scheduler.on_batch_done`."""
        self.tape.append(Event("on_batch_done", now_ns, (worker, taken_ns, waited_ns)))
        return super().on_batch_done(now_ns, worker, taken_ns, waited_ns)

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        """See `Scheduler.on_timer`."""
        self.tape.append(Event("on_timer", now_ns))
        return super().on_timer(now_ns)


class Played(NamedTuple):
    """What came of it, the CPU time that it took, and the time on the wall."""

    actions: list[Sequence[Action]]
    cpu_ns: int
    wall_ns: int


def play(tape: Sequence[Event], scheduler: Scheduler) -> Played:
    """Tell a fresh scheduler all of it, at once; after each event it is asked for its timer, as the router asks it.

    Requests are made before the clock starts, and the garbage collector is set as the server sets it.
    """
    calls = [(getattr(scheduler, event.method), _arguments(event)) for event in tape]
    actions: list[Sequence[Action]] = []
    next_timer = scheduler.next_timer
    with _settled():
        begun_ns, wall_ns = time.process_time_ns(), time.perf_counter_ns()
        for method, arguments in calls:
            actions.append(method(*arguments))
            next_timer()
        return Played(actions, time.process_time_ns() - begun_ns, time.perf_counter_ns() - wall_ns)


@contextmanager
def _settled() -> Iterator[None]:
    """The garbage collector as the server sets it, and after that as it was."""
    usual = gc.get_threshold()
    settle_memory()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


def _arguments(event: Event) -> tuple[Any, ...]:
    """A request has its own progress written into it: each scheduler gets one of its own."""
    if event.method != "on_arrival":
        return (event.now_ns, *event.arguments)
    (told,) = event.arguments
    return event.now_ns, Request(told.id, told.arrival_ns, told.deadline_ns)
