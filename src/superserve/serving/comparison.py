"""Whether two answers of a model to the same row say the same."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from superserve.model_folder import ModelConfig, TensorSpec

#: Outputs that are no class scores agree if they differ by this part of the largest element at most.
_TOLERANCE: Final = 0.01

Array = np.ndarray[Any, Any]


class Comparison(NamedTuple):
    """When two answers, as the bytes of the first output of a row, are the same."""

    words: str
    agree: Callable[[bytes, memoryview], bool]


def comparison(config: ModelConfig) -> Comparison:
    """What is compared of the first output of a model: classes, if it gives a score for each of its labels."""
    spec = config.outputs[0]
    if config.labels and spec.row_shape and spec.row_shape[-1] == len(config.labels):

        def same_classes(served: bytes, reference: memoryview) -> bool:
            one, other = (_elements(spec, data).argmax(axis=-1) for data in (served, reference))
            return bool((one == other).all())

        return Comparison(f"the largest score of {spec.name!r} is the same class's", same_classes)

    def close(served: bytes, reference: memoryview) -> bool:
        one, other = (_elements(spec, data) for data in (served, reference))
        if one.dtype.kind != "f":
            return bool((one == other).all())
        return bool(np.abs(one - other).max() <= _TOLERANCE * np.abs(other).max())

    words = f"{spec.name!r} is equal, or, if of floating point, within {_TOLERANCE:.0%} of its largest element"
    return Comparison(words, close)


def _elements(spec: TensorSpec, data: bytes | memoryview) -> Array:
    """The elements of a row, (*row_shape); bfloat16 as float32, whose upper half it is."""
    elements = np.frombuffer(data, spec.dtype).reshape(spec.row_shape)
    return (elements.astype(np.uint32) << 16).view(np.float32) if spec.datatype == "BF16" else elements
