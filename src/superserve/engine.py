"""What runs a subnet on a batch: one interface over every way of doing so.

Nothing here imports torch: the worker process and the profiler are written against this, and fakes in tests
need no model.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

EngineName = Literal["auto", "eager", "compiled"]
"""What a user may ask for: ``auto`` is compiled code where a build for this machine is kept, else eager."""

Dtype = Literal["auto", "float32", "bfloat16"]
"""What a user may ask to compute in: ``auto`` is the fastest that was built, else float32."""


class EngineChoice(NamedTuple):
    """What runs a model, decided: by ``serving/choice.py``, and by nothing else."""

    device: str
    """``cpu``, ``cuda``, or ``emulated:PROFILE``."""
    engine: str
    """As `Engine.name`."""
    dtype: str
    """As `Engine.dtype`."""

    def __str__(self) -> str:
        return f"{self.engine} {self.dtype} on {self.device}"


class Engine(Protocol):
    """Runs batches on any subnet of one model. Not thread-safe: one caller at a time.

    A subnet is named by its index in ``subnet_ids``.
    """

    @property
    def name(self) -> str:
        """The kind of engine, as profiles name it: ``"eager"``, ``"compiled"``."""

    @property
    def dtype(self) -> str:
        """What it computes in: ``"float32"``, ``"bfloat16"``."""

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
