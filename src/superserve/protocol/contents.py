"""How tensors stand in the messages of gRPC."""

from collections.abc import Sequence
from typing import Final

from superserve.model_folder import BYTES

#: The field of ``InferTensorContents`` that holds a datatype's elements; FP16 and BF16 have none.
FIELDS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}

#: Field numbers of ``raw_input_contents`` in a request and of ``raw_output_contents`` in a response.
RAW_INPUT: Final = 7
RAW_OUTPUT: Final = 6

_LENGTH_DELIMITED: Final = 2

Buffer = bytes | bytearray | memoryview


def raw_parts(field: int, tensors: Sequence[Buffer]) -> list[Buffer]:
    """Raw contents as pieces of a serialised message, the tensors uncopied.

    Fields of a message may come in any order, and a repeated one in any number of places: these pieces behind a
    message that was serialised without them are the message with them.

    Args:
        field: `RAW_INPUT` or `RAW_OUTPUT`.
        tensors: in wire form.
    """
    tag = bytes([field << 3 | _LENGTH_DELIMITED])
    parts: list[Buffer] = []
    for data in tensors:
        parts += (tag, _varint(len(data)), data)
    return parts


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
