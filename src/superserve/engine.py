"""What runs a subnet on a batch: one interface over every way of doing so.

Nothing here imports torch: the worker process and the profiler are written against this, and fakes in tests
need no model.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

EngineName = Literal["auto", "eager", "compiled", "packed", "graphs"]
"""What a user may ask for; ``auto`` is what has been built for this machine, graphs on a GPU, else eager: see
``serving/choice.py``."""

#: The engine that runs some subnets from packed copies of their weights, and the others on another engine.
PACKED: Final = "packed"

#: 8-bit integers: what the packed engine computes the large layers of a subnet in, and everything else in float32.
INT8: Final = "int8"

Dtype = Literal["auto", "float32", "bfloat16", "int8"]
"""What a user may ask to compute in: ``auto`` is the fastest that was built, else float32. ``int8``, whose
outputs differ by per cents, runs only when it is asked for."""


#: Batches that an `OverlappingEngine` takes before the first of them is collected.
IN_FLIGHT: Final = 2


class EngineChoice(NamedTuple):
    """What runs a model, decided: by ``serving/choice.py``, and by nothing else."""

    device: str
    """``cpu``, ``cuda``, or ``emulated:PROFILE``."""
    engine: str
    """As `Engine.name`."""
    dtype: str
    """As `Engine.dtype`."""
    fallback: str = ""
    """Of `PACKED`: the engine that runs what is not packed, in the dtype of the one copy."""

    @property
    def behind(self) -> "EngineChoice":
        """Of `PACKED`: what runs the subnets that are not packed. Of others: they themselves."""
        return EngineChoice(self.device, self.fallback, one_copy_dtype(self.dtype)) if self.fallback else self

    def __str__(self) -> str:
        return f"{self.engine} {self.dtype} on {self.device}"


def one_copy_dtype(dtype: str) -> str:
    """Dtype of the one copy of the weights that a dtype is computed from: int8 is rounded from float32, per subnet."""
    return "float32" if dtype == INT8 else dtype


class Engine(Protocol):
    """Runs batches on any subnet of one model. Not thread-safe: one caller at a time.

    A subnet is named by its index in ``subnet_ids``.
    """

    @property
    def name(self) -> str:
        """The kind of engine, as profiles name it: ``"eager"``, ``"compiled"``, ``"graphs"``."""

    @property
    def dtype(self) -> str:
        """What it computes in: ``"float32"``, ``"bfloat16"``, ``"int8"``."""

    @property
    def subnet_ids(self) -> tuple[str, ...]:
        """The subnets it can run, in front order: least to most accurate."""

    def actuate(self, subnet: int) -> None:
        """Make a subnet the active one, in place: no weight is copied or loaded."""

    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Actuate a subnet and run it on one batch.

        Args:
            subnet: index into `subnet_ids`.
            inputs: one array (rows, *row_shape) per input of ``config.json``, in its order and of its dtypes.

        Returns:
            One array (rows, *row_shape) per output of ``config.json``, in its order. The arrays may be reused by
            the next call: copy what must outlive it.
        """


@runtime_checkable
class OverlappingEngine(Engine, Protocol):
    """An engine on a device beside the processor: batches are submitted, and collected in the same order.

    `run` is both at once, and is not called while a batch is in flight.
    """

    device_ns: int
    """What the batch that was collected last took by the device's own clock."""

    def submit(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> None:
        """Begin what `run` does; ``inputs`` must stay as they are until it is collected.

        At most `IN_FLIGHT` batches are in flight.
        """

    def done(self) -> bool:
        """Whether the oldest batch in flight can be collected without waiting."""

    def collect(self) -> list[np.ndarray[Any, Any]]:
        """Wait for the oldest batch in flight; its outputs, as `run` returns them.

        Raises:
            RuntimeError: if the device failed at it, after which this process cannot use it any more.
        """

    def spare(self, limit_ns: int | None) -> bool:
        """Prepare something that makes later batches faster, while none is in flight; whether there was anything.

        Args:
            limit_ns: what is expected to take longer is left; None: nobody waits.
        """

    def pin(self, memory: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """Inputs will come from this memory of the host; at most once in a process.

        Raises:
            ConfigError: if it cannot be used.
        """


@runtime_checkable
class ResidentEngine(Engine, Protocol):
    """An engine that runs some of its subnets faster, for the memory that they take beyond the one copy."""

    def reside(self, subnets: Sequence[int]) -> tuple[int, ...]:
        """Have exactly these subnets resident: others give their memory back, new ones are mapped and tried.

        While nothing goes, another thread may run batches meanwhile.

        Returns:
            Those that are resident now: without what could not be mapped or does not run, which standard error says.
        """
