"""The two jobs that every server is given: a model that does nothing, and a small CNN."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

#: Every answer is one row of these.
OUTPUT_NAME: Final = "logits"
OUTPUT_VALUES: Final = 10
#: The middle subnet of this bundled model is the CNN.
CNN_MODEL: Final = "digits"


@dataclass(frozen=True)
class Job:
    """What a server is to run.

    ``model`` and ``input_name`` are what V2 clients call it; requests have one row of UINT8 of ``row_shape``.
    """

    name: str
    title: str
    model: str
    input_name: str
    row_shape: tuple[int, ...]
    max_rows: int

    def row(self) -> np.ndarray[Any, Any]:
        """The row that every request carries, (1, *row_shape)."""
        rng = np.random.default_rng(0)
        return rng.integers(0, 17, (1, *self.row_shape), dtype=np.uint8)


NOOP: Final = Job("noop", "(A) no-op model, 3 KB tensor", "noop", "image", (32, 32, 3), 64)
CNN: Final = Job("cnn", "(B) small CNN", CNN_MODEL, "image", (8, 8), 16)
JOBS: Final = {job.name: job for job in (NOOP, CNN)}
