"""What one thread of this machine sustains: multiply-accumulates, copies, launches of operators."""

from collections.abc import Callable
from typing import Final

import torch

from superserve.clock import NS_PER_MS, NS_PER_S, NS_PER_US, process_cpu_ns
from superserve.levers import Machine, Stream
from superserve.supernet.reduced import TORCH_DTYPES
from superserve.supernet.single_thread import single_thread

#: Of each figure. The best of what fits: whatever else the machine does can only take away from it.
_LONG_NS: Final = 60 * NS_PER_MS

#: Rows and columns of the matrices: large enough that a product takes milliseconds.
_MATRIX: Final = 512
#: From what the first cache holds to what no cache holds.
_BUFFERS: Final = tuple(1 << bits for bits in range(15, 28, 3))
_LAUNCHES: Final = 200


@torch.inference_mode()
def measure_machine(dtype: str) -> Machine:
    """Measure, on the calling thread alone and by its processor time: about half a second."""
    a, b = torch.rand(_MATRIX, _MATRIX), torch.rand(_MATRIX, _MATRIX)
    kind = TORCH_DTYPES[dtype]
    a, b = a.to(kind), b.to(kind)
    product, one = torch.empty_like(a), torch.ones(1)

    def launch() -> None:
        for _ in range(_LAUNCHES):
            one.neg_()

    with single_thread():
        return Machine(
            macs_per_s=_rate(_MATRIX**3, lambda: torch.mm(a, b, out=product)),
            launch_us=_best_ns(launch) / _LAUNCHES / NS_PER_US,
            streams=tuple(_stream(size) for size in _BUFFERS),
        )


def _stream(size: int) -> Stream:
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    return Stream(bytes=2 * size, bytes_per_s=_rate(2 * size, lambda: target.copy_(source)))


def _rate(amount: int, work: Callable[[], object]) -> float:
    return float(round(amount * NS_PER_S / _best_ns(work)))


def _best_ns(work: Callable[[], object]) -> int:
    """The least processor time of one call, after a first one that counts for nothing."""
    work()
    best, spent = _LONG_NS, 0
    while spent < _LONG_NS:
        start = process_cpu_ns()
        work()
        taken = max(1, process_cpu_ns() - start)
        best, spent = min(best, taken), spent + taken
    return best
