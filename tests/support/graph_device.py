"""A device of graphs on the CPU: it records operators as a GPU captures kernels, and is as late as a GPU may be.

What is submitted runs when somebody waits for it, not before. A graph is a list of operators with the very tensors that
they read and wrote when they were captured: replaying it runs no Python of the network, reads no slot of an operator,
and knows no other addresses. What a capture must not do raises, as it does on a GPU.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from superserve.clock import NS_PER_US
from superserve.supernet.graphs import Graph, Span
from superserve.supernet.graphs.device import Work

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operators and keeps each with its arguments and results."""

    def __init__(self, check: Callable[[Sequence[Any], Sequence[Any]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self._check = check

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not: that imports torch's compiler, which takes five seconds and is never asked."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        self._check(tree_leaves((args, kwargs)), tree_leaves(found))
        self.calls.append((func, args, kwargs or {}, found))
        return found


def run(calls: Sequence[Call]) -> None:
    """Run operators again, on the same tensors, into the same results."""
    for func, args, kwargs, found in calls:
        for old, new in zip(tree_leaves(found), tree_leaves(func(*args, **kwargs)), strict=True):
            if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                old.copy_(new)


class RecordedSpan:
    """Operators that are yet to run."""

    def __init__(self, device: "RecordingDevice", upload: Work, calls: Sequence[Call]) -> None:
        self._device = device
        self._upload = upload
        self._calls = calls
        self._looks = 0
        self._ended = False

    def end(self) -> None:
        if self._device.late:
            self._upload()
        run(self._calls)
        self._ended = True

    def done(self) -> bool:
        self._looks += 1
        if self._looks > self._device.looks:
            self.wait()
        return self._ended

    def wait(self) -> None:
        with torch.inference_mode():
            while not self._ended:
                self._device.queue.pop(0).end()

    def taken_ns(self) -> int:
        assert self._ended, "it has not ended"
        return len(self._calls) * NS_PER_US


class RecordedGraph:
    """Operators that were captured."""

    def __init__(self, calls: Sequence[Call], grown_bytes: int) -> None:
        self.grown_bytes = grown_bytes
        self._calls: Sequence[Call] | None = calls
        self.replays = 0

    def replay(self) -> None:
        assert self._calls is not None, "a graph was replayed after its release"
        self.replays += 1
        run(self._calls)

    def release(self) -> None:
        assert self._calls is not None, "a graph was released twice"
        self._calls = None


class RecordingDevice:
    """See `superserve.supernet.graphs.GraphDevice`.

    Args:
        late: whether uploads happen at the last moment, or at the first one: both may be.
        looks: how often `done` says no.
    """

    name = "cpu"

    def __init__(self, *, late: bool = False, looks: int = 0) -> None:
        self.late = late
        self.looks = looks
        self.queue: list[RecordedSpan] = []
        self.graphs: list[RecordedGraph] = []
        self.pools = 1
        self.pinned: list[int] = []
        self.broken = False
        self._pool_bytes = 0
        self._host: set[int] = set()
        self._capturing = False

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        assert not self._capturing, "memory outside of the pool in a capture"
        return torch.zeros(*shape, dtype=dtype)

    def host_zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        found = self.zeros(shape, dtype)
        self._host.add(found.untyped_storage().data_ptr())
        return found

    def pin(self, memory: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self.pinned.append(memory.nbytes)

    def submit(self, targets: Sequence[Tensor], sources: Sequence[Tensor], work: Work) -> Span:
        def upload() -> None:
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)

        recorder = Recorder(lambda *_: None)
        with recorder:  # with the inputs that are there: whoever reads results too early reads those of others
            work()
        span = RecordedSpan(self, upload, recorder.calls)
        self.queue.append(span)
        if not self.late:
            upload()
        return span

    def capture(self, work: Work) -> Graph:
        assert not self.queue, "a capture while the device is busy"
        work()
        if self.broken:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        made: dict[int, int] = {}

        def check(arguments: Sequence[Any], results: Sequence[Any]) -> None:
            for tensor in arguments:
                if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() in self._host:
                    raise RuntimeError("a capture touches memory of the host")
            for found in results:
                if not isinstance(found, Tensor):
                    raise RuntimeError("a capture waits for the device")  # noqa: TRY004  (as torch does)
                made[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()

        recorder = Recorder(check)
        self._capturing = True
        try:
            with recorder:
                work()
        finally:
            self._capturing = False
        grown = max(0, sum(made.values()) - self._pool_bytes)
        self._pool_bytes += grown
        graph = RecordedGraph(recorder.calls, grown)
        self.graphs.append(graph)
        return graph

    def renew_pool(self) -> None:
        self._pool_bytes = 0
        self.pools += 1
