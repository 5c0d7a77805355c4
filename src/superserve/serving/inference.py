"""An inference request and its answer as every protocol means them: no JSON, no protobuf, no HTTP."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from superserve.errors import SuperServeError
from superserve.serving.pool import Buffer


class InputTensor(msgspec.Struct, gc=False):
    """One input as a client sent it.

    ``shape`` includes the rows; ``data`` holds the elements, little-endian and row-major. Front ends see to it that
    the two agree (``data`` is as long as shape x datatype); `ServedModel` checks both against the model.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    data: Buffer


class InferRequest(msgspec.Struct, kw_only=True):
    """What a client asks of a model.

    ``outputs`` names the wanted outputs (None: all of them). ``timeout_us`` and ``slo_ms`` are the client's two ways
    to give a deadline, relative to its arrival; 0 means not given. ``min_accuracy`` is in per cent, ``priority`` as
    in `superserve.request.Request`.
    """

    inputs: Sequence[InputTensor]
    outputs: Sequence[str] | None = None
    timeout_us: int = 0
    slo_ms: float = 0.0
    min_accuracy: float = 0.0
    priority: int = 0


class Answer(msgspec.Struct, eq=False):
    """What a model answered to one request.

    ``subnet`` is a front index, ``batch_rows`` counts the rows of the batch that it ran in, ``rows`` its own.
    ``queue_us`` is the time from its arrival to the launch of its batch, of which it was understood after
    ``decode_us``. The batch was back after ``infer_us`` in the worker and ``wait_us`` on the way.
    ``outputs[j]`` holds the bytes of output tensor ``j``; it is valid only while `Responder.answered` runs.
    """

    subnet: int
    batch_rows: int
    rows: int
    queue_us: int
    infer_us: int
    slo_met: bool
    decode_us: int
    wait_us: int
    outputs: Sequence[memoryview]


class Responder(Protocol):
    """Who waits for the end of a request. Exactly one of the two methods is called, once."""

    def answered(self, answer: Answer) -> None:
        """It ran. Copy or encode the outputs before this returns."""

    def refused(self, error: SuperServeError) -> None:
        """It ended without an answer."""
