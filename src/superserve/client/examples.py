"""What a replay sends: example inputs of a model, with labels where they are known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from superserve.client.reply import ModelMetadata, TensorMetadata
from superserve.errors import ModelFolderError, UsageError
from superserve.metrics import UNLABELLED
from superserve.model_folder import DTYPES, TEST_FILE, ModelFolder, bundled_models

#: Distinct requests that a replay prepares: enough to measure accuracy on, few enough to hold encoded.
DEFAULT_COUNT = 2048


@dataclass(frozen=True)
class Examples:
    """One-row requests to draw from.

    ``inputs[i]`` maps tensor names to arrays (1, *row_shape). ``labels``: int64, one per example, `UNLABELLED` where
    it is not known.
    """

    inputs: tuple[Mapping[str, npt.NDArray[Any]], ...]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if not self.inputs or len(self.inputs) != len(self.labels):
            raise UsageError("a replay needs at least one example, and one label for each")

    def __len__(self) -> int:
        return len(self.inputs)


def examples_from_folder(folder: ModelFolder, rng: np.random.Generator, count: int = DEFAULT_COUNT) -> Examples:
    """Rows of a model folder's test data in random order, each at most once.

    Raises:
        ModelFolderError: if the folder carries no test data, or the model has several inputs.
    """
    rows, labels = folder.test_data()
    tensors = folder.config.inputs
    if len(tensors) != 1:
        raise ModelFolderError(f"{folder.path / TEST_FILE}: holds one input, the model has {len(tensors)}")
    drawn = rng.permutation(len(rows))[:count]
    return Examples(tuple({tensors[0].name: rows[i : i + 1]} for i in drawn), labels[drawn].astype(np.int64))


def random_examples(metadata: ModelMetadata, rng: np.random.Generator, count: int = 64) -> Examples:
    """Random tensors that fit a model's declared inputs; variable dimensions other than rows get size 1.

    Raises:
        UsageError: for a datatype that random numbers cannot stand for.
    """
    made = tuple({tensor.name: _random(tensor, rng) for tensor in metadata.inputs} for _ in range(count))
    return Examples(made, np.full(count, UNLABELLED, np.int64))


def examples_for(metadata: ModelMetadata, rng: np.random.Generator) -> Examples:
    """Labelled test data if the model is the bundled one of its name, as far as its inputs show; else random tensors.

    Raises:
        UsageError: for a model of which neither can be had.
    """
    path = bundled_models().get(metadata.name)
    if path is not None:
        folder = ModelFolder(path, bundled=True)
        declared = [(tensor.name, tensor.datatype, tensor.shape) for tensor in folder.config.inputs]
        if folder.carries_test_data and declared == [
            (tensor.name, tensor.datatype, tensor.shape) for tensor in metadata.inputs
        ]:
            return examples_from_folder(folder, rng)
    return random_examples(metadata, rng)


def _random(tensor: TensorMetadata, rng: np.random.Generator) -> npt.NDArray[Any]:
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise UsageError(f"input {tensor.name!r} has datatype {tensor.datatype}: no random example can be made of it")
    shape = (1, *(max(1, size) for size in tensor.shape[1:]))
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    top = 2 if dtype.kind == "b" else min(256, np.iinfo(dtype).max)
    return rng.integers(0, top, shape).astype(dtype)
