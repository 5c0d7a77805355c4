"""Tensors of datatype BYTES: elements of any length, where everything else in a batch has a fixed size.

On the wire, in HTTP's binary data and in gRPC's raw contents alike, an element is its length (4 bytes, little-endian)
and its bytes. In a batch it is a *cell*: the same, padded to the length that the model allows, so that rows can be
told apart by counting.
"""

import struct
from collections.abc import Iterable, Iterator
from math import prod
from typing import Final

from superserve.errors import InvalidRequestError
from superserve.model_folder import BYTES, TensorSpec
from superserve.serving.pool import Buffer

_LENGTH: Final = struct.Struct("<I")


def join(elements: Iterable[bytes]) -> bytes:
    """The wire form of elements."""
    return b"".join([_LENGTH.pack(len(element)) + element for element in elements])


def split(data: Buffer) -> Iterator[memoryview]:
    """The elements of a wire form, as views of it.

    Raises:
        InvalidRequestError: if it ends within one.
    """
    view, at = memoryview(data), 0
    while at < len(view):
        if at + _LENGTH.size > len(view):
            raise InvalidRequestError(f"BYTES data ends within the length of an element, at byte {at}")
        (size,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if at + size > len(view):
            raise InvalidRequestError(f"BYTES data: an element of {size} bytes, but only {len(view) - at} are left")
        yield view[at : at + size]
        at += size


def to_cells(data: Buffer, rows: int, spec: TensorSpec) -> bytearray:
    """The cells of a wire form with ``rows`` rows.

    Raises:
        InvalidRequestError: if the number of elements or the length of one does not fit ``spec``.
    """
    count, width = rows * prod(spec.row_shape), _LENGTH.size + spec.max_bytes
    cells = bytearray(count * width)
    found = 0
    for found, element in enumerate(split(data), start=1):
        if found > count:
            break
        if len(element) > spec.max_bytes:
            raise InvalidRequestError(
                f"input {spec.name!r}: an element of {len(element)} bytes; the model takes {spec.max_bytes} at most"
            )
        at = (found - 1) * width
        _LENGTH.pack_into(cells, at, len(element))
        cells[at + _LENGTH.size : at + _LENGTH.size + len(element)] = element
    if found != count:
        what = "more" if found > count else str(found)
        raise InvalidRequestError(f"input {spec.name!r}: {what} elements of data, but its shape says {count}")
    return cells


def from_cells(cells: memoryview, spec: TensorSpec) -> list[bytes]:
    """The elements in the cells of an output."""
    width = _LENGTH.size + spec.max_bytes
    elements = []
    for at in range(0, len(cells), width):
        (size,) = _LENGTH.unpack_from(cells, at)
        elements.append(bytes(cells[at + _LENGTH.size : at + _LENGTH.size + size]))
    return elements


def wire(output: memoryview, spec: TensorSpec) -> Buffer:
    """An output tensor as it goes over the wire: itself, unless it is BYTES."""
    return join(from_cells(output, spec)) if spec.datatype == BYTES else output
