"""What the engine of graphs wants of a device: copies to it that overlap with computations, and graphs of these."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Work = Callable[[], object]
"""Calls of torch that put kernels into the current queue of the device, and wait for none of them."""


class Span(Protocol):
    """Computations from their beginning to their end on the device."""

    def done(self) -> bool:
        """Whether they have ended; does not wait."""

    def wait(self) -> None:
        """Wait for their end.

        Raises:
            RuntimeError: if the device failed at them.
        """

    def taken_ns(self) -> int:
        """What they took by the device's own clock; only once they have ended."""


class Graph(Protocol):
    """Kernels that were captured, with the addresses that they read and write."""

    @property
    def grown_bytes(self) -> int:
        """By how much its capture made the memory pool larger."""

    def replay(self) -> None:
        """Put the kernels into the current queue once more; part of the work of `GraphDevice.submit`.

        Their intermediate results lie in the pool: they are gone with the next replay of any graph.
        """

    def release(self) -> None:
        """It is not replayed any more; the device has to be at rest."""


class GraphDevice(Protocol):
    """A device that captures graphs.

    Work runs in the order in which it was submitted. The copies before it wait for none of it, which is how the inputs
    of a batch travel while another one is computed: their targets must not be read by work that has not ended.
    """

    @property
    def name(self) -> str:
        """As torch names it: ``cuda``."""

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the device outside of the pool, at an address that stays.

        It is there when this returns, and so is everything else that was begun before.
        """

    def host_zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device copies to and from without staging."""

    def pin(self, memory: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """Make memory of the host such memory, for as long as the process lives.

        Raises:
            ConfigError: if the driver refuses.
        """

    def submit(self, targets: Sequence[Tensor], sources: Sequence[Tensor], work: Work) -> Span:
        """Begin to copy from the host, then work that follows these copies and all work that was begun before.

        Both ends of the copies must stay as they are until the work has ended.
        """

    def capture(self, work: Work) -> Graph:
        """Run work once, for kernels to be loaded and chosen, then capture it. The device has to be at rest.

        Raises:
            RuntimeError: if it does something that no graph can hold, or memory is short; the device can be used on.
        """

    def renew_pool(self) -> None:
        """Let the next graphs have a pool of their own: the last of the old one was released."""
