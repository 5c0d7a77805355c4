"""What every server is given to run: a model that does nothing, or one subnet of a bundled model."""

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

#: Every answer of the no-op is one row of these.
OUTPUT_NAME: Final = "logits"
OUTPUT_VALUES: Final = 10
#: The middle subnet of this bundled model is the CNN.
CNN_MODEL: Final = "digits"
MIDDLE: Final = "middle"


@dataclass(frozen=True)
class Job:
    """What a server is to run.

    ``model`` and ``input_name`` are what V2 clients call it; requests have one row of ``datatype`` (UINT8 or BYTES).
    ``row_shape`` is that of the UINT8 tensor that servers but ours take: where the model takes ``text``, the ``cell``
    that our workers see. ``subnet`` is an id in the model's front, or ``middle``; empty for the no-op.
    """

    name: str
    title: str
    model: str
    input_name: str
    row_shape: tuple[int, ...]
    max_rows: int
    subnet: str = ""
    values: int = OUTPUT_VALUES
    text: bytes = b""
    cell: bytes = b""

    @property
    def datatype(self) -> str:
        """Of the model's input."""
        return "BYTES" if self.text else "UINT8"

    def row(self) -> np.ndarray[Any, Any]:
        """The row that every request carries to servers but ours, UINT8 (1, *row_shape)."""
        if self.text:
            return np.frombuffer(self.cell, np.uint8).reshape(1, *self.row_shape)
        rng = np.random.default_rng(0)
        return rng.integers(0, 17, (1, *self.row_shape), dtype=np.uint8)

    def wire(self) -> bytes:
        """The row as V2 has it on the wire."""
        return struct.pack("<I", len(self.text)) + self.text if self.text else self.row().tobytes()

    def wire_shape(self) -> tuple[int, ...]:
        """Its shape there."""
        return (1, 1) if self.text else (1, *self.row_shape)


NOOP: Final = Job("noop", "(A) no-op model, 3 KB tensor", "noop", "image", (32, 32, 3), 64)
CNN: Final = Job("cnn", "(B) small CNN", CNN_MODEL, "image", (8, 8), 16, MIDDLE)
JOBS: Final = {job.name: job for job in (NOOP, CNN)}


def job_named(name: str) -> Job:
    """The job of a name."""
    if name in JOBS:
        return JOBS[name]
    from peers.subnet_jobs import subnet_job  # noqa: PLC0415  (needs packages that the no-op servers do not load)

    return subnet_job(*name.split(":", 2))
