"""Which graphs there are, which is captured next, and which have to go: no torch, no device, no clock."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

#: A capture is expected to take no longer than the longest of so many before it. The first one of a process loads
#: kernels, which takes seconds: it is forgotten after this many.
_REMEMBERED: Final = 16


class Cell(NamedTuple):
    """What a graph is good for: other values of any of these are other kernels, or other addresses."""

    subnet: int
    """A front index."""
    rows: int
    """The padded batch size."""
    shapes: tuple[tuple[int, ...], ...]
    """Of one row of each of the network's arguments: texts are padded to several lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphLimits:
    """Bounds of what is held, and of what it may cost whoever waits."""

    graphs: int = 512
    """How many there are at once."""
    pool_bytes: int = 1 << 30
    """Bytes of the memory pool that they share."""
    after: int = 16
    """Where every place is taken, one is given only to a cell that was asked for this many times since it had none."""

    def __post_init__(self) -> None:
        if min(self.graphs, self.pool_bytes, self.after) < 1:
            raise ValueError(f"{self} must be positive: --engine eager captures no graphs")


class GraphHoldings:
    """The cells that have a graph, and those that want one.

    A batch replays the graph of its cell, or runs eagerly and counts as a wish. Wishes are granted when somebody says
    that there is time (`next`), the most frequent one first. A free place goes to any cell that was ever asked for;
    once all are taken, a cell has to have been asked for `GraphLimits.after` times, and the least recently used one
    goes.

    The pool's bytes are not a sum: all that a forward allocates is free again when its capture ends, so that the next
    one uses it again, and the pool is as large as the largest forward and what does not fit together. It gives nothing
    back while any graph lives. So what makes it too large takes all of them with it, and is not captured again: then
    the others come back into a smaller pool, and after at most as many such ends as there are cells, all fit.

    Args:
        limits: the bounds.
    """

    def __init__(self, limits: GraphLimits) -> None:
        self.pool_bytes = 0
        """Of the pool as it is."""
        self.refused: set[Cell] = set()
        """Cells that stay eager, because they could not be captured or need too much memory."""
        self._limits = limits
        self._held: dict[Cell, None] = {}
        """The least recently used first."""
        self._wishes: Counter[Cell] = Counter()
        self._taken_ns: deque[int] = deque(maxlen=_REMEMBERED)

    @property
    def held(self) -> Sequence[Cell]:
        """The cells that have a graph, the least recently used first."""
        return tuple(self._held)

    def use(self, cell: Cell) -> bool:
        """A batch of this cell is to run: whether its graph is there to be replayed."""
        if cell in self._held:
            del self._held[cell]
            self._held[cell] = None
            return True
        if cell not in self.refused:
            self._wishes[cell] += 1
        return False

    def next(self, limit_ns: int | None) -> Cell | None:
        """The cell to capture now; None if none is wanted enough, or it would take longer than a limit.

        Args:
            limit_ns: what a request may have to wait that comes just when the capture begins; None: nobody can come.
                How long a capture takes is unknown before the first one, which therefore only happens without a limit.
        """
        if not self._wishes or (limit_ns is not None and not 0 < self.expected_ns <= limit_ns):
            return None
        cell, wishes = self._wishes.most_common(1)[0]
        free = len(self._held) < self._limits.graphs
        return cell if free or wishes >= self._limits.after else None

    @property
    def expected_ns(self) -> int:
        """How long the next capture takes, by those before; 0 before the first one."""
        return max(self._taken_ns, default=0)

    def captured(self, cell: Cell, grown_bytes: int, taken_ns: int) -> Sequence[Cell]:
        """A cell has a graph now; returns the cells whose graphs have to go, its own perhaps among them.

        If those are all of them, the pool goes as well.

        Args:
            cell: as `next` said.
            grown_bytes: by how much the capture made the pool larger.
            taken_ns: how long it took.
        """
        assert cell not in self._held, f"{cell} was captured twice"
        self._taken_ns.append(max(1, taken_ns))
        del self._wishes[cell]
        self._held[cell] = None
        self.pool_bytes += grown_bytes
        if self.pool_bytes > self._limits.pool_bytes:
            self.refused.add(cell)
            return self._drop(self.held)
        return self._drop(self.held[: max(0, len(self._held) - self._limits.graphs)])

    def failed(self, cell: Cell) -> None:
        """A cell could not be captured: it is not tried again."""
        del self._wishes[cell]
        self.refused.add(cell)

    def _drop(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        for cell in cells:
            del self._held[cell]
        if not self._held:
            self.pool_bytes = 0
        return cells
