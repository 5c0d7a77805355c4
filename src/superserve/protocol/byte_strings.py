"""Tensors of datatype BYTES on the wire: in HTTP's binary data and in gRPC's raw contents alike.

An element is its length (4 bytes, little-endian) and its bytes.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from superserve.errors import InvalidRequestError

LENGTH: Final = struct.Struct("<I")


def join(elements: Iterable[bytes]) -> bytes:
    """The wire form of elements."""
    return b"".join([LENGTH.pack(len(element)) + element for element in elements])


def split(data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
    """The elements of a wire form, as views of it.

    Raises:
        InvalidRequestError: if it ends within one.
    """
    view, at = memoryview(data), 0
    while at < len(view):
        if at + LENGTH.size > len(view):
            raise InvalidRequestError(f"BYTES data ends within the length of an element, at byte {at}")
        (size,) = LENGTH.unpack_from(view, at)
        at += LENGTH.size
        if at + size > len(view):
            raise InvalidRequestError(f"BYTES data: an element of {size} bytes, but only {len(view) - at} are left")
        yield view[at : at + size]
        at += size
