"""Tensors of datatype BYTES: elements of any length, where everything else in a batch has a fixed size.

In a batch an element is a *cell*: its wire form, padded to the length that the model allows, so that rows can be told
apart by counting.
"""

from math import prod

from superserve.errors import InvalidRequestError
from superserve.model_folder import BYTES, TensorSpec
from superserve.protocol.byte_strings import LENGTH, join, split
from superserve.serving.pool import Buffer


def to_cells(data: Buffer, rows: int, spec: TensorSpec) -> bytearray:
    """The cells of a wire form with ``rows`` rows.

    Raises:
        InvalidRequestError: if the number of elements or the length of one does not fit ``spec``.
    """
    count, width = rows * prod(spec.row_shape), LENGTH.size + spec.max_bytes
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
        LENGTH.pack_into(cells, at, len(element))
        cells[at + LENGTH.size : at + LENGTH.size + len(element)] = element
    if found != count:
        what = "more" if found > count else str(found)
        raise InvalidRequestError(f"input {spec.name!r}: {what} elements of data, but its shape says {count}")
    return cells


def from_cells(cells: memoryview, spec: TensorSpec) -> list[bytes]:
    """The elements in the cells of an output."""
    width = LENGTH.size + spec.max_bytes
    elements = []
    for at in range(0, len(cells), width):
        (size,) = LENGTH.unpack_from(cells, at)
        elements.append(bytes(cells[at + LENGTH.size : at + LENGTH.size + size]))
    return elements


def wire(output: memoryview, spec: TensorSpec) -> Buffer:
    """An output tensor as it goes over the wire: itself, unless it is BYTES."""
    return join(from_cells(output, spec)) if spec.datatype == BYTES else output
