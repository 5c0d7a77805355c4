"""What a server answers, as Python programs see it, whatever the protocol."""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy.typing as npt


class ReplyParameters(
    msgspec.Struct,
    frozen=True,
    rename={
        "subnet": "superserve_subnet",
        "accuracy": "superserve_accuracy",
        "batch_size": "superserve_batch_size",
        "decode_us": "superserve_decode_us",
        "queue_us": "superserve_queue_us",
        "wait_us": "superserve_wait_us",
        "infer_us": "superserve_infer_us",
        "emulated": "superserve_emulated",
    },
):
    """What a server says of how it answered. Servers other than SuperServe leave it all at the defaults."""

    subnet: str = ""
    """Id of the subnet that answered."""
    accuracy: float = float("nan")
    """Its profiled accuracy, in per cent."""
    batch_size: int = 0
    """Rows of the batch that the request ran in."""
    decode_us: float = 0.0
    """From its arrival until it was read and checked."""
    queue_us: float = 0.0
    """From its arrival to the launch of its batch."""
    wait_us: float = 0.0
    """From that launch to the batch's result, less the time in the worker."""
    infer_us: float = 0.0
    """Of its batch, in the worker."""
    slo_met: bool = True
    emulated: bool = False
    """Whether an emulated worker answered: its outputs mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferReply:
    """A decoded infer response."""

    outputs: dict[str, npt.NDArray[Any]]
    """By tensor name; views into the response's bytes where these were binary. BYTES are arrays of `bytes` objects,
    BF16 is widened to float32."""
    parameters: ReplyParameters
    model_name: str
    model_version: str
    id: str
    """The request's own id."""
    request_id: str = ""
    """The server's id of it, in its logs too; empty if it gives none."""


class TensorMetadata(msgspec.Struct, frozen=True):
    """Name, datatype and shape of a model's tensor; -1 is a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """What a server says of a model."""

    name: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    platform: str = ""
    versions: tuple[str, ...] = ()
