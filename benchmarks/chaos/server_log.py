"""What the log of a server says of its workers."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from chaos.faults import Fault

_LINE: Final = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \w+ superserve\.serving\.supervisor: worker (\d+) (.*)"
)
_LOST: Final = re.compile(r"is lost: process (\d+) ")


class Replacement(NamedTuple):
    """How long it took from a fault until the server had lost its worker, and had another in its place, in seconds.

    None for what did not happen.
    """

    lost_s: float | None
    ready_s: float | None


class Event(NamedTuple):
    """A line of the log: a worker was lost, with its process, or is ready."""

    epoch_s: float
    worker: int
    lost_pid: int | None


def events(lines: Iterable[str]) -> list[Event]:
    """The losses and the returns of workers."""
    found = []
    for line in lines:
        matched = _LINE.match(line)
        if matched is None:
            continue
        epoch_s, what = datetime.strptime(matched[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), matched[3]  # noqa: DTZ007
        lost = _LOST.match(what)
        if lost is not None or what.startswith("is ready"):
            found.append(Event(epoch_s, int(matched[2]), int(lost[1]) if lost else None))
    return found


def replacement(fault: Fault, log: Sequence[Event]) -> Replacement:
    """What became of the worker that something was done to."""
    lost = next((event for event in log if event.lost_pid == fault.pid), None)
    if lost is None:
        return Replacement(None, None)
    ready = next(
        (
            event
            for event in log
            if event.worker == lost.worker and event.lost_pid is None and event.epoch_s >= lost.epoch_s
        ),
        None,
    )
    return Replacement(lost.epoch_s - fault.epoch_s, ready.epoch_s - fault.epoch_s if ready else None)
