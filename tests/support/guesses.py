"""A model folder with test data, and engines that get as many of its examples wrong as a test wants."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from superserve.model_folder import ModelFolder
from superserve.supernet.hub import save_supernet
from superserve.supernet.points import LabelledExamples
from support.supernets import small_supernet

Array = npt.NDArray[Any]


def guess_examples(examples: int, hard: int, seed: int = 0) -> LabelledExamples:
    """Images of the small supernet whose class stands in a pixel; another pixel says which are hard, the first ones."""
    images = np.random.default_rng(seed).integers(0, 255, (examples, 9, 9, 2), np.uint8)
    labels = np.arange(examples) % 5
    images[:, 0, 0, 0], images[:, 0, 0, 1] = labels, np.arange(examples) < hard
    return LabelledExamples(images, labels)


def guess_folder(path: Path, examples: int = 100, hard: int = 2) -> ModelFolder:
    """The small supernet, of three subnets, with these examples as test data."""
    found = guess_examples(examples, hard)
    return save_supernet(small_supernet(), path, test=(found.inputs, found.labels))


class Guess:
    """Reads the class off the image; on subnets that err, hard ones are wrong.

    Attributes:
        ran: how many batches it has run.
    """

    subnet_ids = ("s0", "s1", "s2")

    def __init__(self, name: str = "eager", dtype: str = "float32", *, errs: Sequence[int] = ()) -> None:
        self.name = name
        self.dtype = dtype
        self.ran = 0
        self._errs = errs

    def actuate(self, subnet: int) -> None:
        pass

    def run(self, subnet: int, inputs: Sequence[Array]) -> list[Array]:
        (x,) = inputs
        self.ran += 1
        wrong = x[:, 0, 0, 1] if subnet in self._errs else 0
        return [np.eye(6, dtype=np.float32)[x[:, 0, 0, 0] + wrong]]
