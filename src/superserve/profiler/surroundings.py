"""Watches what else a machine does while cells are timed, from what Linux tells in ``/proc``."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from superserve.clock import NS_PER_S, Clock
from superserve.conditions import Conditions

#: Fields of a line of ``/proc/stat`` behind its name (proc(5)): the time of processes, and what a hypervisor took.
#: Interrupts are left out: most of them are our own traffic's.
_USED: Final = (0, 1, 2)
_STOLEN: Final = 7

_PROC: Final = Path("/proc")


class _Reading(NamedTuple):
    """Nanoseconds since some point; None where the kernel does not tell."""

    now: int
    waited: int | None
    used: int | None
    stolen: int | None
    ours: int | None


class Surroundings:
    """What happens on some cores beside the processes that measure, from `start` on.

    Args:
        clock: what shares are shares of.
        cores: the cores that the processes are pinned to.
        worker: process id of the worker, None if it is not of this machine.
        others: of the other processes that belong to the measurement; this one is among them anyway.
        proc: where the kernel tells.
    """

    def __init__(
        self, clock: Clock, cores: Iterable[int], worker: int | None, others: Sequence[int] = (), proc: Path = _PROC
    ) -> None:
        self._clock = clock
        self._cores = frozenset(f"cpu{core}" for core in cores)
        self._worker = worker
        self._ours = [pid for pid in (os.getpid(), worker, *others) if pid is not None]
        self._proc = proc
        self._before = self._read()

    def conditions(self, spread: float | None) -> Conditions:
        """What has happened since this object was made; ``spread`` is that of the samples."""
        before, after = self._before, self._read()
        elapsed = max(1, after.now - before.now)
        both = elapsed * len(self._cores)
        return Conditions(
            worker_waited=_share(before.waited, after.waited, elapsed),
            stolen=_share(before.stolen, after.stolen, both),
            others=_share(_less(before.used, before.ours), _less(after.used, after.ours), both),
            spread=spread,
        )

    def _read(self) -> _Reading:
        used, stolen = self._cores_ns()
        ours = [self._process_ns(pid) for pid in self._ours]
        known = [one for one in ours if one is not None]
        return _Reading(
            now=self._clock.now_ns(),
            waited=self._waited_ns(),
            used=used,
            stolen=stolen,
            ours=sum(known) if len(known) == len(ours) else None,
        )

    def _waited_ns(self) -> int | None:
        """The worker's run delay (``schedstat``, of its one thread)."""
        try:
            return int((self._proc / f"{self._worker}/schedstat").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return None

    def _cores_ns(self) -> tuple[int | None, int | None]:
        """Time of processes on the cores, and time stolen from them."""
        try:
            lines = [line.split() for line in (self._proc / "stat").read_text().splitlines()]
            cores = [[int(field) for field in line[1:]] for line in lines if line and line[0] in self._cores]
            used = sum(core[field] for core in cores for field in _USED)
            stolen = sum(core[_STOLEN] for core in cores)
        except (OSError, IndexError, ValueError):
            return None, None
        return (_ticks_ns(used), _ticks_ns(stolen)) if len(cores) == len(self._cores) else (None, None)

    def _process_ns(self, pid: int) -> int | None:
        """User and system time of all threads of a process."""
        try:
            fields = (self._proc / f"{pid}/stat").read_text().rpartition(")")[2].split()
            return _ticks_ns(int(fields[11]) + int(fields[12]))
        except (OSError, IndexError, ValueError):
            return None


def _ticks_ns(ticks: int) -> int:
    return ticks * NS_PER_S // os.sysconf("SC_CLK_TCK")


def _less(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one - other


def _share(before: int | None, after: int | None, of: int) -> float | None:
    difference = _less(after, before)
    return None if difference is None else round(min(1.0, max(0.0, difference / of)), 4)
