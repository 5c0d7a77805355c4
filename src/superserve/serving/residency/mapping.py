"""A worker's part in residency: maps what becomes resident beside the batches that it runs."""

import os
from collections.abc import Callable, Sequence
from threading import Thread, get_native_id
from typing import Final

from superserve.engine import Engine, ResidentEngine

#: Told of what is resident, by the thread that has seen to it.
Tell = Callable[[tuple[int, ...]], None]

#: The lowest that still gets some time of a busy core. Under ``SCHED_IDLE`` a router on the same core could keep this
#: thread from running while it holds Python's lock, for which the one that serves would wait.
_NICENESS: Final = 19


class SubnetMapping:
    """Has subnets of one engine resident, for the thread that runs its batches.

    What goes gives its memory back at once, between two batches. What comes is mapped and tried in a thread of low
    priority: programs take milliseconds, but to open a subnet in a static runtime takes up to 200 ms, for which no
    batch is to wait. The runtimes release Python's lock meanwhile. Until it is done batches run as before.

    Args:
        engine: of whatever kind; of one that has nothing resident nothing ever is.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine if isinstance(engine, ResidentEngine) else None
        self._resident: tuple[int, ...] = ()
        self._thread: Thread | None = None

    def at_once(self, subnets: Sequence[int]) -> tuple[int, ...]:
        """Have exactly these resident, and wait for it; see `ResidentEngine.reside`."""
        self.wait()
        if self._engine is not None:
            self._resident = self._engine.reside(subnets)
        return self._resident

    def beside_batches(self, subnets: Sequence[int], tell: Tell) -> None:
        """Have exactly these resident soon. What is asked for is done and told in that order.

        Args:
            subnets: by front index.
            tell: of those that are.
        """
        self.wait()
        staying = tuple(subnet for subnet in self._resident if subnet in subnets)
        if staying != self._resident:
            self.at_once(staying)
        if self._engine is None or staying == tuple(subnets):
            tell(self._resident)
            return

        def work() -> None:
            os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICENESS)  # of this thread
            tell(self._mapped(subnets))

        self._thread = Thread(target=work)
        self._thread.start()

    def wait(self) -> None:
        """Until what was asked for is resident."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _mapped(self, subnets: Sequence[int]) -> tuple[int, ...]:
        assert self._engine is not None
        self._resident = self._engine.reside(subnets)
        return self._resident
