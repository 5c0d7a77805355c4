"""The queue of waiting requests with what admission asks of it: how many rows of which kind stand before a deadline."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from superserve.request import Request
from superserve.scheduling.queue import EDFQueue
from superserve.scheduling.victims import level


class Kind(NamedTuple):
    """What requests have to be told apart by."""

    level: int
    """Of priority, as `superserve.scheduling.victims.level` has it."""
    fastest: int
    """The fastest subnet that reaches the accuracy floor."""
    bucket: int
    """Of the profile."""


class WaitingQueue(EDFQueue):
    """An `EDFQueue` that counts rows by kind once there is more than one kind.

    Usually all requests are of the plain kind, and it costs nothing. From the first other one on, the requests of each
    kind stand in a queue of their own as well, until nothing waits any more.

    Args:
        fastest: by accuracy floor, the fastest subnet that reaches it.
    """

    def __init__(self, fastest: Callable[[float], int]) -> None:
        super().__init__()
        self._fastest = fastest
        self._kinds: dict[Kind, EDFQueue] = {}
        self.is_mixed = False
        """Whether requests of other kinds than the plain one wait."""

    def push(self, request: Request) -> None:
        """See `EDFQueue.push`."""
        if self.is_mixed or request.priority > 1 or request.min_accuracy > 0.0 or request.bucket:
            if not self.is_mixed:
                self.is_mixed = True
                for waiting in self:
                    self._of(waiting).push(waiting)
            self._of(request).push(request)
        EDFQueue.push(self, request)  # `super()` would add a tenth to an arrival

    def pop(self) -> Request:
        """See `EDFQueue.pop`."""
        request = super().pop()
        if self.is_mixed:
            self._gone(request)
        return request

    def take(self, max_rows: int, max_floor: float, first: int = 0) -> list[Request]:
        """See `EDFQueue.take`."""
        taken = super().take(max_rows, max_floor, first)
        if self.is_mixed:
            for request in taken:
                self._gone(request)
        return taken

    def remove(self, request: Request) -> bool:
        """See `EDFQueue.remove`."""
        found = super().remove(request)
        if found and self.is_mixed:
            self._gone(request)
        return found

    def sort_anew(self) -> None:
        """Other subnets are the fastest ones now: tell kinds apart by them."""
        waiting = list(self) if self.is_mixed else []
        self._kinds.clear()
        for request in waiting:
            self._of(request).push(request)

    def rows_of_kinds(self, deadline_ns: int) -> Iterator[tuple[Kind, int]]:
        """Each kind with its rows that are due by an instant."""
        if not self._kinds:
            yield Kind(1, self._fastest(0.0), 0), self.rows_until(deadline_ns)
        for kind, queue in self._kinds.items():
            yield kind, queue.rows_until(deadline_ns)

    def _of(self, request: Request) -> EDFQueue:
        kind = self._kind(request)
        queue = self._kinds.get(kind)
        if queue is None:
            queue = self._kinds[kind] = EDFQueue()
        return queue

    def _gone(self, request: Request) -> None:
        queue = self._of(request)
        if queue.peek() is request:
            queue.pop()
        else:
            queue.remove(request)
        if not queue:
            del self._kinds[self._kind(request)]
            self.is_mixed = bool(self._kinds)

    def _kind(self, request: Request) -> Kind:
        return Kind(level(request), self._fastest(request.min_accuracy), request.bucket)
