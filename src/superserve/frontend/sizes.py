"""How large the parts of a request that are read element by element may be.

Raw tensors cost their bytes once. JSON and protobuf cost up to a hundred times their bytes, in memory and in time that
everybody waits for, so they are bounded by what a model can use, not by the limit for bodies.
"""

from collections.abc import Iterator
from math import prod
from typing import Final

from superserve.errors import PayloadTooLargeError
from superserve.model_folder import BYTES, ModelConfig, TensorSpec
from superserve.protocol.contents import INPUTS, RAW_INPUT, TENSOR_CONTENTS, fields

#: Whatever the model: names, shapes, parameters.
FREE_BYTES: Final = 64 * 1024

#: A number in JSON with its comma, line break and indentation, generously.
_NUMBER_BYTES: Final = 64
#: A character of a string may be written as \\uXXXX.
_ESCAPE_BYTES: Final = 6


def json_limit(config: ModelConfig, rows: int) -> int:
    """The longest JSON of a request, in bytes, for a model that takes ``rows`` rows at once."""
    return FREE_BYTES + sum(rows * prod(spec.row_shape) * _element_bytes(spec) for spec in config.inputs)


def most_elements(config: ModelConfig, rows: int) -> int:
    """The largest number of elements of an input, for a model that takes ``rows`` rows at once."""
    return max((rows * prod(spec.row_shape) for spec in config.inputs), default=0)


def _element_bytes(spec: TensorSpec) -> int:
    return _NUMBER_BYTES + (_ESCAPE_BYTES * spec.max_bytes if spec.datatype == BYTES else 0)


def check_infer_message(data: bytes) -> None:
    """Refuse a serialised ``ModelInferRequest`` that is large without its tensors.

    Two bytes of it may become an object of a hundred, so this comes before the parser. What is malformed is left to
    that, and what stands behind it is never parsed.

    Raises:
        PayloadTooLargeError: if names, shapes, parameters and empty tensors take more than `FREE_BYTES`.
    """
    if len(data) <= FREE_BYTES:
        return
    left = FREE_BYTES
    for size in _sizes(memoryview(data), RAW_INPUT):
        left -= size
        if left < 0:
            raise PayloadTooLargeError(
                f"names, shapes and parameters take more than {FREE_BYTES} bytes of the message: send fewer tensors"
            )


def _sizes(message: memoryview, contents: int) -> Iterator[int]:
    """Bytes of one field after the other, contents of tensors left out."""
    for number, header_bytes, payload in fields(message):
        yield header_bytes
        if number == INPUTS and contents == RAW_INPUT:
            yield from _sizes(payload, TENSOR_CONTENTS)
        elif number != contents:
            yield len(payload)
