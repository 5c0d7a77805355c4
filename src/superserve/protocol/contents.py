"""How tensors stand in the messages of gRPC."""

from collections.abc import Iterator, Sequence
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
#: Field numbers of a request's inputs and of the typed contents in each.
INPUTS: Final = 5
TENSOR_CONTENTS: Final = 5

_LENGTH_DELIMITED: Final = 2
#: Wire types whose payload has one size.
_FIXED: Final = {1: 8, 5: 4}

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


def fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The fields of a serialised message, in order, until its end or the first place where it is malformed.

    Yields:
        Field number, bytes of its tag and length, and its payload. What stands in a group counts as beside it.
    """
    at, end = 0, len(message)
    while at < end:
        tag, start = _read_varint(message, at)
        wire_type, size = tag & 7, 0
        if wire_type == _LENGTH_DELIMITED:
            size, start = _read_varint(message, start)
        elif wire_type in _FIXED:
            size = _FIXED[wire_type]
        elif wire_type == 0:
            size = _read_varint(message, start)[1] - start
        if start > end or size > end - start:
            return
        yield tag >> 3, start - at, message[start : start + size]
        at = start + size


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number and the place behind it; a place behind the message's end if there is none."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    return 0, len(message) + 1


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
