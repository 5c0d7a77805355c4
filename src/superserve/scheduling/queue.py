"""The queue of waiting requests, earliest deadline first."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice
from typing import Final

from superserve.request import Request

_Entry = tuple[int, int, Request]

#: Consumed entries are cut off once there are this many and they are half of the list: amortised O(1).
_COMPACT_AT: Final = 512


class EDFQueue:
    """Requests in order of ``(deadline_ns, id)``.

    A sorted list whose consumed front is cut off now and then. Under one SLO a new request belongs at the end, so
    `push` is O(1); elsewhere it is a binary search and a move of pointers. Against a binary heap it gives ordered
    peeks at any depth and cancellation for free, which policies and clients need (``benchmarks/queue_structures.py``).
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._first = 0
        self.rows = 0
        """Rows of all waiting requests."""

    def __len__(self) -> int:
        return len(self._entries) - self._first

    def push(self, request: Request) -> None:
        """Add a request."""
        entry = (request.deadline_ns, request.id, request)
        entries = self._entries
        if len(entries) == self._first or entries[-1] < entry:
            entries.append(entry)
        else:
            insort(entries, entry, lo=self._first)
        self.rows += request.rows

    def peek(self, position: int = 0) -> Request:
        """The request at a position, 0 being the most urgent.

        Raises:
            IndexError: if there is none.
        """
        if position < 0:
            raise IndexError(position)
        return self._entries[self._first + position][2]

    def __iter__(self) -> Iterator[Request]:
        """All requests, the most urgent first."""
        return (entry[2] for entry in islice(self._entries, self._first, None))

    def rows_until(self, deadline_ns: int) -> int:
        """Rows of the requests that are due by an instant.

        O(1) if all are, logarithmic if all requests have one row, else linear in the requests on the shorter side.
        """
        entries, first = self._entries, self._first
        if len(entries) == first or entries[-1][0] <= deadline_ns:
            return self.rows
        position = self.position_of(deadline_ns)
        if self.rows == len(entries) - first:
            return position
        if position <= len(self) // 2:
            return sum(entry[2].rows for entry in entries[first : first + position])
        return self.rows - sum(entry[2].rows for entry in entries[first + position :])

    def position_of(self, deadline_ns: int) -> int:
        """How many requests are due by an instant."""
        return bisect_left(self._entries, (deadline_ns + 1,), lo=self._first) - self._first

    def pop(self) -> Request:
        """Remove and return the most urgent request.

        Raises:
            IndexError: if the queue is empty.
        """
        request = self._entries[self._first][2]
        self._drop(1, request.rows)
        return request

    def take(self, max_rows: int, max_floor: float, first: int = 0) -> list[Request]:
        """Remove and return the longest run of requests that fits: the most urgent, or those from a position on.

        It ends before the first request that would exceed ``max_rows`` rows or whose accuracy floor lies above
        ``max_floor``: a batch is always contiguous in deadline order. One that is to be `alone` is a run by itself.
        """
        rows, alone = 0, False
        end = begin = self._first + first
        for end in range(begin, len(self._entries)):
            request = self._entries[end][2]
            if (
                rows + request.rows > max_rows
                or request.min_accuracy > max_floor
                or (rows and (alone or request.alone))
            ):
                break
            rows += request.rows
            alone = request.alone
        else:
            end = len(self._entries)
        taken = [entry[2] for entry in self._entries[begin:end]]
        if first:
            del self._entries[begin:end]
            self.rows -= rows
        else:
            self._drop(len(taken), rows)
        return taken

    def remove(self, request: Request) -> bool:
        """Remove a request wherever it stands; False if it is not waiting here."""
        key = (request.deadline_ns, request.id)
        index = bisect_left(self._entries, key, lo=self._first, key=lambda entry: entry[:2])
        if index == len(self._entries) or self._entries[index][2] is not request:
            return False
        del self._entries[index]
        self.rows -= request.rows
        return True

    def _drop(self, count: int, rows: int) -> None:
        self.rows -= rows
        self._first += count
        if self._first >= _COMPACT_AT and self._first * 2 >= len(self._entries):
            del self._entries[: self._first]
            self._first = 0
