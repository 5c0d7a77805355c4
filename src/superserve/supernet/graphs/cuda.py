"""A GPU as `GraphDevice`: two streams, pinned memory, events, and `torch.cuda.CUDAGraph`.

What must be so for graphs is from torch's "CUDA semantics" (CUDA Graphs) and `torch.cuda.graph`: capture on a stream
that is not the default one, after a warm-up there; one pool for graphs that never run at the same time, captured on the
same stream; nothing in a capture waits for the device; addresses stay, since nothing that a graph reads is ever freed.
Graphs of one pool are to be replayed in the order of their captures where one reads what another left in the pool: here
none does, since inputs and outputs lie outside of it, and the order is free.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from superserve.clock import NS_PER_MS
from superserve.errors import ConfigError
from superserve.supernet.graphs.device import Work

#: ``cudaHostRegisterPortable``: pinned for every context of this process.
_PORTABLE: Final = 1


class CudaSpan:
    """See `Span`: two events of the stream that computes."""

    def __init__(self) -> None:
        self.begin: Final = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self.end: Final = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def done(self) -> bool:
        """See `Span.done`."""
        return bool(self.end.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """See `Span.wait`."""
        self.end.synchronize()

    def taken_ns(self) -> int:
        """See `Span.taken_ns`."""
        taken_ms: float = self.begin.elapsed_time(self.end)
        return round(taken_ms * NS_PER_MS)


class CudaCapture:
    """See `Graph`."""

    def __init__(self, graph: torch.cuda.CUDAGraph, grown_bytes: int) -> None:
        self.grown_bytes: Final = grown_bytes
        self._graph = graph

    def replay(self) -> None:
        """See `Graph.replay`."""
        self._graph.replay()

    def release(self) -> None:
        """See `Graph.release`."""
        self._graph.reset()


class CudaDevice:
    """The current GPU; see `GraphDevice`."""

    name: Final = "cuda"

    def __init__(self) -> None:
        self._copies = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._computations = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `GraphDevice.zeros`."""
        zeros = torch.zeros(shape, dtype=dtype, device=self.name)
        torch.cuda.synchronize()  # torch's streams do not wait for the default one
        return zeros

    def host_zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `GraphDevice.host_zeros`."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def pin(self, memory: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """See `GraphDevice.pin`."""
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        status = int(runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, _PORTABLE))
        if status:
            raise ConfigError(
                f"device 'cuda': the driver cannot pin {memory.nbytes} bytes of shared memory (cudaError {status}): "
                "serve with --engine eager"
            )

    def submit(self, targets: Sequence[Tensor], sources: Sequence[Tensor], work: Work) -> CudaSpan:
        """See `GraphDevice.submit`."""
        with torch.cuda.stream(self._copies):
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source, non_blocking=True)
            copied = self._copies.record_event()
        span = CudaSpan()
        with torch.cuda.stream(self._computations):
            self._computations.wait_event(copied)
            span.begin.record()
            work()
            span.end.record()
        return span

    def capture(self, work: Work) -> CudaCapture:
        """See `GraphDevice.capture`."""
        graph = torch.cuda.CUDAGraph()
        # `graph` leaves its stream the current one where the end of a capture fails; this block sets it back.
        with torch.cuda.stream(self._computations):
            work()
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # as `graph` does: what is reserved more after it than now, the pool has
            before = torch.cuda.memory_reserved()
            # Other threads of the process, if there are any, know nothing of the capture and may allocate meanwhile.
            with torch.cuda.graph(graph, self._pool, self._computations, capture_error_mode="thread_local"):
                work()
        return CudaCapture(graph, torch.cuda.memory_reserved() - before)

    def renew_pool(self) -> None:
        """See `GraphDevice.renew_pool`."""
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()
