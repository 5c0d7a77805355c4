"""An engine that does nothing, for SuperServe's own worker process."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from superserve.engine import Engine
from superserve.serving.ipc import Setup


class NoopEngine:
    """Answers zeros at once; see `superserve.engine.Engine`."""

    name = "noop"
    dtype = "float32"
    subnet_ids = ("noop",)

    def __init__(self, outputs: Sequence[np.ndarray[Any, Any]]) -> None:
        self._outputs = outputs

    def actuate(self, subnet: int) -> None:
        """See `Engine.actuate`."""

    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See `Engine.run`."""
        del subnet
        return [output[: len(inputs[0])] for output in self._outputs]


def create_engine(setup: Setup) -> Engine:
    """The engine of one worker."""
    return NoopEngine([np.zeros((setup.spec.max_rows, *spec.row_shape), spec.dtype) for spec in setup.spec.outputs])
